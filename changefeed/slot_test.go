package changefeed_test

import (
	"context"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/nudgesync/nudge/changefeed"
	"github.com/nudgesync/nudge/changefeed/changelog"
	"github.com/nudgesync/nudge/internal/devpg"
	"github.com/nudgesync/nudge/internal/devpg/pgtest"
)

// told is what a feed says: its log's warnings and its metrics.
type told struct {
	metrics *prometheus.Registry
	mu      sync.Mutex
	lines   []string
}

func (o *told) to(c *changefeed.Config) {
	o.metrics = prometheus.NewRegistry()
	c.Metrics = changefeed.NewMetrics(o.metrics)
	c.Logger = logTo(func(line string) {
		o.mu.Lock()
		defer o.mu.Unlock()
		o.lines = append(o.lines, line)
	})
}

// count is the number of lines at a level of at least WARN that have the text.
func (o *told) count(text string) (n int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, line := range o.lines {
		if strings.Contains(line, text) && (strings.Contains(line, "level=WARN") || strings.Contains(line, "level=ERROR")) {
			n++
		}
	}
	return n
}

// metric sums a family's counters; label, if not "", is the value of one that counts alone.
func (o *told) metric(t *testing.T, name, label string) (sum float64) {
	t.Helper()
	families, err := o.metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == name && (label == "" || len(m.GetLabel()) == 1 && m.GetLabel()[0].GetValue() == label) {
				sum += m.GetCounter().GetValue()
			}
		}
	}
	return sum
}

// expectEpoch waits for the feed's new epoch: by itself, with one line of its log and one count that say why.
func (o *told) expectEpoch(r *rig, before changelog.State, reason string) {
	r.t.Helper()
	if s := r.epochAfter(before); s.Reason != reason {
		r.t.Errorf("reason %q, want %q", s.Reason, reason)
	}
	r.exec(`insert into items values (2, 1)`)
	r.settle()
	r.expect(`u user:1 {"id":2}`)
	if n := o.count(`reason="` + reason + `"`); n != 1 || o.count("") != 1 {
		r.t.Errorf("%d lines give the reason, of %d", n, o.count(""))
	}
	if n := o.metric(r.t, "nudge_feed_epochs_total", reason); n != 1 {
		r.t.Errorf("%v epochs are counted for it", n)
	}
}

// set changes a setting of the cluster until the test ends.
func set(t *testing.T, c *devpg.Cluster, name, value string) (exec func(string)) {
	t.Helper()
	admin, err := pgx.Connect(t.Context(), c.DSN("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	exec = func(sql string) {
		t.Helper()
		if _, err := admin.Exec(context.WithoutCancel(t.Context()), sql); err != nil {
			t.Fatal(err)
		}
	}
	exec(`alter system set ` + name + ` = '` + value + `'`)
	exec(`select pg_reload_conf()`)
	t.Cleanup(func() {
		exec(`alter system reset ` + name)
		exec(`select pg_reload_conf()`)
		_ = admin.Close(context.WithoutCancel(t.Context()))
	})
	return exec
}

// P9: a slot that has lost WAL is replaced, by itself.
func TestP09LostSlot(t *testing.T) {
	r := newRig(t)
	stop := r.start(nil)
	before := r.settle()
	stop()
	r.released()
	exec := set(t, pgtest.Cluster(t), "max_slot_wal_keep_size", "1MB")
	r.exec(`insert into items values (1, 1)`) // will never be streamed
	r.eventually("the slot is lost", func() (lost bool) {
		exec(`select pg_logical_emit_message(false, 'bulk', repeat('x', 1000000))`)
		exec(`select pg_switch_wal()`)
		exec(`checkpoint`)
		r.scan(&lost, `select wal_status = 'lost' from pg_replication_slots where slot_name = $1`, r.slot)
		return lost
	})
	var o told
	r.start(o.to)
	o.expectEpoch(r, before, "the slot has lost WAL")
}

// P9: Postgres 18 can also give up slots that nobody read for a while; older ones can't.
func TestP09IdleSlot(t *testing.T) {
	r := newRig(t)
	stop := r.start(nil)
	before := r.settle()
	stop()
	r.released()
	if r.version() < 180000 {
		var n int
		r.scan(&n, `select count(*) from pg_settings where name = 'idle_replication_slot_timeout'`)
		if n != 0 {
			t.Error("the server has a timeout for idle slots")
		}
		return
	}
	exec := set(t, pgtest.Cluster(t), "idle_replication_slot_timeout", "1s")
	r.exec(`insert into items values (1, 1)`) // will never be streamed
	r.eventually("the slot is given up", func() (lost bool) {
		exec(`checkpoint`)
		r.scan(&lost, `select coalesce(invalidation_reason = 'idle_timeout', false) from pg_replication_slots where slot_name = $1`, r.slot)
		return lost
	})
	var o told
	r.start(o.to)
	o.expectEpoch(r, before, "the slot was idle for too long")
}

// P9: a slot that another reads is waited for, in silence; it is no failure.
func TestP09BusySlotIsWaitedFor(t *testing.T) {
	r := newRig(t)
	stop := r.start(nil)
	before := r.settle()
	var o told
	r.start(o.to)
	r.eventually("the second feed has tried", func() bool {
		o.mu.Lock()
		defer o.mu.Unlock()
		return len(o.lines) > 1 // at debug level
	})
	if n, lines := o.metric(t, "nudge_feed_failures_total", ""), o.count(""); n != 0 || lines != 0 {
		t.Errorf("%v failures, %d warnings", n, lines)
	}
	stop()
	r.exec(`insert into items values (1, 1)`)
	if s := r.settle(); s.Epoch != before.Epoch {
		t.Errorf("a new epoch: %s", s.Reason)
	}
	r.expect(`u user:1 {"id":1}`)
}

// P9: at the first start, a slot of that name is somebody else's, and stays. Unless this log was about to make it.
func TestP09ForeignSlotStays(t *testing.T) {
	r := newRig(t)
	r.exec(`select pg_create_logical_replication_slot($1, 'pgoutput')`, r.slot)
	at := r.confirmed()
	var o told
	stop := r.start(o.to)
	r.eventually("it is refused", func() bool { return o.count("check_slot") > 0 })
	stop()
	if now := r.confirmed(); now != at {
		t.Errorf("the slot was at %s and is at %s", at, now)
	}
	if err := r.log.Claim(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.start(nil)
	r.settle()
}

// P9: making a slot waits for every open writer. Who that is can be asked meanwhile.
func TestP09OpenWriterIsNamed(t *testing.T) {
	r := newRig(t)
	writer, err := pgx.Connect(t.Context(), r.dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = writer.Close(context.WithoutCancel(t.Context())) }()
	tx, err := writer.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), `insert into items values (1, 1)`); err != nil {
		t.Fatal(err)
	}
	// Longer than statements may wait for locks: this one may.
	r.exec(`do $$ begin execute format('alter database %I set lock_timeout = ''200ms''', current_database()); end $$`)
	r.db.Reset()
	var o told
	feed, _ := r.run(o.to)
	pid := "process " + strconv.Itoa(int(writer.PgConn().PID()))
	r.eventually("the writer is named", func() bool {
		err := feed.Waiting()
		return err != nil && strings.Contains(err.Error(), pid) && strings.Contains(err.Error(), "for ")
	})
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.settle()
	if err := feed.Waiting(); err != nil {
		t.Errorf("still waiting: %v", err)
	}
	if n, failures := o.count("waiting for them"), o.metric(t, "nudge_feed_failures_total", ""); n != 1 || failures != 0 {
		t.Errorf("%d warnings, %v failures", n, failures)
	}
	r.exec(`insert into items values (2, 1)`)
	r.settle()
	r.expect(`u user:1 {"id":2}`) // the first one belongs to snapshots (A4)
}

