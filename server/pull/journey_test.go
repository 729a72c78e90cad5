package pull_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nudgesync/nudge/changefeed/route"
	"github.com/nudgesync/nudge/server/pull"
	"github.com/nudgesync/nudge/server/wire"
)

const schema = `
create table notes (id bigint primary key, user_id bigint not null, body text, n int not null default 0);
create unique index notes_identity on notes (user_id, id);
alter table notes replica identity using index notes_identity;
create table tags (user_id bigint not null, name text, note text, primary key (user_id, name));`

// device is the protocol's client in its simplest form.
type device struct {
	rig    *rig
	user   string
	cursor string
	rows   map[string]string // "scope table key" → row
	marks  map[string]string // → gen
	ops    []string          // "reset expired", "upsert", … of the last sync
	tables []string
	told   map[string]int // changes received of each table
	page   int            // rows of a page; 0: the engine's
	round  int64          // of configurations, when it last stood on a commit
	under  *route.Config  // of the node that was asked last; nil: not noted
}

func (r *rig) device(user string) *device {
	return &device{rig: r, user: user, rows: map[string]string{}, marks: map[string]string{}, told: map[string]int{}}
}

// sync pulls until there is no more.
func (d *device) sync() {
	d.rig.t.Helper()
	d.ops = nil
	for range 1000 {
		_, page := d.rig.pull(pull.Request{User: d.user, Device: "d", Since: d.cursor, Tables: d.tables, Limit: d.page})
		for _, c := range page.Changes {
			d.apply(c)
		}
		d.cursor = page.Cursor
		if !page.HasMore {
			return
		}
	}
	d.rig.t.Fatal("the loop does not end")
}

func (d *device) apply(c wire.Change) {
	d.ops = append(d.ops, c.Op)
	d.told[c.Table]++
	id := c.Scope + " " + c.Table + " " + string(c.Key)
	matches := func(row string) bool {
		scope, table := c.Scope, c.Table
		var s, t string
		_, _ = fmt.Sscan(row, &s, &t)
		return (scope == "*" || scope == s) && (table == "*" || table == t)
	}
	switch c.Op {
	case wire.OpUpsert:
		d.rows[id] = string(c.Row)
		delete(d.marks, id)
	case wire.OpPatch:
		if row, ok := d.rows[id]; ok {
			var a, b map[string]json.RawMessage
			if json.Unmarshal([]byte(row), &a) != nil || json.Unmarshal(c.Row, &b) != nil {
				d.rig.t.Fatalf("patch %s of %s", c.Row, row)
			}
			maps.Copy(a, b)
			out, _ := json.Marshal(a)
			d.rows[id] = string(out)
		}
	case wire.OpDelete:
		delete(d.rows, id)
	case wire.OpReset:
		d.ops[len(d.ops)-1] += " " + c.Reason
		for row := range d.rows {
			if matches(row) {
				d.marks[row] = c.Gen
			}
		}
	case wire.OpSweep:
		for row, gen := range d.marks {
			if gen == c.Gen && matches(row) {
				delete(d.rows, row)
				delete(d.marks, row)
			}
		}
	default:
		d.rig.t.Fatalf("op %q", c.Op)
	}
}

// expect compares the device with a direct SELECT, rendered by Postgres.
func (d *device) expect(tables ...string) {
	d.rig.t.Helper()
	if diff := d.diff(tables...); diff != "" {
		d.rig.t.Fatalf("user %s (-table +device):\n%s", d.user, diff)
	}
}

// converge syncs until the device holds what the tables do: what only the catalog tells is noticed a little
// later. It returns what was told it on the way.
func (d *device) converge(tables ...string) (ops []string) {
	d.rig.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; {
		d.rig.settle()
		d.sync()
		ops = append(ops, d.ops...)
		diff := d.diff(tables...)
		if diff == "" {
			return ops
		}
		if time.Now().After(deadline) {
			d.rig.t.Fatalf("user %s does not converge (-table +device):\n%s", d.user, diff)
		}
	}
}

// diff compares the device with a direct SELECT, rendered by Postgres.
func (d *device) diff(tables ...string) string {
	d.rig.t.Helper()
	want := map[string]any{}
	for _, table := range tables {
		var key []string
		for _, k := range d.rig.routing.Tables[table].Key {
			key = append(key, fmt.Sprintf("'%s', %s", k, k))
		}
		rows, err := d.rig.db.Query(d.rig.t.Context(), fmt.Sprintf(`select jsonb_build_object(%s)::text, to_jsonb(t)::text from %s t where user_id::text = $1`, strings.Join(key, ", "), table), d.user)
		if err != nil {
			d.rig.t.Fatal(err)
		}
		for rows.Next() {
			var k, row string
			if err := rows.Scan(&k, &row); err != nil {
				d.rig.t.Fatal(err)
			}
			want["user:"+d.user+" "+table+" "+canonical(k)] = decoded(row)
		}
		if rows.Err() != nil {
			d.rig.t.Fatal(rows.Err())
		}
	}
	got := map[string]any{}
	for id, row := range d.rows {
		var s, t string
		_, _ = fmt.Sscan(id, &s, &t)
		got[s+" "+t+" "+canonical(id[len(s)+len(t)+2:])] = decoded(row)
	}
	return cmp.Diff(want, got)
}

func decoded(s string) (v any) {
	if err := json.Unmarshal([]byte(s), &v); err != nil {
		return s
	}
	return v
}

func canonical(s string) string {
	b, _ := json.Marshal(decoded(s))
	return string(b)
}

