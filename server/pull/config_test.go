package pull_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/nudgesync/nudge/changefeed/route"
	"github.com/nudgesync/nudge/server/pull"
)

// configure replaces the node by one with another configuration of the tables.
func (r *rig) configure(specs map[string]route.Spec) {
	r.t.Helper()
	r.stop()
	r.resolve(specs)
	r.start(nil)
}

// resolve has the next start take another configuration.
func (r *rig) resolve(specs map[string]route.Spec) {
	r.t.Helper()
	names := make([]string, 0, len(specs))
	for name := range specs {
		names = append(names, name)
	}
	catalog, err := route.Catalog(r.t.Context(), r.db, names)
	if err != nil {
		r.t.Fatal(err)
	}
	if r.routing, err = route.Resolve(specs, catalog, false); err != nil {
		r.t.Fatal(err)
	}
}

var (
	byUser   = route.Spec{Owner: "user_id"}
	bodyless = route.Spec{Owner: "user_id", Deny: []string{"body"}}
)

// secrets counts what a device holds that its configuration hides.
func (d *device) secrets() (n int) {
	for _, row := range d.rows {
		n += strings.Count(row, "secret")
	}
	return n
}

// A change of nudge.yaml resets the tables that it changes, and no other, whatever the log is read from.
func TestConfigurationResetsNarrowly(t *testing.T) {
	for name, tailBytes := range map[string]int64{"from the tail": 0, "from the log": 1} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, schema+`
				create table docs (id bigint primary key, user_id bigint not null, body text);
				alter table docs replica identity full;
				insert into docs values (1, 1, 'x');
				insert into notes values (1, 1, 'x'), (2, 2, 'x');
				insert into tags values (1, 'a', 'first'), (2, 'b', null)`, "public.docs", "public.notes", "public.tags")
			r.tailBytes = tailBytes
			d := r.device("1")
			d.sync()
			d.expect("public.docs", "public.notes", "public.tags")
			r.exec(`update tags set note = 'second' where name = 'a'`)

			// A column is hidden, a table leaves.
			r.configure(map[string]route.Spec{"public.notes": bodyless, "public.tags": byUser})
			clear(d.told)
			d.sync()
			if want := map[string]int{"public.docs": 2, "public.notes": 3, "public.tags": 1}; fmt.Sprint(d.told) != fmt.Sprint(want) {
				t.Errorf("told %v, want %v; ops %v", d.told, want, d.ops)
			}
			if len(d.rows) != 2 || strings.Contains(fmt.Sprint(d.rows), "body") {
				t.Errorf("rows %v", d.rows)
			}
			// It comes back, and another is ruled by another column.
			r.exec(`alter table tags add owner bigint; update tags set owner = 3 - user_id, note = 'third'`)
			r.configure(map[string]route.Spec{"public.docs": byUser, "public.notes": bodyless, "public.tags": {Owner: "user_id", Deny: []string{"owner"}}})
			clear(d.told)
			d.sync()
			if d.told["public.notes"] != 0 || d.told["public.docs"] != 3 || len(d.rows) != 3 {
				t.Errorf("told %v, rows %v", d.told, d.rows)
			}
			// What nothing of changed is told nothing.
			r.configure(map[string]route.Spec{"public.docs": byUser, "public.notes": bodyless, "public.tags": {Owner: "user_id", Deny: []string{"owner"}}})
			if d.sync(); len(d.ops) != 0 {
				t.Errorf("ops %v", d.ops)
			}
			// Numbers rendered otherwise are another matter: everything comes again.
			r.stop()
			wide := *r.routing
			wide.WideNumbersAsStrings = true
			r.routing = &wide
			r.start(nil)
			clear(d.told)
			if d.sync(); d.ops[0] != "reset schema" || d.told["*"] != 2 || !strings.Contains(d.rows[`user:1 public.docs {"id":"1"}`], `"id":"1"`) {
				t.Errorf("ops %v, rows %v", d.ops, d.rows)
			}
		})
	}
}

// I10: what was logged while a column was shown is not served once it is hidden, though the reset that hides it
// is pages away; and what was shown for a while in between neither.
func TestI10LogBeforeTheConfiguration(t *testing.T) {
	for name, tailBytes := range map[string]int64{"from the tail": 0, "from the log": 1} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, schema+`insert into notes values (1, 1, 'x'); insert into tags values (1, 'a', 'first')`, "public.notes", "public.tags")
			r.tailBytes = tailBytes
			open := map[string]route.Spec{"public.notes": byUser, "public.tags": byUser}
			hidden := map[string]route.Spec{"public.notes": bodyless, "public.tags": byUser}
			shown, never := r.device("1"), r.device("1")
			shown.page, never.page = 2, 2
			shown.sync()
			r.exec(`insert into notes select i, 1, 'secret' from generate_series(10, 30) i`)
			r.exec(`insert into tags select 1, i from generate_series(10, 30) i`)
			r.settle()
			r.configure(hidden)
			never.sync()
			check := func(d *device) {
				t.Helper()
				for range 1000 {
					_, page := r.pull(pull.Request{User: "1", Device: "d", Since: d.cursor, Limit: d.page})
					for _, c := range page.Changes {
						if strings.Contains(string(c.Row), "secret") {
							t.Fatalf("told %s", c.Row)
						}
						d.apply(c)
					}
					if d.cursor = page.Cursor; !page.HasMore {
						break
					}
				}
				if len(d.rows) != 44 || d.secrets() > 0 {
					t.Errorf("%d rows, %d secrets", len(d.rows), d.secrets())
				}
			}
			check(shown)
			r.configure(open)
			r.exec(`update notes set n = n + 1`)
			r.settle()
			r.configure(hidden)
			check(never)
		})
	}
}

