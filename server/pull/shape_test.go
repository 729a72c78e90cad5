package pull_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/nudgesync/nudge/changefeed/route"
	"github.com/nudgesync/nudge/server/pull"
)

// P14: a column that came before the table was first streamed is a reset too: devices may hold rows
// without it.
func TestP14ColumnAddedBeforeTheFirstStreamedRow(t *testing.T) {
	r := newRig(t, schema+`insert into notes values (1, 1, 'x'), (2, 1, 'y')`, "public.notes")
	d := r.device("1")
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

// P14: a table whose shape nobody touched is not reset when it is first streamed.
func TestP14FirstStreamedRowIsNoReset(t *testing.T) {
	r := newRig(t, schema+`alter table notes add column price numeric(10, 2), drop column n, add column twice bigint generated always as (id * 2) stored;
		insert into notes values (1, 1, 'x'), (2, 1, 'y')`, "public.notes")
	d := r.device("1")
	d.sync()
	r.exec(`update notes set price = 2 where id = 1`)
	r.settle()
	d.sync()
	if !slices.Equal(d.ops, []string{"upsert"}) {
		t.Errorf("ops %v", d.ops)
	}
}

// P11: the identity is watched: once it lacks the owner, an owner move or a delete does not say whose row
// is gone, so everybody receives the table anew.
func TestP11IdentityLostOnTheWay(t *testing.T) {
	r := newRig(t, schema+`insert into notes select i, 1, 'x' from generate_series(1, 9) i`, "public.notes")
	one, two := r.device("1"), r.device("2")
	r.exec(`insert into notes values (10, 2, 'x')`)
	r.settle()
	one.sync()
	two.sync()
	r.exec(`alter table notes replica identity default`)
	// Each by itself: the reset that one of them brings would hide that the other brings none.
	for _, sql := range []string{`update notes set user_id = 2 where id = 5`, `delete from notes where id = 6`} {
		r.exec(sql)
		r.settle()
		for _, d := range []*device{one, two} {
			d.sync()
			d.expect("public.notes")
		}
	}
	r.exec(`alter table notes replica identity full`)
	r.exec(`update notes set user_id = 2 where id = 7`)
	r.settle()
	for _, d := range []*device{one, two} {
		d.sync()
		d.expect("public.notes")
		if slices.Contains(d.ops, "reset repair") {
			t.Errorf("ops %v", d.ops)
		}
	}
}

// P12: a partition does not inherit the partitioned table's identity; the stream says that it has it. Where
// the old tuple shows that it has not, everybody receives the table anew.
func TestP12PartitionWithoutTheIdentity(t *testing.T) {
	for name, identity := range map[string]string{"full": "full", "index": "using index %s_user_id_id_idx"} {
		t.Run(name, func(t *testing.T) {
			of := func(table string) string {
				return "alter table " + table + " replica identity " + strings.ReplaceAll(identity, "%s", table) + ";"
			}
			r := newRig(t, `
				create table visits (id bigint, user_id bigint not null, body text, primary key (id)) partition by range (id);
				create table low partition of visits for values from (0) to (100);
				create table high partition of visits for values from (100) to (200);
				create unique index on visits (user_id, id);
				insert into visits select i, 1, 'x' from generate_series(95, 105) i;`+of("visits")+of("low"), "public.visits")
			r.exec(`alter publication nudge set (publish_via_partition_root = true)`)
			one, two := r.device("1"), r.device("2")
			one.sync()
			two.sync()
			check := func(reset bool, sql string) {
				t.Helper()
				r.exec(sql)
				r.settle()
				for _, d := range []*device{one, two} {
					d.sync()
					d.expect("public.visits")
					if slices.Contains(d.ops, "reset repair") != reset {
						t.Errorf("%s: ops %v", sql, d.ops)
					}
				}
			}
			check(false, `update visits set user_id = 2 where id = 96`)
			check(false, `delete from visits where id = 97`)
			check(false, `update visits set id = 110 where id = 98`) // to another partition
			check(name == "full", `update visits set body = 'y' where id = 101`)
			if name == "index" { // under FULL such a delete looks like that of a row that nobody owns
				check(true, `delete from visits where id = 102`)
				check(true, `update visits set id = 50 where id = 103`)
			}
		})
	}
}

// P11: a value that stays in the database is no hole in a row that moves.
func TestP11HiddenColumnIsNoHole(t *testing.T) {
	r := newRig(t, schema+`alter table notes alter body set storage external;
		insert into notes select i, 1, repeat('long ', 4000) from generate_series(1, 3) i`, "public.notes")
	r.stop()
	r.routing = &route.Config{Tables: map[string]route.Rule{"public.notes": {Owner: "user_id", Key: []string{"id"}, Deny: []string{"body"}}}}
	r.start(nil)
	d := r.device("2")
	d.sync()
	r.exec(`update notes set user_id = 2 where id = 2`)
	r.settle()
	d.sync()
	if !slices.Equal(d.ops, []string{"upsert"}) {
		t.Errorf("ops %v", d.ops)
	}
}

// A table that left the configuration leaves the devices that asked for it, and those go on.
func TestTableThatLeftTheConfiguration(t *testing.T) {
	r := newRig(t, schema+`insert into notes values (1, 1, 'x'); insert into tags values (1, 'a', 'first')`, "public.notes", "public.tags")
	both, only, all := r.device("1"), r.device("1"), r.device("1")
	both.tables, only.tables = []string{"public.notes", "public.tags"}, []string{"public.notes"}
	for _, d := range []*device{both, only, all} {
		d.sync()
		d.tables = nil // the cursor remembers
	}
	r.stop()
	catalog, err := route.Catalog(t.Context(), r.db, []string{"public.tags"})
	if err != nil {
		t.Fatal(err)
	}
	if r.routing, err = route.Resolve(map[string]route.Spec{"public.tags": {Owner: "user_id"}}, catalog, false); err != nil {
		t.Fatal(err)
	}
	r.start(nil)
	for _, d := range []*device{both, all} {
		d.sync()
		d.expect("public.tags")
	}
	only.sync()
	only.expect()
	r.exec(`insert into tags values (1, 'b', 'second')`)
	r.settle()
	for _, d := range []*device{both, all} {
		d.sync()
		d.expect("public.tags")
	}
	only.sync()
	only.expect()
}

// A device that left off at a key which is none any more receives everything anew.
func TestKeyTypeChangesBetweenPages(t *testing.T) {
	r := newRig(t, `create table codes (id text primary key, user_id bigint not null);
		create unique index codes_identity on codes (user_id, id);
		alter table codes replica identity using index codes_identity;
		insert into codes select 'a' || i, 1 from generate_series(1, 20) i`, "public.codes")
	d := r.device("1")
	_, page := r.pull(pull.Request{User: "1", Device: "d"})
	for _, c := range page.Changes {
		d.apply(c)
	}
	d.cursor = page.Cursor
	if !page.HasMore {
		t.Fatal("one page has all")
	}
	r.exec(`delete from codes; alter table codes alter id type bigint using id::bigint; insert into codes values (3, 1)`)
	r.settle()
	d.sync()
	d.expect("public.codes")
	if d.ops[0] != "reset schema" {
		t.Errorf("ops %v", d.ops)
	}
}