func TestJourney(t *testing.T) {
	r := newRig(t, schema, "public.notes", "public.tags")
	r.exec(`insert into notes select i, 1 + i % 2, repeat('x', 20), i from generate_series(1, 40) i`)
	r.exec(`insert into tags values (1, 'a', 'first'), (2, 'b', null)`)
	one, two := r.device("1"), r.device("2")
	one.sync()
	one.expect("public.notes", "public.tags")
	if one.ops[0] != "reset new" || one.ops[len(one.ops)-1] != "sweep" {
		t.Errorf("a first sync: %v", one.ops)
	}
	two.sync()

	r.exec(`update notes set n = n + 1 where id <= 20`)
	r.exec(`delete from notes where id in (3, 4)`)
	r.exec(`insert into notes values (100, 1, 'new'), (101, 2, 'new')`)
	r.exec(`update notes set id = 200 where id = 100`)      // a key change
	r.exec(`update notes set user_id = 2 where id = 5`)     // an owner move
	r.exec(`update tags set note = 'x' where user_id = 1`)  // a composite key
	r.exec(`update tags set user_id = 2 where user_id = 1`) // owner and key at once
	r.settle()
	for _, d := range []*device{one, two} {
		d.sync()
		d.expect("public.notes", "public.tags")
		for _, op := range d.ops {
			if op == "reset new" {
				t.Errorf("user %s was reset: %v", d.user, d.ops)
			}
		}
	}
	// Nothing new: no changes, a fresh cursor.
	a, page := r.pull(pull.Request{User: "1", Device: "d", Since: one.cursor})
	if !a.NothingNew || len(page.Changes) != 0 || page.Cursor == "" || a.Source != "tail" {
		t.Errorf("up to date: %+v", a)
	}
}

// A5, I5: rows larger than the TOAST threshold that an update leaves alone are not lost.
func TestP11UnchangedToastIsAPatch(t *testing.T) {
	r := newRig(t, schema+`alter table notes alter body set storage external;`, "public.notes")
	d := r.device("1")
	r.exec(`insert into notes select i, 1, repeat('long ', 4000) from generate_series(1, 3) i`)
	d.sync()
	r.exec(`update notes set n = 7 where id = 2`)           // patch
	r.exec(`update notes set id = 30 where id = 3`)         // the new key would have a hole: a reset
	r.exec(`update notes set n = 8, body = 'b' where id=1`) // whole
	r.settle()
	d.sync()
	d.expect("public.notes")
	if !slices.Contains(d.ops, wire.OpPatch) || !slices.Contains(d.ops, "reset repair") {
		t.Errorf("ops %v", d.ops)
	}
}

func TestA15TruncateReachesEverybody(t *testing.T) {
	r := newRig(t, schema, "public.notes", "public.tags")
	r.exec(`insert into notes select i, 1 + i % 2, 'x' from generate_series(1, 30) i`)
	r.exec(`insert into tags values (1, 'a', 'first'), (2, 'b', null)`)
	one, two := r.device("1"), r.device("2")
	one.sync()
	two.sync()
	r.exec(`begin; truncate notes; insert into notes values (7, 1, 'after'); commit`)
	r.settle()
	for _, d := range []*device{one, two} {
		d.sync()
		d.expect("public.notes", "public.tags")
		if d.ops[0] != "reset truncate" {
			t.Errorf("ops %v", d.ops)
		}
	}
}

// P14: a changed column set is a reset of that table, and the new column arrives.
func TestP14AddedColumnWithDefault(t *testing.T) {
	r := newRig(t, schema, "public.notes", "public.tags")
	r.exec(`insert into notes select i, 1, 'x' from generate_series(1, 30) i`)
	d := r.device("1")
	d.sync()
	r.exec(`insert into notes values (50, 1, 'streamed once')`)
	r.settle()
	d.sync()
	r.exec(`alter table notes add column mood text not null default 'calm'`)
	r.exec(`update notes set n = 2 where id = 1`)
	r.settle()
	d.sync()
	d.expect("public.notes")
	if !slices.Contains(d.ops, "reset schema") {
		t.Errorf("ops %v", d.ops)
	}
}

func TestExpiredCursorStartsOver(t *testing.T) {
	r := newRig(t, schema, "public.notes")
	r.exec(`insert into notes select i, 1, 'x' from generate_series(1, 30) i`)
	d := r.device("1")
	d.sync()
	r.exec(`delete from notes where id < 10`)
	r.settle()
	if err := r.log.Trim(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.stop()
	r.start(nil) // another node, with nothing in memory
	d.sync()
	d.expect("public.notes")
	if d.ops[0] != "reset expired" {
		t.Errorf("ops %v", d.ops)
	}
}

func TestSomeTablesOnly(t *testing.T) {
	r := newRig(t, schema, "public.notes", "public.tags")
	r.exec(`insert into notes values (1, 1, 'x')`)
	r.exec(`insert into tags values (1, 'a', 'first')`)
	d := r.device("1")
	d.tables = []string{"public.tags"}
	d.sync()
	d.expect("public.tags")
	d.tables = nil // the cursor remembers
	r.exec(`insert into notes values (2, 1, 'y')`)
	r.exec(`insert into tags values (1, 'b', 'second')`)
	r.settle()
	d.sync()
	d.expect("public.tags")
	d.tables = []string{"public.notes", "public.tags"}
	d.sync()
	d.expect("public.notes", "public.tags")
}

// I10: a user whose name is another spelling of an owner's value owns nothing.
func TestI10OtherSpellingsOwnNothing(t *testing.T) {
	r := newRig(t, schema, "public.notes")
	r.exec(`insert into notes values (1, 7, 'secret')`)
	for _, user := range []string{"007", " 7", "7.0", "not a number", "99999999999999999999999", "7' or '1'='1"} {
		d := r.device(user)
		d.sync()
		if len(d.rows) != 0 {
			t.Errorf("user %q holds %v", user, d.rows)
		}
	}
}
