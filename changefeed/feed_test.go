package changefeed_test

import (
	"context"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/nudgesync/nudge/changefeed"
	"github.com/nudgesync/nudge/changefeed/change"
	"github.com/nudgesync/nudge/changefeed/changelog"
	"github.com/nudgesync/nudge/changefeed/route"
	"github.com/nudgesync/nudge/internal/devpg/pgtest"
)

// ops renders changes for comparison: "u user:1 {"id":1}".
func ops(cs []change.Change) []string {
	var out []string
	for _, c := range cs {
		s := string(rune(c.Op)) + " " + string(c.Scope) + " " + string(c.Key)
		if c.Op == change.Reset {
			s = "r " + string(c.Scope) + " " + c.Table + " " + string(c.Reason)
		}
		if c.Origin != "" {
			s += " by " + c.Origin
		}
		out = append(out, s)
	}
	return out
}

func (r *rig) expect(want ...string) {
	r.t.Helper()
	if got := strings.Join(ops(r.all()), "\n"); got != strings.Join(want, "\n") {
		r.t.Errorf("the log is\n%s\nwant\n%s", got, strings.Join(want, "\n"))
	}
}

// A12: a transaction logs its net effect per (scope, key).
func TestA12NetEffect(t *testing.T) {
	r := newRig(t)
	r.start(nil)
	r.settle()
	r.exec(`insert into items values (1, 1), (2, 1), (3, null)`)
	r.exec(`begin; update items set version = 2 where id = 1; update items set version = 3 where id = 1; commit`)
	r.exec(`begin; insert into items values (9, 1); delete from items where id = 9; commit`) // nobody saw it
	r.exec(`begin; update items set user_id = 2 where id = 1; update items set user_id = 3 where id = 1; commit`)
	r.exec(`update items set user_id = 1 where id = 3`)                                                 // from nobody
	r.exec(`update items set user_id = null where id = 2`)                                              // to nobody
	r.exec(`begin; delete from items where id = 3; insert into items values (3, 1, 7); commit`)         // back again
	r.exec(`begin; update items set id = 30 where id = 3; update items set id = 3 where id=30; commit`) // and again
	r.settle()
	r.expect(
		`u user:1 {"id":1}`, `u user:1 {"id":2}`,
		`u user:1 {"id":1}`,
		`d user:1 {"id":1}`, `u user:3 {"id":1}`,
		`u user:1 {"id":3}`,
		`d user:1 {"id":2}`,
		`u user:1 {"id":3}`,
		`u user:1 {"id":3}`,
	)
}

// A15: nothing folds across a truncate, or what was inserted after it would be swept away with the rest.
func TestA15TruncateIsABarrier(t *testing.T) {
	r := newRig(t)
	r.start(nil)
	r.settle()
	r.exec(`insert into items values (1, 1)`)
	r.exec(`begin; update items set version = 2; truncate items; insert into items values (1, 1, 5); commit`)
	r.settle()
	r.expect(`u user:1 {"id":1}`, `u user:1 {"id":1}`, `r * public.items truncate`, `u user:1 {"id":1}`)
}

// P23: the origin is decided at commit, whatever the order in the transaction; two origins are none.
func TestP23Origin(t *testing.T) {
	r := newRig(t)
	r.start(nil)
	r.settle()
	r.exec(`begin; select nudge.origin('phone'); insert into items values (1, 1); commit`)
	r.exec(`begin; insert into items values (2, 1); select nudge.origin('phone'); select nudge.origin('phone'); commit`)
	r.exec(`begin; select nudge.origin('phone'); insert into items values (3, 1); select nudge.origin('tablet'); commit`)
	r.exec(`begin; select nudge.origin('phone'); rollback`)
	r.exec(`begin; select nudge.origin(''); insert into items values (4, 1); commit`)
	r.exec(`begin; select nudge.origin(repeat('x', 500)); insert into items values (5, 1); commit`)
	r.settle()
	r.expect(`u user:1 {"id":1} by phone`, `u user:1 {"id":2} by phone`, `u user:1 {"id":3}`, `u user:1 {"id":4}`, `u user:1 {"id":5}`)
}

