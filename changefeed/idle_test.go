package changefeed_test

import (
	"context"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/nudgesync/nudge/changefeed"
	"github.com/nudgesync/nudge/internal/devpg/pgtest"
)

// retained is the WAL that the server keeps for the slot, bytes.
func (r *rig) retained() (bytes int64) {
	r.t.Helper()
	if err := r.db.QueryRow(r.t.Context(), `
select pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)::bigint from pg_replication_slots where slot_name = $1`, r.slot).Scan(&bytes); err != nil {
		r.t.Fatal(err)
	}
	return bytes
}

// P4: while another database writes without end and ours is idle, the WAL kept for our slot stays small.
// NUDGE_LONG writes 2 GB.
func TestP04IdleWhileOthersWrite(t *testing.T) {
	r := newRig(t)
	megabytes := 256
	if long() {
		megabytes = 2048
	}
	r.start(nil)
	r.settle()
	other, err := pgx.Connect(t.Context(), pgtest.Database(t))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = other.Close(context.WithoutCancel(t.Context())) }()
	var most int64
	for range megabytes {
		if _, err := other.Exec(t.Context(), `
select pg_logical_emit_message(true, 'bulk', repeat('x', 1000000))`); err != nil {
			t.Fatal(err)
		}
		most = max(most, r.retained())
	}
	t.Logf("at most %d MiB were kept", most>>20)
	if most > 64<<20 {
		t.Errorf("%d MiB were kept for the slot", most>>20)
	}
}

// P4: an open transaction pins the slot's restart_lsn, and nothing else; the metrics say so.
func TestP04OpenTransactionPinsOnlyTheSlot(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	stop := r.start(nil)
	r.settle()
	stop()
	r.released()
	open, err := r.db.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = open.Rollback(context.WithoutCancel(t.Context())) }()
	if _, err := open.Exec(t.Context(), `insert into items values (1000, 1)`); err != nil {
		t.Fatal(err)
	}
	metrics := prometheus.NewRegistry()
	r.tune = (*changefeed.Feed).MeasureOften
	stop = r.start(func(c *changefeed.Config) { c.Metrics = changefeed.NewMetrics(metrics) })
	for range 3 {
		r.exec(`insert into items select i + coalesce((select max(id) + 1 from items), 0), 2, 1, (select string_agg(md5(random()::text), '') from generate_series(1, 30000)) from generate_series(1, 5) i`)
		r.exec(`checkpoint`)
		r.settle() // the log goes on
	}
	gauge := func(name string) float64 {
		families, err := metrics.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range families {
			if f.GetName() == name {
				return f.GetMetric()[0].GetGauge().GetValue()
			}
		}
		t.Fatalf("no %s", name)
		return 0
	}
	r.eventually("the metrics show it", func() bool {
		return gauge("nudge_feed_slot_retained_bytes") > 10<<20 && gauge("nudge_feed_oldest_transaction_seconds") > 0
	})
	if err := open.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.eventually("the slot is let go", func() bool {
		r.exec(`checkpoint`)
		r.settle()
		return gauge("nudge_feed_slot_retained_bytes") < 10<<20
	})
	stop()
	r.check()
}
