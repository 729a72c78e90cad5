package changefeed_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/nudgesync/nudge/changefeed"
	"github.com/nudgesync/nudge/changefeed/change"
	"github.com/nudgesync/nudge/changefeed/changelog"
	"github.com/nudgesync/nudge/changefeed/route"
	"github.com/nudgesync/nudge/internal/devpg/pgtest"
)

// confirmed is what the server knows to be durable.
func (r *rig) confirmed() change.LSN {
	r.t.Helper()
	var at string
	if err := r.db.QueryRow(r.t.Context(), `select confirmed_flush_lsn::text from pg_replication_slots where slot_name = $1`, r.slot).Scan(&at); err != nil {
		r.t.Fatal(err)
	}
	lsn, err := change.ParseLSN(at)
	if err != nil {
		r.t.Fatal(err)
	}
	return lsn
}

// eventually waits until ok.
func (r *rig) eventually(what string, ok func() bool) {
	r.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); {
		if time.Now().After(deadline) {
			r.t.Fatalf("not yet after 30 s: %s", what)
		}
		<-time.After(10 * time.Millisecond)
	}
}

// released waits until a feed that was stopped has left the slot: its walsender ends a little later.
func (r *rig) released() {
	r.t.Helper()
	r.eventually("the slot is free", func() bool {
		var active bool
		if err := r.db.QueryRow(r.t.Context(), `select active from pg_replication_slots where slot_name = $1`, r.slot).Scan(&active); err != nil {
			r.t.Fatal(err)
		}
		return !active
	})
}

// P1, P2: the server is told the end of the last stored transaction, exactly; starting again from there
// repeats nothing and skips nothing.
func TestP02ResumeAtTheEnd(t *testing.T) {
	r := newRig(t)
	stop := r.start(nil)
	r.settle() // what is written before the slot is made belongs to snapshots
	r.exec(`insert into items values (1, 1)`)
	s := r.settle()
	r.eventually("the stored position is confirmed", func() bool { return r.confirmed() == s.Position })
	stop()
	r.exec(`insert into items values (2, 1)`)
	if at := r.confirmed(); at != s.Position {
		t.Errorf("confirmed %s, stored %s", at, s.Position)
	}
	r.start(nil)
	r.settle()
	r.expect(`u user:1 {"id":1}`, `u user:1 {"id":2}`)
}

// P4: WAL that has nothing for us, here of another database, does not pin the slot.
func TestP04OtherDatabasesDoNotPinTheSlot(t *testing.T) {
	r := newRig(t)
	r.start(nil)
	r.settle()
	other, err := pgx.Connect(t.Context(), pgtest.Database(t))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = other.Close(context.WithoutCancel(t.Context())) }()
	for range 40 {
		if _, err := other.Exec(t.Context(), `select pg_logical_emit_message(false, 'bulk', repeat('x', 1000000))`); err != nil {
			t.Fatal(err)
		}
	}
	var now string
	if err := other.QueryRow(t.Context(), `select pg_current_wal_lsn()::text`).Scan(&now); err != nil {
		t.Fatal(err)
	}
	end, err := change.ParseLSN(now)
	if err != nil {
		t.Fatal(err)
	}
	r.eventually("the slot follows", func() bool { return r.confirmed()+16<<20 > end })
}

// A10: an idle feed whose own log is in the stream's database does not feed itself.
func TestA10IdleFeedStaysIdle(t *testing.T) { idles(t, newRig(t)) }

// idles runs a feed that has nothing to do, and fails if the log moves all the same.
func idles(t *testing.T, r *rig) {
	t.Helper()
	announced := make(chan change.Frame, 100)
	r.start(func(c *changefeed.Config) {
		c.Publish = func(_ context.Context, f change.Frame) {
			if f.Prev == f.Next {
				announced <- f
			}
		}
	})
	r.exec(`insert into items values (1, 1)`)
	before := r.settle()
	for len(announced) > 0 {
		<-announced
	}
	for range 3 { // one a second
		if f := <-announced; f.Next != before.Head() {
			t.Fatalf("the log moved by itself from %v to %v", before.Head(), f.Next)
		}
	}
}

