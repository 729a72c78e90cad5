package changefeed_test

import (
	"testing"

	"github.com/nudgesync/nudge/changefeed"
	"github.com/nudgesync/nudge/changefeed/changelog"
	"github.com/nudgesync/nudge/changefeed/value"
	"github.com/nudgesync/nudge/internal/devpg/pgtest"
)

// P5: source.dsn is a name that comes to lead to another server, while the old one lives on. What the pool's kept
// connections see there is not compared with the new one, nor anything done to it.
func TestP05NameLeadsElsewhere(t *testing.T) {
	for _, when := range []string{"while stopped", "while streaming"} {
		t.Run(when, func(t *testing.T) {
			t.Parallel()
			dir, copied := tempDir(t), tempDir(t)
			old := cluster(t, dir)
			r := clusterRig(t, old)
			store := newRig(t) // the log is elsewhere, and stays
			r.log = changelog.Open(store.db, r.slot)
			w := newWire(t, r.dsn)
			pool := pgtest.Pool(t, w.dsn, value.SessionSettings())
			through := func(c *changefeed.Config) { often(c); c.DSN, c.Source = w.dsn, pool }
			stop := r.start(through)
			r.settle()
			stop()
			r.released()
			// The other server is a copy from before what comes next.
			pool.Reset()
			r.db.Reset()
			if err := old.Stop(t.Context()); err != nil {
				t.Fatal(err)
			}
			copyData(t, dir, copied)
			if err := old.Restart(t.Context()); err != nil {
				t.Fatal(err)
			}
			stop = r.start(through)
			r.exec(`insert into items select i, 1 from generate_series(100, 5000) i`)
			before := r.settle()
			fresh := cluster(t, copied)
			other := connectRig(t, fresh.DSN("postgres"))
			other.slot, other.log = r.slot, r.log
			if when == "while stopped" {
				stop()
				r.released()
			}
			if err := pool.Ping(t.Context()); err != nil { // it keeps a connection to the old one
				t.Fatal(err)
			}
			w.lead(fresh)
			if when == "while stopped" {
				other.start(through)
			} else {
				pool.Reset() // its new ones lead to the other
			}
			if s := other.epochAfter(before); s.Reason != "the server is behind the log" {
				t.Errorf("reason %q", s.Reason)
			}
			other.exec(`insert into items values (1, 1)`)
			other.settle()
			other.expect(`u user:1 {"id":1}`)
			var slots int
			r.scan(&slots, `select count(*) from pg_replication_slots where slot_name = $1`, r.slot)
			if slots != 1 {
				t.Error("the slot on the old server is gone")
			}
		})
	}
}