// A8: a new configuration takes effect at its place in the WAL, and resets the tables that it changes.
func TestA08NewConfigurationIsAReset(t *testing.T) {
	r := newRig(t)
	stop := r.start(nil)
	r.settle()
	r.exec(`insert into items values (1, 1)`)
	r.settle()
	stop()
	r.exec(`insert into items values (2, 1, 1, 'before')`) // while no feed ran: routed as it was then
	routing := r.routing(map[string]route.Spec{"public.items": {Owner: "user_id", Deny: []string{"body"}}})
	r.start(func(c *changefeed.Config) { c.Routing = routing })
	r.state("the new configuration", func(s changelog.State) bool { return s.ConfigHash == routing.Hash() })
	r.exec(`insert into items values (3, 1, 1, 'after')`)
	r.settle()
	r.expect(`u user:1 {"id":1}`, `u user:1 {"id":2}`, `r * public.items schema`, `u user:1 {"id":3}`)
	rows := r.all()
	if len(rows) != 4 {
		t.FailNow()
	}
	if !strings.Contains(string(rows[1].Row), "before") || strings.Contains(string(rows[3].Row), "after") {
		t.Errorf("rows %s and %s", rows[1].Row, rows[3].Row)
	}
}

// Whatever makes the slot's history doubtful is a new epoch, by itself.
func TestNewEpochWhenTheSlotIsDoubtful(t *testing.T) {
	for name, do := range map[string]string{
		"the slot is gone":             `select pg_drop_replication_slot($1)`,
		"the slot is ahead of the log": `select pg_replication_slot_advance($1, pg_current_wal_lsn())`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			stop := r.start(nil)
			r.exec(`insert into items values (1, 1)`)
			before := r.settle()
			stop()
			r.released()
			r.exec(`insert into items values (2, 1)`) // nobody will ever stream it
			r.exec(do, r.slot)
			r.start(nil)
			s := r.state("a new epoch", func(s changelog.State) bool { return s.Epoch != before.Epoch })
			if s.Epoch <= before.Epoch || s.Reason != name {
				t.Errorf("epoch %v after %v: %s", s.Epoch, before.Epoch, s.Reason)
			}
			r.exec(`insert into items values (3, 1)`)
			r.settle()
			r.expect(`u user:1 {"id":3}`)
		})
	}
}

