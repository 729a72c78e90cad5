package main

import (
	"log/slog"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/nudgesync/nudge/changefeed/changelog"
	"github.com/nudgesync/nudge/internal/devpg/pgtest"
	"github.com/nudgesync/nudge/migrations"
)

// Retention says what it dropped and how far back the log reaches; before there is a log, nothing.
func TestRetentionIsCounted(t *testing.T) {
	dsn := pgtest.Database(t)
	if _, err := migrations.Up(t.Context(), dsn); err != nil {
		t.Fatal(err)
	}
	pool := pgtest.Pool(t, dsn)
	journal, metrics := changelog.Open(pool, "nudge"), prometheus.NewRegistry()
	r := newRetention(journal, time.Hour, slog.New(slog.DiscardHandler), metrics)
	values := func() (dropped, age float64) {
		families, err := metrics.Gather()
		if err != nil || len(families) != 2 {
			t.Fatal(families, err)
		}
		return families[1].GetMetric()[0].GetCounter().GetValue(), families[0].GetMetric()[0].GetGauge().GetValue()
	}
	r.retain(t.Context(), time.Now())
	if dropped, age := values(); dropped != 0 || age != 0 {
		t.Errorf("of no log: %v dropped, %v s", dropped, age)
	}

	w, err := journal.Writer(t.Context(), "test", time.Minute)
	if err == nil {
		t.Fatal("a new log has an epoch")
	}
	state := changelog.State{Epoch: 1, Position: 100, SystemID: "1", Timeline: 1, Database: "app", Config: []byte("{}"), Reason: "first"}
	if err := w.NewEpoch(t.Context(), state); err != nil {
		t.Fatal(err)
	}
	if rolled, err := w.Roll(t.Context(), time.Now().Add(time.Hour)); !rolled || err != nil {
		t.Fatalf("rolled %v, %v", rolled, err)
	}
	execute(t, dsn, `update nudge.segments set created_at = created_at - interval '30 minutes'`)
	r.retain(t.Context(), time.Now())
	if dropped, age := values(); dropped != 0 || age < 1800 {
		t.Errorf("of a young log: %v dropped, %v s", dropped, age)
	}
	execute(t, dsn, `update nudge.segments set created_at = created_at - interval '1 hour' * (segment < (select max(segment) from nudge.segments))::int`)
	r.retain(t.Context(), time.Now().Add(31*time.Minute)) // the second one was opened an hour before that
	if dropped, age := values(); dropped != 1 || age < 1800 || age >= 5400 {
		t.Errorf("of an old log: %v dropped, %v s", dropped, age)
	}
}
