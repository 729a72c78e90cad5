package pull_test

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/nudgesync/nudge/server/pull"
	"github.com/nudgesync/nudge/server/wire"
)

const plain = `
create table notes (id bigint primary key, user_id bigint not null, body text, n int not null default 0);
alter table notes replica identity full;
insert into notes select i, 1, 'x' from generate_series(1, 5) i;`

// P14: what is written to a table while it has another name streams under that name.
func TestP14RenamedThereAndBack(t *testing.T) {
	other := plain + strings.ReplaceAll(plain, "notes", "pages")
	for name, steps := range map[string][]string{
		"renamed": {`begin; alter table notes rename to away; update away set n = 7; alter table away rename to notes; commit`},
		"moved": {`begin; create schema other; alter table notes set schema other; update other.notes set n = 7;
			alter table other.notes set schema public; commit`},
		"emptied": {`begin; alter table notes rename to away; truncate away; insert into away values (1, 1, 'new'); alter table away rename to notes; commit`},
		"in three transactions": {
			`begin; alter table notes rename to away; update away set n = 7; commit`, `update away set n = 8`, `alter table away rename to notes`,
		},
		"swapped": {`begin; alter table notes rename to away; alter table pages rename to notes; update notes set n = 7;
			alter table notes rename to pages; alter table away rename to notes; commit`},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, other, "public.notes", "public.pages")
			d := r.device("1")
			d.converge("public.notes", "public.pages")
			r.noticed() // so that it looks again in two seconds
			for _, sql := range steps {
				r.exec(sql)
			}
			r.noticed()
			d.converge("public.notes", "public.pages")
			r.exec(`update notes set body = 'y'; update pages set body = 'y'`)
			d.converge("public.notes", "public.pages")
			if d.sync(); len(d.ops) > 0 {
				t.Errorf("ops %v", d.ops)
			}
		})
	}
}

// P14: values that change while no column seems to, and no row streams. What leaves them as they are is no news.
func TestP14ValuesRewritten(t *testing.T) {
	for _, c := range []struct {
		sql   []string
		reset bool
	}{
		{[]string{`alter table notes drop column n, add column n int not null default 7`}, true},
		{[]string{`alter table notes alter column n type int using n + 1`}, true},
		{[]string{`begin; truncate notes; insert into notes values (1, 1, 'new', 1); alter table notes alter column n type int using n + 1; commit`}, true},
		{[]string{`begin; truncate notes; insert into notes values (1, 1, 'new', 1); savepoint s;
			alter table notes alter column n type int using n + 1; release s; alter table notes set (fillfactor = 90); commit`}, true},
		{[]string{`begin; alter table notes rename column n to k; update notes set k = 1; commit`, `alter table notes drop column k, add column k int default 7`}, true},
		{[]string{`begin; alter table notes add m int; update notes set n = 1; commit`, `alter table notes drop column m, add column m int default 7`}, true},
		{[]string{`alter table notes alter column n set default 3, alter column n set statistics 7; alter table notes set (fillfactor = 90); analyze notes`}, false},
		{[]string{`truncate notes; insert into notes values (1, 1, 'new')`}, false},
		{[]string{`begin; insert into notes values (100, 1, 'new'); truncate notes; insert into notes values (1, 1, 'new'); commit`}, false},
	} {
		t.Run(c.sql[0], func(t *testing.T) {
			t.Parallel()
			r := watched(t, plain, "public.notes")
			d := r.device("1")
			d.converge("public.notes")
			for _, sql := range c.sql {
				r.exec(sql)
			}
			r.noticed()
			ops := d.converge("public.notes")
			if slices.Contains(ops, "reset schema") != c.reset {
				t.Errorf("ops %v", ops)
			}
			if d.sync(); len(d.ops) > 0 {
				t.Errorf("then ops %v", d.ops)
			}
		})
	}
}

// I5: a snapshot does not show what the log never hears of, because it was undone before it was looked at.
func TestI05UndoneBeforeItWasNoticed(t *testing.T) {
	others := plain + `
		create table pages (like notes including all); insert into pages values (9, 1, 'other');
		create type place as (street text, number int);
		alter table notes add home place default '(Elm Street,13)';`
	for _, c := range []struct{ there, back string }{
		{`alter table notes rename column body to content`, `alter table notes rename column content to body`},
		{`alter table notes rename to away`, `alter table away rename to notes`},
		{`alter table notes rename to away; alter table pages rename to notes`, `alter table notes rename to pages; alter table away rename to notes`},
		{`alter table notes rename column user_id to whose`, `alter table notes rename column whose to user_id`},
		{`alter type place rename attribute street to road`, `alter type place rename attribute road to street`},
	} {
		t.Run(c.there, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, others, "public.notes")
			r.settle()
			r.noticed() // so that it looks again in two seconds
			r.exec(c.there)
			// A page of what it is now, if there is one.
			d := r.device("1")
			a, err := r.engine.Pull(t.Context(), pull.Request{User: d.user, Device: "d"})
			var p *wire.Problem
			switch {
			case err == nil:
				var page wire.Page
				if err := json.Unmarshal(append(append([]byte("{"), a.AppendMembers(nil)...), '}'), &page); err != nil {
					t.Fatal(err)
				}
				d.cursor = page.Cursor
				for _, ch := range page.Changes {
					d.apply(ch)
				}
			case !errors.As(err, &p) || p.Code != wire.Starting:
				t.Fatal(err)
			}
			r.exec(c.back)
			r.noticed()
			d.converge("public.notes")
		})
	}
}