// I6: a commit that waits for a synchronous standby is decoded, and must not be logged before a new
// snapshot can see it.
func TestI6VisibleBeforeLogged(t *testing.T) {
	r := newRig(t)
	waits := make(chan struct{}, 1000)
	r.start(func(c *changefeed.Config) {
		c.Failpoint = func(s changefeed.Step) error {
			if s == changefeed.AfterDecode {
				waits <- struct{}{}
			}
			return nil
		}
	})
	before := r.settle()
	for len(waits) > 0 {
		<-waits
	}
	cluster := pgtest.Cluster(t)
	admin, err := pgx.Connect(t.Context(), cluster.DSN("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = admin.Close(t.Context()) }()
	set := func(sql string) {
		for _, s := range []string{"set synchronous_commit = local", sql, "select pg_reload_conf()"} {
			if _, err := admin.Exec(t.Context(), s); err != nil {
				t.Fatal(err)
			}
		}
	}
	set(`alter system set synchronous_standby_names = 'nobody'`)
	defer set(`alter system reset synchronous_standby_names`)
	commitsWait(t, r.dsn)

	writer, err := pgx.Connect(t.Context(), r.dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = writer.Close(t.Context()) }()
	waiting := func() (n int) {
		if err := admin.QueryRow(t.Context(), `select count(*) from pg_stat_activity where wait_event = 'SyncRep'`).Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	done := make(chan error, 1)
	go func() {
		_, err := writer.Exec(t.Context(), `insert into items values (1, 1)`)
		done <- err
	}()
	for deadline := time.Now().Add(20 * time.Second); waiting() == 0; {
		if time.Now().After(deadline) {
			t.Fatal("the writer never waited for the standby")
		}
	}
	<-waits // it is decoded
	// Other commits, with their own changes, stay behind it: the log is in commit order.
	r.exec(`insert into items values (2, 1)`)
	<-waits
	for range 20 { // the gate has been asked many times meanwhile
		if s, err := r.log.Feed(t.Context()); err != nil || s.Position != before.Position {
			t.Fatalf("the log moved from %v to %v, %v", before.Position, s.Position, err)
		}
		var visible int
		if err := r.db.QueryRow(t.Context(), `select count(*) from items where id = 1`).Scan(&visible); err != nil || visible != 0 {
			t.Fatalf("%d visible, %v", visible, err)
		}
	}
	set(`alter system reset synchronous_standby_names`)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	r.settle()
	r.expect(`u user:1 {"id":1}`, `u user:1 {"id":2}`)
}

// A21: of a batch, what is visible is appended, though what follows it is not yet.
func TestA21VisiblePrefixIsAppended(t *testing.T) {
	r := newRig(t)
	decoded, appending, release := make(chan struct{}, 1000), make(chan struct{}), make(chan struct{})
	var hold atomic.Bool // the next append
	r.start(func(c *changefeed.Config) {
		c.Failpoint = func(s changefeed.Step) error {
			switch {
			case s == changefeed.AfterDecode:
				decoded <- struct{}{}
			case s == changefeed.BeforeAppend && hold.CompareAndSwap(true, false):
				close(appending)
				<-release
			}
			return nil
		}
	})
	goOn := sync.OnceFunc(func() { close(release) })
	t.Cleanup(goOn)
	r.settle()
	hold.Store(true)
	r.exec(`insert into items values (1, 1)`)
	<-appending
	for len(decoded) > 0 {
		<-decoded
	}
	// Two commits wait for the appender, and the second one for a standby too.
	r.exec(`insert into items values (2, 1)`)
	<-decoded
	admin := set(t, pgtest.Cluster(t), "synchronous_standby_names", "nobody")
	commitsWait(t, r.dsn)
	done := make(chan error, 1)
	go func() {
		writer, err := pgx.Connect(context.Background(), r.dsn)
		if err == nil {
			_, err = writer.Exec(context.Background(), `insert into items values (3, 1)`)
			_ = writer.Close(context.Background())
		}
		done <- err
	}()
	<-decoded
	goOn()
	r.eventually("the first one is logged", func() bool { return len(r.all()) == 2 })
	r.expect(`u user:1 {"id":1}`, `u user:1 {"id":2}`)
	admin(`alter system reset synchronous_standby_names`)
	admin(`select pg_reload_conf()`)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	r.settle()
	r.expect(`u user:1 {"id":1}`, `u user:1 {"id":2}`, `u user:1 {"id":3}`)
}

// The publication is checked before streaming: 14 to 17 wedge for good without it, 18 is silent (P13).
func TestP13PublicationIsChecked(t *testing.T) {
	r := newRig(t)
	r.exec(`drop publication nudge`)
	var refused atomic.Bool
	r.start(func(c *changefeed.Config) {
		c.Logger = logTo(func(line string) {
			if strings.Contains(line, "check_publication") {
				refused.Store(true)
			}
		})
	})
	r.eventually("it is refused", refused.Load)
	var feeds, slots int
	r.scan(&feeds, `select count(*) from nudge.feed`)
	r.scan(&slots, `select count(*) from pg_replication_slots where slot_name = $1`, r.slot)
	if feeds != 0 || slots != 0 {
		t.Errorf("%d feeds, %d slots", feeds, slots)
	}
	r.exec(`create publication nudge for table items`)
	s := r.settle() // it comes by itself once the publication is there
	r.exec(`insert into items values (1, 1)`)
	if again := r.settle(); again.Epoch != s.Epoch {
		t.Errorf("a new epoch: %s", again.Reason)
	}
	r.expect(`u user:1 {"id":1}`)
}
