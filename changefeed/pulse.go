package changefeed

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// tend looks at the source beside the stream, until it fails or ctx ends. It measures the slot, and while
// anything is unstored it asks for a sign of life. A server that shuts down admits nobody, yet waits until its
// walsenders are told that everything is stored: if the log stands still, it would wait for us (P7, A21).
func (f *Feed) tend(ctx context.Context, b *batches, release <-chan struct{}) error {
	pulse, sample := time.NewTicker(f.pace.pulse), time.NewTicker(f.pace.sample)
	defer pulse.Stop()
	defer sample.Stop()
	f.measure(ctx)
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-sample.C:
			f.measure(ctx)
			f.lookAtFence(ctx)
		case <-release:
			f.releaseWAL(ctx)
		case <-pulse.C:
			if b.idle() {
				continue
			}
			if err := f.patiently(ctx, func(ctx context.Context, _ func()) error { return f.cfg.Source.Ping(ctx) }); err != nil {
				return fmt.Errorf("the source admits nobody while changes wait to be stored; it may be shutting down: %w", err)
			}
		}
	}
}

// releaseWAL brings the server to let go of WAL that the slot has passed. A slot's restart_lsn moves only
// where the WAL says which transactions are running, which on its own it does every 15 seconds, and at
// checkpoints: a busy neighbour writes gigabytes meanwhile. Making a logical slot has the server write that
// down, on every version and for every role that may replicate; it is dropped at once. Should a transaction
// be open, making it would wait: then there is nothing to let go of.
func (f *Feed) releaseWAL(ctx context.Context) {
	name := f.cfg.Slot[:min(len(f.cfg.Slot), 55)] + "_release" // at most 63
	err := f.patiently(ctx, func(ctx context.Context, _ func()) error {
		return pgx.BeginFunc(ctx, f.cfg.Source, func(tx pgx.Tx) error {
			if _, err := tx.Exec(ctx, `set local statement_timeout = '1s'`); err != nil {
				return err
			}
			if _, err := tx.Exec(ctx, `select pg_create_logical_replication_slot($1, 'pgoutput', true)`, name); err != nil {
				return err
			}
			_, err := tx.Exec(ctx, `select pg_drop_replication_slot($1)`, name)
			return err
		})
	})
	if err != nil {
		f.cfg.Logger.Debug("the server keeps more WAL than the slot needs, for a moment", "error", err)
	}
}

// slotSQL is what keeps WAL on the source (P4): the slot's restart_lsn, and the transactions that pin it.
const slotSQL = `
select coalesce(pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn), 0)::float8,
       coalesce((select extract(epoch from max(clock_timestamp() - xact_start)) from pg_stat_activity where backend_xid is not null), 0)::float8,
       coalesce((select extract(epoch from max(clock_timestamp() - prepared)) from pg_prepared_xacts), 0)::float8
  from pg_replication_slots where slot_name = $1`

// measure samples what the slot costs the source. A failure is not worth more than a word: what matters to
// the stream fails there too.
func (f *Feed) measure(ctx context.Context) {
	var retained, open, prepared float64
	err := f.patiently(ctx, func(ctx context.Context, _ func()) error {
		return f.cfg.Source.QueryRow(ctx, slotSQL, f.cfg.Slot).Scan(&retained, &open, &prepared)
	})
	if err != nil {
		f.cfg.Logger.Debug("the slot was not measured", "error", err)
		return
	}
	m := f.cfg.Metrics
	m.retained.Set(retained)
	m.oldestOpen.Set(open)
	m.oldestReady.Set(prepared)
}

// measureInFailure measures while nothing streams, which is when the slot keeps the most (P4).
func (f *Feed) measureInFailure(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	f.measure(ctx)
}

// fence is what snapshots wait for, as it was last looked at.
type fence struct {
	at    uint64    // State.SnapshotFence
	since time.Time // zero: nothing is open below it
}

// fenceSQL names who is below a transaction id (x.id). Unlike pg_stat_activity, pg_locks tells that to every role.
const fenceSQL = `
with m as (select pg_snapshot_xmin(pg_current_snapshot())::text::bigint as xmin, pg_snapshot_xmax(pg_current_snapshot())::text::bigint as xmax),
     x as (select l.pid, l.transactionid::text::bigint as id, p.gid
             from pg_locks l left join pg_prepared_xacts p on p.transaction = l.transactionid
            where l.locktype = 'transactionid' and l.mode = 'ExclusiveLock' and l.granted),
     below as (select x.pid, x.gid from x, m where ` + widenSQL + ` < $1)
select m.xmin < $1, array(select distinct pid from below where pid is not null), array(select distinct gid from below where gid is not null)
  from m`

// lookAtFence says who keeps every snapshot waiting (P9, A4), once it does so for the second look: most end
// by themselves.
func (f *Feed) lookAtFence(ctx context.Context) {
	var closed bool
	var w waiting
	var at uint64
	err := f.patiently(ctx, func(ctx context.Context, _ func()) error {
		state, err := f.cfg.Log.Feed(ctx)
		if err != nil {
			return err
		}
		at = state.SnapshotFence
		if f.fence.at == at && f.fence.since.IsZero() {
			return nil // it was passed, for good
		}
		return f.cfg.Source.QueryRow(ctx, fenceSQL, int64(at)).Scan(&closed, &w.pids, &w.prepared)
	})
	if err != nil {
		f.cfg.Logger.Debug("the fence was not looked at", "error", err)
		return
	}
	first := f.fence.at != at
	switch {
	case !closed:
		f.fence = fence{at: at}
		f.waiting.Store(nil)
	case first:
		f.fence = fence{at: at, since: time.Now()}
	default:
		w.what, w.since = "snapshots: waiting", f.fence.since
		if f.waiting.Swap(&w) == nil {
			f.cfg.Logger.Warn("devices can't start over while transactions are open that were open before: waiting for them",
				"pids", w.pids, "prepared", w.prepared, "hint", "end them: select pg_terminate_backend(pid), or rollback prepared 'name'")
		}
	}
}
