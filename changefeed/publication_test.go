package changefeed_test

import (
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nudgesync/nudge/changefeed"
	"github.com/nudgesync/nudge/changefeed/changelog"
	"github.com/nudgesync/nudge/changefeed/route"
)

// P13: what takes nothing out of the publication is no doubt: a second way in, or another owner.
func TestP13NothingWasOut(t *testing.T) {
	for name, c := range map[string]struct{ do, undo string }{
		"a schema beside the table": {`alter publication nudge add tables in schema public`, `alter publication nudge drop tables in schema public`},
		"another owner":             {`alter publication nudge owner to %I`, `alter publication nudge owner to current_user`},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			if r.version() < 150000 && name == "a schema beside the table" {
				return // 14 has no such thing
			}
			run := func(sql string) {
				t.Helper()
				r.exec(`do $$ begin execute format('` + sql + `', 'owner_' || current_database()); end $$`)
			}
			run(`create role %I superuser`)
			defer run(`drop role %I`)
			stop := r.start(often)
			before := r.settle()
			for i, sql := range []string{c.do, c.undo, c.do} {
				run(sql)
				r.exec(`alter table items add column c` + strconv.Itoa(i) + ` int`)
				r.eventually("it is looked at", func() bool { return len(r.all()) > i })
			}
			stop()
			r.released()
			r.start(often)
			r.exec(`insert into items values (1, 1)`)
			if s := r.settle(); s.Epoch != before.Epoch {
				t.Errorf("an epoch of its own: %s", s.Reason)
			}
			run(c.undo)
		})
	}
}

// P13: a publication that was dropped and made again looks the same, and changes of the time between are
// missing: 14 to 17 wedge for good, 18 says nothing.
func TestP13ReplacedPublication(t *testing.T) {
	for name, c := range map[string]struct{ do, reason string }{
		"dropped and made again":   {`drop publication nudge; insert into items values (9, 1); create publication nudge for table items`, "the publication was replaced or altered"},
		"without deletes meantime": {`alter publication nudge set (publish = 'insert, update'); alter publication nudge set (publish = 'insert, update, delete, truncate')`, "the publication was replaced or altered"},
	} {
		for _, when := range []string{"while streaming", "while stopped"} {
			t.Run(name+" "+when, func(t *testing.T) {
				t.Parallel()
				r := newRig(t)
				stop := r.start(nil)
				r.exec(`insert into items values (1, 1)`)
				before := r.settle()
				if when == "while stopped" {
					stop()
					r.released()
				}
				r.exec(c.do)
				if when == "while stopped" {
					r.start(nil)
				}
				if s := r.epochAfter(before); s.Reason != c.reason {
					t.Errorf("reason %q", s.Reason)
				}
				r.exec(`insert into items values (2, 1)`)
				r.settle()
				r.expect(`u user:1 {"id":2}`)
			})
		}
	}
}

// P13: a table that was out of the publication for a while is reset; nothing else is.
func TestP13TableWasOut(t *testing.T) {
	for _, when := range []string{"while streaming", "while stopped"} {
		t.Run(when, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			stop := r.start(often)
			r.exec(`insert into items values (1, 1)`)
			before := r.settle()
			if when == "while stopped" {
				stop()
				r.released()
			}
			r.exec(`alter publication nudge drop table items; insert into items values (9, 1); alter publication nudge add table items`)
			if when == "while stopped" {
				r.start(often)
			}
			fenced := r.state("the table is back", func(s changelog.State) bool { return s.SnapshotFence > before.SnapshotFence })
			r.exec(`insert into items values (2, 1)`)
			r.settle()
			r.expect(`r * public.items schema`, `u user:1 {"id":2}`)
			if fenced.Epoch != before.Epoch {
				t.Errorf("a new epoch: %s", fenced.Reason)
			}
		})
	}
}

// P13: what is added to the publication, or to it for another reader, is no reason for a new epoch.
func TestP13AddedTableIsNoDoubt(t *testing.T) {
	r := newRig(t)
	stop := r.start(nil)
	before := r.settle()
	stop()
	r.released()
	r.exec(`create table more (id bigint primary key); alter publication nudge add table more; comment on publication nudge is 'mine'`)
	r.start(nil)
	r.exec(`insert into items values (1, 1)`)
	if s := r.settle(); s.Epoch != before.Epoch {
		t.Errorf("a new epoch: %s", s.Reason)
	}
	r.expect(`u user:1 {"id":1}`)
}

// P13, P17: what would leave changes out in silence is refused with a hint.
func TestP17PublicationIsRefused(t *testing.T) {
	r := newRig(t)
	wide := `create table parts (id int primary key, user_id int) partition by range (id)`
	for _, c := range []struct{ make, says string }{
		{`create publication p for table other`, "lacks public.items"},
		{`create publication p for table items with (publish = 'insert, update, delete')`, "all of them"},
		{`create publication p for table items where (user_id > 0)`, "filters the rows of public.items"},
		{`create publication p for table items (id, body)`, "without user_id"},
	} {
		if r.version() < 150000 && strings.Contains(c.make, "(id, body)") || r.version() < 150000 && strings.Contains(c.make, "where") {
			if _, err := r.db.Exec(t.Context(), c.make); err == nil {
				t.Errorf("%s: there was no such thing before 15", c.make)
			}
			continue
		}
		r.exec(`drop table if exists other; create table other (id int primary key)`)
		r.exec(`drop publication if exists p; ` + c.make)
		r.refused(c.says)
	}
	r.exec(wide)
	r.exec(`drop publication p; create publication p for table parts`)
	r.refusedAs("public.parts", "under their own names")
}

// refused starts a feed on publication p and waits until it says why it does not stream.
func (r *rig) refused(says string) { r.refusedAs("public.items", says) }

func (r *rig) refusedAs(table, says string) {
	r.t.Helper()
	heard := make(chan string, 1)
	stop := r.start(func(c *changefeed.Config) {
		c.Publication = "p"
		c.Routing = r.routing(map[string]route.Spec{table: {Owner: "user_id"}})
		c.Logger = logTo(func(line string) {
			if strings.Contains(line, "check_publication") {
				select {
				case heard <- line:
				default:
				}
			}
		})
	})
	defer stop()
	select {
	case line := <-heard:
		if !strings.Contains(line, says) || !strings.Contains(line, "nudge attach") {
			r.t.Errorf("want %q: %s", says, line)
		}
	case <-time.After(30 * time.Second):
		r.t.Fatalf("not refused: %s", says)
	}
}

// P24: a log that is in the stream's database, and published with it, does not feed itself.
func TestP24PublishedLogDoesNotFeedItself(t *testing.T) {
	r := newRig(t)
	r.exec(`drop publication nudge; create publication nudge for all tables`)
	idles(t, r)
}
