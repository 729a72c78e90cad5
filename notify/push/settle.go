package push

import (
	"context"
	"log/slog"
	"time"
)

// linger is how long results gather while more are expected.
const linger = 50 * time.Millisecond

// settle writes results, many in a statement, until no more can come. It goes on until ctx ends.
func (l *lane) settle(ctx context.Context) {
	var batch []Result
	gather := time.NewTimer(linger)
	defer gather.Stop()
	ripen := time.NewTicker(time.Second)
	defer ripen.Stop()
	for {
		select {
		case r, more := <-l.done:
			if !more {
				l.mu.Lock()
				batch = append(batch, l.guard.pardon(spread(time.Minute, time.Minute))...) // nobody waits to see what comes next
				l.mu.Unlock()
				l.write(ctx, batch)
				return
			}
			if batch = append(batch, r); len(batch) == 1 {
				gather.Reset(linger)
			}
			if len(batch) < mostSettled && l.expects(len(batch)) {
				continue
			}
		case <-gather.C:
		case <-ripen.C:
			l.mu.Lock()
			if l.breaker.state == closed {
				batch = append(batch, l.guard.ripe(time.Now())...)
			} else { // whatever opened it may be what they were held for
				batch = append(batch, l.guard.pardon(l.reopens(time.Now()))...)
			}
			l.mu.Unlock()
		}
		l.write(ctx, batch)
		batch = batch[:0]
	}
}

// expects is whether more results are on their way.
func (l *lane) expects(have int) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.held-len(l.guard.held) > have
}

// write settles a batch. While the store is away it tries again: as long as the results are held, nothing more is
// claimed than fits.
func (l *lane) write(ctx context.Context, batch []Result) {
	if len(batch) == 0 {
		return
	}
	started := time.Now()
	for pause := 100 * time.Millisecond; ; pause = min(2*pause, 5*time.Second) {
		attempt, cancel := context.WithTimeout(ctx, l.cfg.Lease/4) // a database may have gone silent
		err := l.cfg.Store.Settle(attempt, batch)
		cancel()
		if err == nil {
			break
		}
		if gone := time.Since(started) > l.cfg.Lease; gone || ctx.Err() != nil {
			// The claims come back by themselves: pushes too many, nothing lost.
			l.log.LogAttrs(ctx, slog.LevelError, "push: answers cannot be stored and are dropped", slog.String("sender", l.Name),
				slog.Int("answers", len(batch)), slog.Any("error", err))
			break
		}
		l.log.LogAttrs(ctx, slog.LevelWarn, "push: answers cannot be stored", slog.String("sender", l.Name), slog.Any("error", err))
		l.sleep(ctx, pause, nil)
	}
	l.mu.Lock()
	l.held -= len(batch)
	l.mu.Unlock()
	notify(l.freed)
}