// P6: from 17 on, standbys that synchronize slots have a copy of ours, one that stays. The timeline ends the
// epoch all the same, and the copy is not left behind.
func TestP06FailoverSlot(t *testing.T) {
	primaryDir, dir := tempDir(t), tempDir(t)
	primary := cluster(t, primaryDir)
	r := clusterRig(t, primary)
	r.exec(`select pg_create_physical_replication_slot('standby', true)`)
	if r.version() < 170000 {
		var n int
		r.scan(&n, `select count(*) from pg_attribute where attrelid = 'pg_replication_slots'::regclass and attname = 'failover'`)
		if n != 0 {
			t.Error("slots can fail over, and ours is not told to")
		}
		return
	}
	r.db.Reset()
	copyStopped(t, primary, primaryDir, dir)
	stop := r.start(nil)
	r.exec(`insert into items values (1, 1)`)
	r.settle()
	standby := cluster(t, dir, "primary_slot_name", "standby", "hot_standby_feedback", "on", "sync_replication_slots", "on")

	admin, err := pgx.Connect(t.Context(), standby.DSN("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = admin.Close(context.WithoutCancel(t.Context())) }()
	slots := func(condition string) (n int) {
		t.Helper()
		if err := admin.QueryRow(t.Context(), `select count(*) from pg_replication_slots where slot_type = 'logical' and `+condition).Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	for deadline := time.Now().Add(60 * time.Second); slots(`synced and not temporary and invalidation_reason is null`) != 1; {
		if time.Now().After(deadline) {
			t.Fatal("the standby has no copy that stays")
		}
		r.settle() // what lets it become one: positions that are confirmed
	}
	before := r.settle()
	r.eventually("the standby has followed", func() (followed bool) {
		if err := admin.QueryRow(t.Context(), `select pg_last_wal_replay_lsn() >= $1::pg_lsn`, before.Position.String()).Scan(&followed); err != nil {
			t.Fatal(err)
		}
		return followed
	})
	stop()
	r.db.Close()
	if err := primary.Kill(); err != nil {
		t.Fatal(err)
	}
	if _, err := admin.Exec(t.Context(), `select pg_promote()`); err != nil {
		t.Fatal(err)
	}
	if slots(`synced`) != 1 {
		t.Error("the copy did not survive the promotion")
	}
	after := connectRig(t, standby.DSN("postgres"))
	after.start(nil)
	if s := after.epochAfter(before); s.Reason != "another timeline" {
		t.Errorf("reason %q", s.Reason)
	}
	after.exec(`insert into items values (2, 1)`)
	after.settle()
	after.expect(`u user:1 {"id":2}`)
	if slots(`failover and not temporary`) != 1 || slots(`true`) != 1 {
		t.Error("a slot is left behind, or can't fail over again")
	}
}
