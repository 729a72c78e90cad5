package changefeed

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/nudgesync/nudge/changefeed/change"
	"github.com/nudgesync/nudge/changefeed/changelog"
)

// announceEvery is how often the log's position goes out on the bus though nothing is new (A7).
const announceEvery = time.Second

// rollAgain is how long a new segment that met a lock is put off.
const rollAgain = time.Minute

// appender owns the log's writer: it takes what the session has received, waits at the gate, appends,
// and publishes.
type appender struct {
	feed    *Feed
	writer  *changelog.Writer
	batches *batches
	durable *atomic.Uint64 // LSN; what the session reports to the server
	on      instance       // where the stream is
	rollAt  time.Time      // the segment is not looked at before
}

func (a *appender) run(ctx context.Context) error {
	tick := time.NewTicker(announceEvery)
	defer tick.Stop()
	a.announce(ctx)
	for {
		if txs := a.batches.take(); len(txs) > 0 {
			if err := a.store(ctx, txs); err != nil {
				return err
			}
			continue
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-a.batches.more:
		case now := <-tick.C:
			a.announce(ctx)
			if err := a.roll(ctx, now); err != nil {
				return err
			}
		}
	}
}

// roll begins a new segment when the present one is old. Somebody who holds a lock on the log's tables puts that
// off, and is no reason to end the stream.
func (a *appender) roll(ctx context.Context, now time.Time) error {
	if now.Before(a.rollAt) {
		return nil
	}
	err := a.feed.patiently(ctx, func(ctx context.Context, _ func()) error {
		_, err := a.writer.Roll(ctx, now)
		return err
	})
	if pgErr := (*pgconn.PgError)(nil); errors.As(err, &pgErr) && pgErr.Code == "55P03" { // lock_not_available
		a.rollAt = now.Add(rollAgain)
		a.feed.cfg.Logger.Warn("no new segment of the log yet: somebody has its tables locked; trying again", "error", err, "wait", rollAgain)
		return nil
	}
	return err
}

// store makes transactions durable, as many at a time as are visible.
func (a *appender) store(ctx context.Context, txs []transaction) error {
	const least, most = time.Millisecond, 50 * time.Millisecond
	wait := least
	defer func() {
		for i := range txs { // after an error
			txs[i].close()
		}
	}()
	for len(txs) > 0 {
		var n int
		if err := a.feed.patiently(ctx, func(ctx context.Context, _ func()) (err error) {
			n, err = a.visible(ctx, txs)
			return err
		}); err != nil {
			return err
		}
		if n == 0 {
			a.feed.cfg.Metrics.gateWaits.Inc()
			select {
			case <-ctx.Done():
				return context.Cause(ctx)
			case <-time.After(wait):
			}
			wait = min(2*wait, most)
			continue
		}
		wait = least
		if err := a.append(ctx, txs[:n]); err != nil {
			return err
		}
		size := 0
		for i := range txs[:n] {
			size += txs[i].size
			txs[i].close()
		}
		txs = txs[n:]
		a.batches.stored(size, len(txs) == 0)
	}
	return nil
}

// append writes one batch: transactions, or one that was spilled. The position behind it is durable when it
// returns.
func (a *appender) append(ctx context.Context, txs []transaction) error {
	b := changelog.Batch{Next: txs[len(txs)-1].end}
	n := 0
	for i := range txs {
		n += len(txs[i].changes)
	}
	b.Changes = make([]change.Change, 0, n)
	for i := range txs {
		b.Changes = append(b.Changes, txs[i].changes...)
		for table, signature := range txs[i].relations {
			if b.Relations == nil {
				b.Relations = make(map[string]string)
			}
			b.Relations[table] = signature
		}
		if txs[i].config {
			b.Config, b.ConfigHash = a.feed.wanted, a.feed.hash
		}
		if txs[i].config || txs[i].fence {
			if err := a.feed.patiently(ctx, func(ctx context.Context, _ func()) (err error) {
				b.SnapshotFence, err = a.feed.nextXID(ctx)
				return err
			}); err != nil {
				return err
			}
		}
	}
	spilled := txs[0].spilled
	if spilled != nil {
		// Before the append begins: it would keep the feed's row locked meanwhile.
		if err := spilled.Fold(ctx); err != nil {
			return err
		}
		b.Stream = spilled
	}
	before := a.writer.State()
	if err := a.feed.cfg.Failpoint(BeforeAppend); err != nil {
		return err
	}
	started := time.Now()
	if err := a.feed.patiently(ctx, func(ctx context.Context, progress func()) error {
		b.Progress = progress
		return a.writer.Append(ctx, b)
	}); err != nil {
		return err
	}
	if err := a.feed.cfg.Failpoint(AfterAppend); err != nil {
		return err
	}
	a.durable.Store(uint64(b.Next)) // from here on it may be acknowledged (I1)

	if spilled != nil {
		n = spilled.Changes()
		a.feed.cfg.Metrics.spilled.Inc()
		a.feed.cfg.Logger.Info("a large transaction was appended from disk",
			"xid", txs[0].xid, "events", spilled.Events(), "changes", n, "append_seconds", time.Since(started).Seconds())
	}
	m := a.feed.cfg.Metrics
	m.appendTime.Observe(time.Since(started).Seconds())
	m.batchSize.Observe(float64(n))
	m.changes.Add(float64(n))
	m.position.Set(float64(b.Next))
	state := a.writer.State()
	a.feed.cfg.Publish(ctx, change.Frame{
		Epoch: state.Epoch, Config: state.ConfigHash, Prev: before.Head(), Next: state.Head(),
		Changes: b.Changes, HeadsOnly: spilled != nil,
	})
	return nil
}

// announce publishes the log's position, so that a node that missed the last frame finds out.
func (a *appender) announce(ctx context.Context) {
	state := a.writer.State()
	a.feed.cfg.Publish(ctx, change.Frame{Epoch: state.Epoch, Config: state.ConfigHash, Prev: state.Head(), Next: state.Head()})
}
