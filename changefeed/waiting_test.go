package changefeed_test

import (
	"context"
	"strconv"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/nudgesync/nudge/changefeed"
	"github.com/nudgesync/nudge/changefeed/route"
)

// open begins a transaction that has written, and returns its process. It ends with the returned function.
func (r *rig) open() (process string, end func()) {
	r.t.Helper()
	conn, err := pgx.Connect(r.t.Context(), r.dsn)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = conn.Close(context.WithoutCancel(r.t.Context())) })
	if _, err := conn.Exec(r.t.Context(), `begin; insert into items values (100, 1)`); err != nil {
		r.t.Fatal(err)
	}
	return "process " + strconv.Itoa(int(conn.PgConn().PID())), func() {
		r.t.Helper()
		if _, err := conn.Exec(context.WithoutCancel(r.t.Context()), `rollback`); err != nil {
			r.t.Error(err)
		}
	}
}

// names reports whether what the feed waits for is said with all of these words.
func names(feed *changefeed.Feed, words ...string) func() bool {
	return func() bool {
		err := feed.Waiting()
		for _, w := range words {
			if err == nil || !strings.Contains(err.Error(), w) {
				return false
			}
		}
		return true
	}
}

// P9: a feed that was killed while its slot was made leaves a backend that holds the slot, for as long as somebody
// has a transaction open. The next feed names both.
func TestP09OrphanHoldsTheSlot(t *testing.T) {
	r := newRig(t)
	if err := r.log.Claim(t.Context()); err != nil { // as it does first
		t.Fatal(err)
	}
	writer, end := r.open()
	orphan, err := pgx.Connect(t.Context(), r.dsn)
	if err != nil {
		t.Fatal(err)
	}
	made := make(chan error, 1)
	go func() {
		_, err := orphan.Exec(context.WithoutCancel(t.Context()), `select pg_create_logical_replication_slot($1, 'pgoutput')`, r.slot)
		made <- err
	}()
	r.eventually("the slot is held", func() (active bool) {
		r.scan(&active, `select exists (select from pg_replication_slots where slot_name = $1 and active)`, r.slot)
		return active
	})
	var o told
	feed, _ := r.run(o.to)
	r.eventually("both are named", names(feed, "process "+strconv.Itoa(int(orphan.PgConn().PID())), writer))
	r.eventually("that is logged", func() bool { return o.count("does not stream it") > 0 })
	if n := o.count("does not stream it"); n != 1 {
		t.Errorf("%d warnings", n)
	}
	end()
	if err := <-made; err != nil {
		t.Error(err)
	}
	_ = orphan.Close(t.Context())
	r.settle()
	if err := feed.Waiting(); err != nil {
		t.Errorf("still waiting: %v", err)
	}
}

// P9, A4: what keeps every snapshot waiting is said.
func TestP09FenceIsExplained(t *testing.T) {
	r := newRig(t)
	r.exec(`create table lines (id bigint primary key, user_id bigint); alter table lines replica identity full`)
	r.exec(`alter publication nudge add table lines`)
	r.tune = (*changefeed.Feed).MeasureOften
	var o told
	feed, _ := r.run(func(c *changefeed.Config) {
		o.to(c)
		often(c)
		c.Routing = r.routing(map[string]route.Spec{"public.items": {Owner: "user_id"}, "public.lines": {Owner: "user_id"}})
	})
	r.settle()
	r.exec(`drop table lines; create table lines (id bigint primary key, user_id bigint); alter table lines replica identity full`)
	writer, end := r.open()
	r.exec(`alter publication nudge add table lines`)
	r.eventually("the writer is named", names(feed, "snapshots: ", writer))
	r.eventually("that is logged", func() bool { return o.count("can't start over") > 0 })
	if n := o.count("can't start over"); n != 1 {
		t.Errorf("%d warnings", n)
	}
	end()
	r.eventually("nothing is waited for", func() bool { return feed.Waiting() == nil })
}

// P9: so is one that is prepared, and that no process has. Its name is for the log alone.
func TestP09PreparedFenceIsExplained(t *testing.T) {
	r := clusterRig(t, cluster(t, tempDir(t), "max_prepared_transactions", "2"))
	r.tune = (*changefeed.Feed).MeasureOften
	stop := r.start(nil)
	r.settle()
	stop()
	r.released()
	r.exec(`begin; insert into items values (1, 1); prepare transaction 'forgotten'`)
	r.exec(`create table lines (id bigint primary key, user_id bigint); alter table lines replica identity full; alter publication nudge add table lines`)
	var o told
	feed, _ := r.run(func(c *changefeed.Config) { // another configuration: a new fence
		o.to(c)
		c.Routing = r.routing(map[string]route.Spec{"public.items": {Owner: "user_id"}, "public.lines": {Owner: "user_id"}})
	})
	r.eventually("it is said", names(feed, "snapshots: ", "that is prepared"))
	r.eventually("that is logged", func() bool { return o.count("forgotten") > 0 })
	if n := o.count("forgotten"); n != 1 {
		t.Errorf("%d warnings", n)
	}
	r.exec(`rollback prepared 'forgotten'`)
	r.eventually("nothing is waited for", func() bool { return feed.Waiting() == nil })
}

// P4: the slot is measured while nothing streams too.
func TestP04MeasuredInFailure(t *testing.T) {
	r := newRig(t)
	stop := r.start(nil)
	r.settle()
	stop()
	r.released()
	r.exec(`drop publication nudge`)
	r.exec(`select pg_logical_emit_message(false, 'bulk', repeat('x', 1000000))`)
	var o told
	r.start(o.to)
	r.eventually("the slot is measured", func() bool { return o.gauge(t, "nudge_feed_slot_retained_bytes") > 1_000_000 })
}

// gauge is the value of a gauge.
func (o *told) gauge(t *testing.T, name string) float64 {
	t.Helper()
	families, err := o.metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			return f.GetMetric()[0].GetGauge().GetValue()
		}
	}
	return 0
}
