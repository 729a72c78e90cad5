package changefeed

import (
	"context"
	"fmt"
	"time"
)

// watch looks at the source beside the stream, until it fails or ctx ends. It measures the slot, and while
// anything is unstored it asks for a sign of life. A server that shuts down admits nobody, yet waits until its
// walsenders are told that everything is stored: if the log stands still, it would wait for us (P7, A21).
func (f *Feed) watch(ctx context.Context, b *batches) error {
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