// A cursor in the middle of a snapshot goes on under another configuration: other tables, other keys.
func TestConfigurationChangesBetweenPages(t *testing.T) {
	r := newRig(t, schema+`
		create table docs (id bigint primary key, user_id bigint not null, body text);
		alter table docs replica identity full;
		insert into docs select i, 1, 'secret' from generate_series(1, 20) i;
		insert into notes select i, 1, 'x' from generate_series(1, 20) i;
		insert into tags select 1, i from generate_series(1, 20) i`, "public.docs", "public.notes", "public.tags")
	for _, pages := range []int{1, 4} {
		r.configure(map[string]route.Spec{"public.docs": byUser, "public.notes": byUser})
		d := r.device("1")
		for range pages {
			_, page := r.pull(pull.Request{User: "1", Device: "d", Since: d.cursor})
			for _, c := range page.Changes {
				d.apply(c)
			}
			d.cursor = page.Cursor
		}
		r.configure(map[string]route.Spec{"public.notes": byUser, "public.tags": byUser})
		d.sync()
		d.expectRows(t, 40)
		// A snapshot of one table after its reset.
		r.exec(`truncate notes; insert into notes select i, 1, 'x' from generate_series(1, 20) i; alter table notes add extra int; update notes set extra = 1 where id = 1`)
		r.settle()
		_, page := r.pull(pull.Request{User: "1", Device: "d", Since: d.cursor})
		for _, c := range page.Changes {
			d.apply(c)
		}
		d.cursor = page.Cursor
		r.configure(map[string]route.Spec{"public.tags": byUser})
		d.sync()
		d.expectRows(t, 20)
		if slices.Contains(d.ops, "reset new") {
			t.Errorf("ops %v", d.ops)
		}
		r.exec(`alter table notes drop column extra`)
	}
}

func (d *device) expectRows(t *testing.T, n int) {
	t.Helper()
	if len(d.rows) != n || len(d.marks) > 0 || d.secrets() > 0 {
		t.Errorf("%d rows of %d, %d marked, %d secrets; ops %v", len(d.rows), n, len(d.marks), d.secrets(), d.ops)
	}
}

// I10: a column that is denied is never served, under no name: until the configuration follows, its table is empty.
func TestI10DeniedColumnRenamed(t *testing.T) {
	r := newRig(t, plain+`update notes set body = 'secret'`, "public.notes")
	r.configure(map[string]route.Spec{"public.notes": bodyless})
	d, late := r.device("1"), r.device("1")
	d.sync()
	if len(d.rows) != 5 {
		t.Fatalf("rows %v", d.rows)
	}
	empty := func() {
		t.Helper()
		r.settle()
		for _, d := range []*device{d, late} {
			if d.sync(); len(d.rows) != 0 {
				t.Errorf("rows %v", d.rows)
			}
		}
	}
	r.exec(`alter table notes rename column body to content`)
	r.exec(`update notes set n = 1`) // before it was noticed
	empty()
	r.noticed()
	empty()
	r.exec(`update notes set n = 2`) // and after
	empty()
	r.exec(`alter table notes rename column content to body; update notes set n = 3`)
	r.noticed()
	r.settle()
	for _, d := range []*device{d, late} {
		if d.sync(); len(d.rows) != 5 || d.secrets() != 0 {
			t.Errorf("rows %v", d.rows)
		}
	}
}

// P17: a column that is denied and not published is no less there; it is missed as any other.
func TestP17DeniedColumnIsNotPublished(t *testing.T) {
	r := newRig(t, schema+`insert into notes select i, 1, 'secret' from generate_series(1, 5) i`, "public.notes")
	var version int
	if err := r.db.QueryRow(t.Context(), `select current_setting('server_version_num')::int`).Scan(&version); err != nil {
		t.Fatal(err)
	}
	if version < 150000 {
		return // has no lists of columns
	}
	r.exec(`alter publication nudge set table notes (id, user_id, n)`)
	r.configure(map[string]route.Spec{"public.notes": bodyless})
	d := r.device("1")
	d.sync()
	for _, c := range []struct {
		sql  string
		rows int
	}{
		{`update notes set n = 1`, 5},
		{`alter table notes rename column body to content`, 0},
		{`update notes set n = 2`, 0},
		{`alter table notes rename column content to body`, 5},
		{`update notes set n = 3`, 5},
		{`begin; alter table notes rename column body to content; alter publication nudge set table notes (id, user_id, n, content); update notes set n = 4; commit`, 0},
	} {
		r.exec(c.sql)
		r.noticed()
		r.settle()
		d.sync()
		if len(d.rows) != c.rows || d.secrets() > 0 || c.rows > 0 && (strings.Contains(fmt.Sprint(d.rows), "body") || slices.Contains(d.ops, "reset repair")) {
			t.Errorf("%s: rows %v, ops %v", c.sql, d.rows, d.ops)
		}
	}
}
