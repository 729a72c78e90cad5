package pull_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nudgesync/nudge/changefeed/route"
	"github.com/nudgesync/nudge/server/wire"
)

// watched is newRig with a watcher that looks often.
func watched(t *testing.T, schema string, tables ...string) *rig {
	t.Helper()
	r := newRig(t, schema, tables...)
	r.stop()
	r.watchEvery = 20 * time.Millisecond
	r.start(nil)
	return r
}

// noticed waits until the log knows the tables as they are.
func (r *rig) noticed() {
	r.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; {
		seen, err := route.Look(r.t.Context(), r.db, "nudge", r.routing.Names())
		if err != nil {
			r.t.Fatal(err)
		}
		state, err := r.log.Feed(r.t.Context())
		if err != nil {
			r.t.Fatal(err)
		}
		missing := ""
		for name, sight := range seen {
			known, err := route.DecodeShape(state.Relations[name])
			if err != nil {
				r.t.Fatal(err)
			}
			known.Truncated = 0
			if sight.Shape.Encode() != known.Encode() {
				missing = name
			}
		}
		if missing == "" {
			return
		}
		if time.Now().After(deadline) {
			r.t.Fatalf("not noticed: %s", missing)
		}
		<-time.After(5 * time.Millisecond)
	}
}

func resets(ops []string) (n int) {
	for _, op := range ops {
		if strings.HasPrefix(op, wire.OpReset) {
			n++
		}
	}
	return n
}

// A19, P14: what happens to a table that nobody writes to reaches its devices, and no others' tables.
func TestA19QuietTable(t *testing.T) {
	for _, sql := range []string{
		`alter table notes drop column n`,
		`alter table notes add column mood text not null default 'calm'`,
		`alter table notes rename column body to text`,
		`alter table notes alter column n type text using 'n' || n`,
		`alter table notes alter column body type char(3)`,
		`begin; alter table notes rename to old_notes; create table notes (like old_notes including all);
		 alter table notes replica identity full; alter publication nudge add table notes; insert into notes values (9, 1, 'new'); commit`,
		`begin; drop table notes; create table notes (id bigint primary key, user_id bigint not null);
		 alter table notes replica identity full; alter publication nudge add table notes; commit`,
	} {
		t.Run(sql[:30], func(t *testing.T) {
			r := watched(t, schema+`insert into notes select i, 1, 'x' from generate_series(1, 20) i; insert into tags values (1, 'a', 'first')`, "public.notes", "public.tags")
			d := r.device("1")
			d.converge("public.notes", "public.tags")
			r.exec(sql)
			clear(d.told)
			r.noticed()
			ops := d.converge("public.notes", "public.tags")
			if !slices.Contains(ops, "reset schema") || d.told["*"] > 0 || d.told["public.tags"] > 0 {
				t.Errorf("ops %v, told %v", ops, d.told)
			}
			r.exec(`insert into notes (id, user_id) values (100, 1)`)
			d.converge("public.notes", "public.tags")
			d.sync() // and then it is quiet
			if len(d.ops) > 0 {
				t.Errorf("ops %v", d.ops)
			}
		})
	}
}

// P14: of a table that is gone its devices keep nothing, and new devices are served the others. When it comes
// back it is received anew.
func TestP14TableGoneAndBack(t *testing.T) {
	r := watched(t, schema+`insert into notes values (1, 1, 'x'); insert into tags values (1, 'a', 'first')`, "public.notes", "public.tags")
	d := r.device("1")
	d.converge("public.notes", "public.tags")
	r.exec(`alter table notes rename to elsewhere`)
	d.converge("public.tags")
	late := r.device("1")
	late.converge("public.tags")
	r.exec(`update elsewhere set n = 7`)
	r.exec(`alter table elsewhere rename to notes`)
	d.converge("public.notes", "public.tags")
	r.exec(`alter table notes rename column user_id to whose; alter table notes rename column whose to user_id`)
	r.exec(`update notes set n = 8`)
	for _, d := range []*device{d, late} {
		d.converge("public.notes", "public.tags")
	}
}

// P14: a table that was made anew is not published: its devices start over with what it holds, and again once
// it is published.
func TestP14TableRecreatedUnpublished(t *testing.T) {
	r := newRig(t, schema+`insert into notes values (1, 1, 'x')`, "public.notes", "public.tags")
	d := r.device("1")
	d.converge("public.notes")
	r.exec(`begin; create table notes2 (like notes including all); insert into notes2 values (2, 1, 'new');
		drop table notes; alter table notes2 rename to notes; alter table notes replica identity full; commit`)
	d.converge("public.notes")
	r.exec(`insert into notes values (3, 1, 'unseen')`)
	r.exec(`alter publication nudge add table notes`)
	d.converge("public.notes")
	r.exec(`insert into notes values (4, 1, 'seen')`)
	d.converge("public.notes")
}

