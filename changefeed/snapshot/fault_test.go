package snapshot_test

import (
	"errors"
	"testing"

	"github.com/nudgesync/nudge/changefeed/snapshot"
)

// A row that can't be read is a failure: it must not look like a user without rows, whose device would
// sweep what it has.
func TestAFailingRowIsNotNoOwner(t *testing.T) {
	r, pool := open(t, `
create table t (id int primary key, owner int not null, note text);
insert into t values (1, 1, 'x');
alter table t enable row level security;
alter table t force row level security;
create policy p on t using (note::int > 0);
grant select on t to pg_monitor`, nil)
	if _, err := pool.Exec(t.Context(), `do $$ begin execute format('alter database %I set role = pg_monitor', current_database()); end $$`); err != nil {
		t.Fatal(err)
	}
	pool.Reset()
	if p, err := r.Page(t.Context(), "public.t", "1", nil, standing(t, pool), 10, noLimit); err == nil || errors.Is(err, snapshot.ErrNoSuchOwner) {
		t.Errorf("%+v, %v", p, err)
	}
	if _, err := r.Page(t.Context(), "public.t", "me", nil, standing(t, pool), 10, noLimit); !errors.Is(err, snapshot.ErrNoSuchOwner) {
		t.Errorf("no number: %v", err)
	}
}

// A key that was left off at may be none any more.
func TestAPlaceThatIsGone(t *testing.T) {
	r, pool := open(t, `
create table t (id text primary key, owner int not null);
insert into t values ('1', 1), ('a', 1)`, nil)
	if _, err := pool.Exec(t.Context(), `delete from t where id = 'a'`); err != nil {
		t.Fatal(err)
	}
	if _, err := pool.Exec(t.Context(), `alter table t alter id type int using id::int`); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Page(t.Context(), "public.t", "1", []string{"a"}, standing(t, pool), 10, noLimit); !errors.Is(err, snapshot.ErrNoSuchPlace) {
		t.Errorf("after a: %v", err)
	}
	if _, err := r.Page(t.Context(), "public.t", "me", []string{"1"}, standing(t, pool), 10, noLimit); !errors.Is(err, snapshot.ErrNoSuchOwner) {
		t.Errorf("no number: %v", err)
	}
}
