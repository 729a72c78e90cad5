package changefeed_test

import (
	"testing"
	"time"

	"github.com/nudgesync/nudge/changefeed"
	"github.com/nudgesync/nudge/changefeed/changelog"
	"github.com/nudgesync/nudge/internal/devpg/pgtest"
)

// slowLog has the log take a while for every hundredth change.
const slowLog = `
create function slow() returns trigger language plpgsql as $$ begin perform pg_sleep(0.03); return new; end $$;
create trigger slow before insert on nudge.changes for each row when (new.seq % 100 = 0) execute function slow()`

// P8: a database that bounds its statements bounds the app's, not the log's: an append that was ended for being slow
// would be as slow the next time. A small batch, one in memory, and one from disk.
func TestP08StatementTimeout(t *testing.T) {
	r := newRig(t)
	r.exec(slowLog)
	var o told
	r.start(func(c *changefeed.Config) {
		o.to(c)
		c.SpillBytes = 1_000_000
		c.Log = changelog.Open(pgtest.Pool(t, r.dsn, map[string]string{"statement_timeout": "50ms"}), r.slot)
	})
	r.settle()
	for _, n := range []int{200, 1000, 10_000} {
		r.exec(`insert into items select (select coalesce(max(id), 0) from items) + i, 1, 1, repeat('x', 100) from generate_series(1, $1) i`, n)
		r.settle()
	}
	if n := len(r.all()); n != 11_200 {
		t.Errorf("%d changes", n)
	}
	if o.metric(t, "nudge_feed_spilled_transactions_total", "") != 1 {
		t.Error("nothing was spilled")
	}
}

// P8: an append that goes on is not given up, though it takes longer than a call may; from memory too.
func TestP08SlowAppendGoesOn(t *testing.T) {
	r := newRig(t)
	r.exec(slowLog)
	var o told
	r.start(func(c *changefeed.Config) {
		o.to(c)
		c.Patience = 2 * time.Second
	})
	r.settle()
	r.exec(`insert into items select i, 1, 1, repeat('x', 2000) from generate_series(1, 12000) i`) // more than the network holds, four seconds of it
	r.settle()
	if n := o.count("no answer"); n != 0 {
		t.Errorf("given up %d times", n)
	}
}