// P14: types that change under a table: its rows read differently, and no row says so.
func TestP14TypesChange(t *testing.T) {
	r := watched(t, `
		create type mood as enum ('calm', 'sad');
		create type place as (street text, number int);
		create domain percent as int check (value <= 100);
		create table moods (id bigint primary key, user_id bigint not null, n int, mood mood, moods mood[], home place, share percent);
		alter table moods replica identity full;
		insert into moods select i, 1, 0, 'calm', '{calm,sad}', '(Elm Street,13)', 50 from generate_series(1, 9) i;`+schema, "public.moods", "public.notes")
	d := r.device("1")
	d.converge("public.moods")
	for _, c := range []struct {
		sql   string
		reset bool
	}{
		{`alter type mood add value 'elated'`, false},
		{`update moods set mood = 'elated' where id = 1`, false},
		{`alter type mood rename value 'calm' to 'serene'`, true},
		{`update moods set mood = 'serene' where id = 2`, false},
		{`alter type place add attribute city text`, true},
		{`update moods set home = '(Elm Street,14,Springwood)' where id = 3`, false},
		{`alter type place rename attribute number to house`, true},
		{`alter type place drop attribute street`, true},
		{`update moods set home = '(15,Springwood)' where id = 4`, false},
		{`alter domain percent drop constraint percent_check`, false},
		{`update moods set share = 120 where id = 5`, false},
		{`create type size as enum ('s', 'm'); alter table moods add size size default 's'`, true},
		{`update moods set size = 'm' where id = 6`, false},
		{`alter type size rename to extent; alter type place rename to address`, false},
	} {
		r.exec(c.sql)
		r.noticed()
		if ops := d.converge("public.moods"); (resets(ops) > 0) != c.reset {
			t.Errorf("%s: ops %v", c.sql, ops)
		}
	}
}

// P14: the writers' table is renamed, retyped, grown and shrunk while they write, though not to all of its rows.
func TestP14ChangesBesideWriters(t *testing.T) {
	r := watched(t, schema+`insert into notes select i, 1, 'x' from generate_series(1, 9) i`, "public.notes")
	d := r.device("1")
	d.converge("public.notes")
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := range 300 {
			_, _ = r.db.Exec(t.Context(), `insert into notes (id, user_id) values ($1, 1 + $1 % 2)`, 100+i)
			_, _ = r.db.Exec(t.Context(), `update notes set user_id = 3 - user_id where id > 3 and id % 7 = $1`, i%7)
		}
	}()
	for _, sql := range []string{
		`alter table notes add column mood text default 'calm'`, `alter table notes rename column body to text`,
		`alter table notes alter column n type numeric`, `alter table notes drop column mood`,
	} {
		r.exec(sql)
		d.sync()
	}
	<-done
	d.converge("public.notes")
}

const visits = `
create table visits (id bigint, user_id bigint not null, body text, primary key (id)) partition by range (id);
create table low partition of visits for values from (0) to (100);
create table high partition of visits for values from (100) to (200);
alter table visits replica identity full; alter table low replica identity full; alter table high replica identity full;
insert into visits select i, 1, 'x' from generate_series(95, 105) i;`

// P12, A19: partitions that come and go. An empty one concerns nobody.
func TestP12AttachAndDetach(t *testing.T) {
	r := newRig(t, visits, "public.visits")
	r.stop()
	r.exec(`alter publication nudge set (publish_via_partition_root = true)`)
	r.watchEvery = 20 * time.Millisecond
	r.start(nil)
	d := r.device("1")
	d.converge("public.visits")
	for _, c := range []struct {
		sql   string
		reset string
	}{
		{`create table later partition of visits for values from (200) to (300); alter table later replica identity full`, ""},
		{`insert into visits values (201, 1, 'x')`, ""},
		{`update visits set body = 'y' where id = 201`, ""},
		{`create table older (like visits including all); alter table older replica identity full; insert into older values (-1, 1, 'x')`, ""},
		{`alter table visits attach partition older for values from (-100) to (0)`, "schema"},
		{`insert into visits values (-2, 1, 'x')`, ""},
		{`update visits set user_id = 2 where id = -2`, ""},
		{`truncate high`, "schema"},
		{`insert into visits values (110, 1, 'x')`, ""},
		{`alter table visits detach partition low`, "schema"},
		{`insert into low values (1, 1, 'x')`, ""},
		{`alter table visits attach partition low for values from (0) to (100)`, "schema"},
		{`drop table older`, "schema"},
		{`truncate visits`, "truncate"},
		{`insert into visits values (1, 1, 'x'), (101, 1, 'x')`, ""},
	} {
		r.exec(c.sql)
		r.noticed() // a partition that is written to before that counts as one with rows
		ops := d.converge("public.visits")
		for _, why := range []string{"schema", "repair", "truncate"} {
			if slices.Contains(ops, "reset "+why) != (c.reset == why) {
				t.Errorf("%s: ops %v", c.sql, ops)
			}
		}
	}
}

// P12: a partition whose identity is not its table's, where the stream says that it is: a delete has no owner.
func TestP12UnevenIdentity(t *testing.T) {
	r := newRig(t, visits, "public.visits")
	r.stop()
	r.exec(`alter publication nudge set (publish_via_partition_root = true)`)
	r.watchEvery = 20 * time.Millisecond
	r.start(nil)
	d := r.device("1")
	d.converge("public.visits")
	r.exec(`alter table high replica identity default`)
	r.exec(`delete from visits where id = 101`) // before or after it was noticed
	d.converge("public.visits")
	r.exec(`delete from visits where id = 102`)
	d.converge("public.visits")
	r.exec(`alter table high replica identity full`)
	d.converge("public.visits")
}