// P12: a partitioned table is its root, whatever leaf a row is in.
func TestP12PartitionsAreTheirRoot(t *testing.T) {
	r := newRig(t)
	r.exec(`create table parts (id bigint not null, user_id bigint not null, day int not null, primary key (id, day)) partition by range (day)`)
	r.exec(`create table parts_1 partition of parts for values from (0) to (10)`)
	r.exec(`create table parts_2 partition of parts for values from (10) to (20)`)
	for _, name := range []string{"parts", "parts_1", "parts_2"} {
		r.exec(`alter table ` + name + ` replica identity full`)
	}
	r.exec(`drop publication nudge`)
	r.exec(`create publication nudge for table parts with (publish_via_partition_root = true)`)
	r.start(func(c *changefeed.Config) {
		c.Routing = r.routing(map[string]route.Spec{"public.parts": {Owner: "user_id"}})
	})
	r.settle()
	r.exec(`insert into parts values (1, 7, 5), (2, 7, 15)`)
	r.exec(`update parts set day = 16 where id = 1`) // moves to the other leaf
	r.exec(`update parts set user_id = 8 where id = 2`)
	r.exec(`delete from parts where id = 1`)
	r.exec(`truncate parts`)
	r.settle()
	r.expect(
		`u user:7 {"id":1,"day":5}`, `u user:7 {"id":2,"day":15}`,
		`d user:7 {"id":1,"day":5}`, `u user:7 {"id":1,"day":16}`,
		`d user:7 {"id":2,"day":15}`, `u user:8 {"id":2,"day":15}`,
		`d user:7 {"id":1,"day":16}`,
		`r * public.parts truncate`,
	)
}

// P15: TRUNCATE, also one that cascades, is a reset for everybody, once.
func TestP15TruncateCascades(t *testing.T) {
	r := newRig(t)
	r.exec(`create table lines (id bigint primary key, item bigint references items, user_id bigint)`)
	r.exec(`alter table lines replica identity full`)
	r.exec(`alter publication nudge add table lines`)
	r.start(func(c *changefeed.Config) {
		c.Routing = r.routing(map[string]route.Spec{"public.items": {Owner: "user_id"}, "public.lines": {Owner: "user_id"}})
	})
	r.settle()
	r.exec(`insert into items values (1, 1)`)
	r.exec(`insert into lines values (1, 1, 1)`)
	r.exec(`truncate items cascade`)
	r.settle()
	got := ops(r.all())
	if len(got) != 4 || !strings.HasPrefix(got[2], "r * public.") || !strings.HasPrefix(got[3], "r * public.") || got[2] == got[3] {
		t.Errorf("the log is %v", got)
	}
}

// A forged message costs nothing: a heartbeat that nobody waits for, a configuration that nobody has.
func TestP23ForgedMessages(t *testing.T) {
	r := newRig(t)
	r.start(nil)
	before := r.settle()
	r.exec(`select pg_logical_emit_message(true, 'nudge.config', 'deadbeef')`)
	r.exec(`select pg_logical_emit_message(true, 'nudge.config', repeat('x', 100000))`)
	r.exec(`select pg_logical_emit_message(false, 'nudge.origin', 'phone')`)
	r.exec(`select pg_logical_emit_message(true, 'nudge.origin', decode('fffe', 'hex'))`)
	r.exec(`insert into items values (1, 1)`)
	s := r.settle()
	if s.Epoch != before.Epoch || s.ConfigHash != before.ConfigHash {
		t.Errorf("state %+v", s)
	}
	r.expect(`u user:1 {"id":1}`)
}

// P23: nor does it put a configuration in force that waits for its own message: rows between the two are
// routed as they were.
func TestP23ForgedConfiguration(t *testing.T) {
	r := newRig(t)
	stop := r.start(nil)
	r.settle()
	stop()
	r.exec(`select pg_logical_emit_message(true, 'nudge.config', 'deadbeef')`)
	r.exec(`insert into items values (1, 1)`)
	routing := r.routing(map[string]route.Spec{"public.items": {Owner: "user_id", Deny: []string{"body"}}})
	r.start(func(c *changefeed.Config) { c.Routing = routing })
	r.state("the new configuration", func(s changelog.State) bool { return s.ConfigHash == routing.Hash() })
	r.settle()
	r.expect(`u user:1 {"id":1}`, `r * public.items schema`)
}

// P25: a slot of somebody else's is refused, never dropped.
func TestForeignSlotIsRefused(t *testing.T) {
	r := newRig(t)
	r.exec(`select pg_create_logical_replication_slot($1, 'test_decoding')`, r.slot)
	failed := make(chan struct{}, 1)
	stop := r.start(func(c *changefeed.Config) {
		c.Logger = logTo(func(line string) {
			if strings.Contains(line, "check_slot") {
				select {
				case failed <- struct{}{}:
				default:
				}
			}
		})
	})
	<-failed
	stop()
	var plugin string
	if err := r.db.QueryRow(t.Context(), `select plugin from pg_replication_slots where slot_name = $1`, r.slot).Scan(&plugin); err != nil || plugin != "test_decoding" {
		t.Errorf("the slot's plugin is %q, %v", plugin, err)
	}
}
