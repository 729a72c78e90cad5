package tail

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/nudgesync/nudge/changefeed/change"
)

const (
	// repairShare of the memory budget is read to close a hole; a wider one is skipped (A22).
	repairShare = 4

	// Bounds of the pause after a round that failed; doubled each time, with jitter.
	minPause = 100 * time.Millisecond
	maxPause = 3 * time.Second
)

// errTooWide ends the reading of a stretch that is not worth its memory.
var errTooWide = errors.New("tail: stretch too wide")

// Run warms the window up from the log, then repairs holes and asks the log whenever nothing was heard for
// Config.Stale. It retries for as long as the log fails, and returns nil when ctx ends. It is called once.
func (t *Tail) Run(ctx context.Context) error {
	defer func() {
		t.mu.Lock()
		t.stopped = true
		t.wake()
		t.mu.Unlock()
	}()
	timer := time.NewTimer(0)
	defer timer.Stop()
	pause := minPause
	for {
		err := t.round(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			t.cfg.Logger.Warn("the log does not answer", "err", err, "retry_in", pause)
			timer.Reset(pause/2 + rand.N(pause/2))
			select {
			case <-timer.C:
			case <-ctx.Done():
				return nil
			}
			pause = min(2*pause, maxPause)
			continue
		}
		pause = minPause
		for {
			d := t.idle()
			if d <= 0 {
				break
			}
			timer.Reset(d)
			select {
			case <-timer.C:
			case <-t.kick:
			case <-ctx.Done():
				return nil
			}
		}
	}
}

// idle is how long the worker may rest: 0 if a round is wanted.
func (t *Tail) idle() time.Duration {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if t.wanted > t.ended {
		return 0
	}
	return t.cfg.Stale - time.Since(t.heard)
}

// round asks the log where it stands and brings the window there. All questions asked before it are answered by it.
func (t *Tail) round(ctx context.Context) error {
	t.mu.Lock()
	t.started++
	t.counts.Rounds++
	number := t.started
	t.mu.Unlock()

	retry, err := true, error(nil)
	for retry && err == nil {
		retry, err = t.catchUp(ctx, number)
	}
	if err != nil {
		err = fmt.Errorf("tail: %w", err)
	}

	t.mu.Lock()
	defer t.mu.Unlock()
	t.ended, t.failure = number, err
	if err == nil {
		t.done = number
	} else {
		t.counts.Failures++
	}
	t.wake()
	return err
}

// catchUp reads from the log what stands after the head and installs it. It is to be retried when a frame
// changed the epoch meanwhile.
func (t *Tail) catchUp(ctx context.Context, round uint64) (retry bool, err error) {
	t.mu.RLock()
	from, warm := t.window.head, t.warm
	t.mu.RUnlock()
	if !warm {
		if from, err = t.cfg.Log.Newest(ctx, t.cfg.MaxBytes); err != nil {
			return false, fmt.Errorf("find the log's newest stretch: %w", err)
		}
	}
	asked := time.Now()
	state, err := t.state(ctx)
	if err != nil {
		return false, err
	}
	f := change.Frame{Epoch: state.Epoch, Config: state.Config, Prev: from, Next: state.Next}
	w := newWindow(f.Next)
	anew := state.Epoch != from.Epoch
	if !anew && from.Before(f.Next) {
		if warm {
			f.Changes, err = t.stretch(ctx, from, f.Next)
		} else {
			w, err = t.load(ctx, from, f.Next)
		}
		anew = errors.Is(err, ErrGone) || errors.Is(err, errTooWide)
		if err != nil && !anew {
			return false, fmt.Errorf("read the log from %s to %s: %w", from, f.Next, err)
		}
	}

	t.write.Lock()
	defer t.write.Unlock()
	head := t.window.head
	switch {
	case !warm:
		t.restart(w, f.Config, asked)
	case head.Epoch != from.Epoch:
		return true, nil
	case state.Epoch != from.Epoch, anew && head.Before(f.Next):
		t.cfg.Logger.Warn("window starts anew", "head", from, "log", f.Next, "cause", err)
		t.restart(w, f.Config, asked)
	case head.Before(f.Next):
		t.advance(f, asked)
	default:
		t.confirm(f, from, asked)
	}
	t.settle(round)
	return false, nil
}

// state asks the log where it stands. A log that takes longer than Config.Stale is away.
func (t *Tail) state(ctx context.Context) (change.Frame, error) {
	ctx, cancel := context.WithTimeout(ctx, t.cfg.Stale)
	defer cancel()
	f, err := t.cfg.Log.State(ctx)
	if err != nil {
		return f, fmt.Errorf("read the log's state: %w", err)
	}
	if f.Next.Epoch != f.Epoch {
		return f, fmt.Errorf("read the log's state: head %s is not of epoch %s", f.Next, f.Epoch)
	}
	return f, nil
}

// stretch reads (after, upto] from the log, or fails with errTooWide.
func (t *Tail) stretch(ctx context.Context, after, upto change.Position) ([]change.Change, error) {
	var changes []change.Change
	budget := t.cfg.MaxBytes / repairShare
	err := t.cfg.Log.Stretch(ctx, after, upto, func(c change.Change) error {
		if budget -= cost(&c); budget < 0 {
			return errTooWide
		}
		changes = append(changes, c)
		return nil
	})
	return changes, err
}

// load reads (after, upto] from the log into a window, which keeps the newest that fit. It may start within a
// transaction: its cursors are exact there, too. If the log does not reach back, the window is empty.
func (t *Tail) load(ctx context.Context, after, upto change.Position) (window, error) {
	w := newWindow(after)
	err := t.cfg.Log.Stretch(ctx, after, upto, func(c change.Change) error {
		w.add(&c)
		w.evict(t.cfg.MaxBytes)
		return nil
	})
	if err != nil {
		return newWindow(upto), err
	}
	w.head = upto
	return w, nil
}

// confirm takes note of a log that has nothing new. from was the head when it was asked. Called with write held.
func (t *Tail) confirm(state change.Frame, from change.Position, asked time.Time) {
	behind := state.Next.Before(from)
	t.mu.Lock()
	t.hear(asked)
	if state.Next == t.window.head {
		t.config = state.Config
	}
	if behind {
		t.counts.LogBehind++
	}
	t.mu.Unlock()
	if behind {
		t.cfg.Logger.Error("the log is behind the tail", "log", state.Next, "tail", from)
	}
}