// P16: snapshots have the generated columns that the stream has, which 18 can be told to send.
func TestP16GeneratedColumns(t *testing.T) {
	r := watched(t, schema+`
		alter table notes add twice bigint generated always as (id * 2) stored;
		insert into notes select i, 1, 'x' from generate_series(1, 9) i`, "public.notes")
	d := r.device("1")
	d.sync()
	check := func(sent bool) {
		t.Helper()
		for _, row := range d.rows {
			if strings.Contains(row, "twice") != sent {
				t.Fatalf("row %s", row)
			}
		}
	}
	check(false)
	r.exec(`update notes set n = 1 where id = 1`)
	r.settle()
	d.sync()
	check(false)
	var version int
	if err := r.db.QueryRow(t.Context(), `select current_setting('server_version_num')::int`).Scan(&version); err != nil {
		t.Fatal(err)
	}
	if version < 180000 {
		return
	}
	r.exec(`alter publication nudge set (publish_generated_columns = stored)`)
	d.converge("public.notes")
	check(true)
	r.exec(`update notes set n = 2 where id = 2`)
	d.converge("public.notes")
	check(true)
}

// P17: a column that the publication leaves out of the stream is left out of snapshots too.
func TestP17ColumnList(t *testing.T) {
	r := newRig(t, schema+`insert into notes values (1, 1, 'x'), (2, 1, 'y')`, "public.notes")
	var version int
	if err := r.db.QueryRow(t.Context(), `select current_setting('server_version_num')::int`).Scan(&version); err != nil {
		t.Fatal(err)
	}
	if version < 150000 {
		return // has none
	}
	r.stop()
	r.watchEvery = 20 * time.Millisecond
	r.exec(`alter publication nudge set table notes (id, user_id, n)`)
	r.start(nil)
	d := r.device("1")
	d.sync()
	r.exec(`update notes set n = 2 where id = 1`)
	for range 5 {
		r.settle()
		d.sync()
	}
	if len(d.rows) != 2 || strings.Contains(strings.Join([]string{d.rows[`user:1 public.notes {"id":1}`], d.rows[`user:1 public.notes {"id":2}`]}, ""), "body") {
		t.Errorf("rows %v", d.rows)
	}
	if len(d.ops) > 0 {
		t.Errorf("ops %v", d.ops)
	}
}

// P14: rows that devices know by a key that is not the table's any more: two of them may be the same by it. Until
// the configuration is resolved anew the table is empty for every device; then it comes under its new key.
func TestP14PrimaryKeyReplaced(t *testing.T) {
	for name, c := range map[string]struct{ there, back string }{
		"other columns": {`alter table notes drop constraint notes_pkey, add primary key (user_id, id)`, `alter table notes drop constraint notes_pkey, add primary key (id)`},
		"a new column": {
			`alter table notes add code bigint generated always as identity, drop constraint notes_pkey, add primary key (code); insert into notes values (1, 1, 'twin')`,
			`delete from notes where body = 'twin'; alter table notes drop column code, add primary key (id)`,
		},
		"none": {`alter table notes drop constraint notes_pkey; insert into notes values (1, 1, 'twin')`, `delete from notes where body = 'twin'; alter table notes add primary key (id)`},
	} {
		for how, streamed := range map[string]string{"quiet": ``, "streamed": `update notes set n = n + 1`} {
			t.Run(name+", "+how, func(t *testing.T) {
				t.Parallel()
				r := watched(t, plain, "public.notes")
				old, late := r.device("1"), r.device("1")
				old.converge("public.notes")
				r.exec(streamed)
				r.settle()
				r.exec(c.there)
				r.exec(streamed)
				r.noticed()
				r.exec(streamed)
				r.settle()
				for _, d := range []*device{old, late} {
					if d.sync(); len(d.rows) != 0 {
						t.Errorf("rows %v", d.rows)
					}
				}
				if name != "none" {
					r.configure(map[string]route.Spec{"public.notes": byUser})
					for _, d := range []*device{old, late} {
						d.converge("public.notes")
						if len(d.rows) < 5 {
							t.Errorf("rows %v", d.rows)
						}
					}
					r.exec(`update notes set n = n + 1`)
					old.converge("public.notes")
					if r.settle(); len(old.ops) == 0 || slices.Contains(old.ops, "reset repair") {
						t.Errorf("ops %v", old.ops)
					}
				}
				// It is mended, with a node that does not know, or with one that knows the other key.
				r.exec(c.back)
				r.noticed()
				if name != "none" {
					r.configure(map[string]route.Spec{"public.notes": byUser})
				}
				for _, d := range []*device{old, late} {
					d.converge("public.notes")
				}
				r.exec(`update notes set n = n + 1`)
				old.converge("public.notes")
			})
		}
	}
}
