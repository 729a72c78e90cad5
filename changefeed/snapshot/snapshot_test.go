package snapshot_test

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/nudgesync/nudge/changefeed/route"
	"github.com/nudgesync/nudge/changefeed/snapshot"
	"github.com/nudgesync/nudge/changefeed/value"
	"github.com/nudgesync/nudge/internal/devpg/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

const noLimit = 1 << 30

// open makes a database with the schema and a reader of its table public.t, owned by the column owner.
func open(t *testing.T, schema string, edit func(*route.Spec)) (*snapshot.Reader, *pgxpool.Pool) {
	t.Helper()
	pool := pgtest.Pool(t, pgtest.Database(t), value.SessionSettings())
	if _, err := pool.Exec(t.Context(), schema); err != nil {
		t.Fatal(err)
	}
	catalog, err := route.Catalog(t.Context(), pool, []string{"public.t"})
	if err != nil {
		t.Fatal(err)
	}
	spec := route.Spec{Owner: "owner"}
	if edit != nil {
		edit(&spec)
	}
	routing, err := route.Resolve(map[string]route.Spec{"public.t": spec}, catalog, false)
	if err != nil {
		t.Fatal(err)
	}
	r, err := snapshot.New(snapshot.Config{Pool: pool, Routing: routing, Publication: "nudge", Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return r, pool
}

// standing is what a log says that knows the table as it is.
func standing(t *testing.T, pool *pgxpool.Pool) snapshot.Standing {
	t.Helper()
	seen, err := route.Look(t.Context(), pool, "nudge", []string{"public.t"})
	if err != nil {
		t.Fatal(err)
	}
	return snapshot.Standing{Shape: seen["public.t"].Shape.Encode()}
}

// rows reads every page and returns the rows, each as key and row.
func rows(t *testing.T, r *snapshot.Reader, log snapshot.Standing, user string, maxRows, maxBytes int) (out []string) {
	t.Helper()
	var after []string
	for range 10_000 {
		p, err := r.Page(t.Context(), "public.t", user, after, log, maxRows, maxBytes)
		if err != nil {
			t.Fatal(err)
		}
		if p.Floor == 0 {
			t.Fatal("a page without a floor")
		}
		for _, row := range p.Rows {
			out = append(out, string(row.Key)+" "+string(row.Row))
		}
		if p.Done {
			return out
		}
		if cmp.Equal(p.Last, after) {
			t.Fatalf("no progress after %q", after)
		}
		after = p.Last
	}
	t.Fatal("the pages do not end")
	return nil
}

// Pages in key order, whatever the ceilings, hold every row of the user and none of another's.
func TestPagesHoldEveryRowOnce(t *testing.T) {
	r, pool := open(t, `
create table t (a text, b int, owner bigint not null, big text, primary key (a, b));
insert into t select chr(65 + i % 7), i, 1 + i % 2, repeat('x', i * 50) from generate_series(1, 60) i;
insert into t values ('quote '' " \', 0, 1, null), ('', -1, 1, null);`, nil)
	want := rows(t, r, standing(t, pool), "1", noLimit, noLimit)
	if len(want) != 32 {
		t.Fatalf("%d rows in one page", len(want))
	}
	for _, max := range []struct{ rows, bytes int }{{1, noLimit}, {5, noLimit}, {31, noLimit}, {32, noLimit}, {noLimit, 1}, {noLimit, 2000}, {3, 700}} {
		if diff := cmp.Diff(want, rows(t, r, standing(t, pool), "1", max.rows, max.bytes)); diff != "" {
			t.Errorf("pages of %v: %s", max, diff)
		}
	}
}

// A user that is no value of the owner's type, or another spelling of one, owns nothing (I10).
func TestOwnersAreComparedAsText(t *testing.T) {
	for _, typ := range []string{"bigint", "uuid", "text", "numeric(10,2)"} {
		value := map[string]string{"bigint": "7", "uuid": "6ba7b810-9dad-11d1-80b4-00c04fd430c8", "text": "Ann", "numeric(10,2)": "7.00"}[typ]
		r, pool := open(t, fmt.Sprintf(`
create table t (id int primary key, owner %s not null);
insert into t values (1, '%s')`, typ, value), nil)
		if got := rows(t, r, standing(t, pool), value, noLimit, noLimit); len(got) != 1 {
			t.Errorf("%s: %q owns %v", typ, value, got)
		}
		for _, other := range []string{"07", "7.0", strings.ToUpper(value) + " ", "6BA7B810-9DAD-11D1-80B4-00C04FD430C8", "ann"} {
			p, err := r.Page(t.Context(), "public.t", other, nil, standing(t, pool), 10, noLimit)
			if len(p.Rows) != 0 || err != nil && !errors.Is(err, snapshot.ErrNoSuchOwner) {
				t.Errorf("%s: %q owns %v, %v", typ, other, p.Rows, err)
			}
		}
	}
}

// A4: nothing is read while a transaction is open that began before the epoch.
func TestA04OpenTransactionsHoldSnapshotsBack(t *testing.T) {
	r, pool := open(t, `create table t (id int primary key, owner int not null)`, nil)
	writer, err := pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := writer.Exec(t.Context(), `insert into t values (1, 1)`); err != nil {
		t.Fatal(err)
	}
	var fence uint64
	if err := pool.QueryRow(t.Context(), `select pg_current_xact_id()::text::bigint`).Scan(&fence); err != nil {
		t.Fatal(err)
	}
	log := standing(t, pool)
	log.Fence = fence
	if _, err := r.Page(t.Context(), "public.t", "1", nil, log, 10, noLimit); !errors.Is(err, snapshot.ErrFenced) {
		t.Errorf("beside an older writer: %v", err)
	}
	if err := writer.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	p, err := r.Page(t.Context(), "public.t", "1", nil, log, 10, noLimit)
	if err != nil || len(p.Rows) != 1 {
		t.Errorf("after it: %v, %v", p.Rows, err)
	}
}

// A19: what changed in the catalog since the last page is noticed, whatever it was.
func TestA19ChangedTablesAreReadAsTheyAre(t *testing.T) {
	r, pool := open(t, `
create domain small as int;
create table t (id int primary key, owner int not null, gone text, kind int, d small, twice int generated always as (id * 2) stored);
insert into t values (1, 1, 'x', 3, 4)`, func(s *route.Spec) { s.Deny = []string{"kind"} })
	for _, step := range []struct{ ddl, want string }{
		{`select 1`, `{"id":1} {"id":1,"owner":1,"gone":"x","d":4}`},
		{`alter table t drop column gone`, `{"id":1} {"id":1,"owner":1,"d":4}`},
		{`alter table t add column mood text default 'calm'`, `{"id":1} {"id":1,"owner":1,"d":4,"mood":"calm"}`},
		{`alter table t rename column mood to feeling`, `{"id":1} {"id":1,"owner":1,"d":4,"feeling":"calm"}`},
		{`alter table t alter column d type text`, `{"id":1} {"id":1,"owner":1,"d":"4","feeling":"calm"}`},
		{`alter table t drop column twice; alter table t alter column id type bigint`, `{"id":1} {"id":1,"owner":1,"d":"4","feeling":"calm"}`},
	} {
		if _, err := pool.Exec(t.Context(), step.ddl, pgx.QueryExecModeSimpleProtocol); err != nil {
			t.Fatal(err)
		}
		if got := rows(t, r, standing(t, pool), "1", noLimit, noLimit); len(got) != 1 || got[0] != step.want {
			t.Errorf("%s: %v, want %s", step.ddl, got, step.want)
		}
	}
	if _, err := pool.Exec(t.Context(), `drop table t`); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Page(t.Context(), "public.t", "1", nil, standing(t, pool), 10, noLimit); err == nil {
		t.Error("a dropped table is read")
	}
}

// I5: a table that is not as the log knows it is not read, nor taken for empty.
func TestI05UnknownTablesAreNotRead(t *testing.T) {
	const table = `create table t (id int primary key, owner int not null, body text); insert into t values (1, 1, 'x')`
	for _, ddl := range []string{
		`alter table t rename column body to content`,
		`alter table t rename column owner to whose`,
		`alter table t alter column body type char(3)`,
		`alter table t rename to away`,
		`alter table t rename to away; create table t (id int primary key, owner int not null, body text)`,
	} {
		for _, before := range []bool{false, true} { // it was read before
			r, pool := open(t, table, nil)
			log := standing(t, pool)
			if before {
				rows(t, r, log, "1", noLimit, noLimit)
			}
			if _, err := pool.Exec(t.Context(), ddl); err != nil {
				t.Fatal(err)
			}
			if p, err := r.Page(t.Context(), "public.t", "1", nil, log, 10, noLimit); !errors.Is(err, snapshot.ErrUnknown) {
				t.Errorf("%s, %v: %+v, %v", ddl, before, p, err)
			}
			_, err := r.Page(t.Context(), "public.t", "1", nil, standing(t, pool), 10, noLimit)
			if gone := strings.Contains(ddl, "whose") || strings.HasSuffix(ddl, "away"); errors.Is(err, snapshot.ErrUnreadable) != gone || !gone && err != nil {
				t.Errorf("%s, once it is known: %v", ddl, err)
			}
		}
	}
}

// What inherits from a table is another one, which streams under its own name.
func TestInheritedRowsAreAnotherTables(t *testing.T) {
	r, pool := open(t, `
create table t (id int primary key, owner int not null);
create table kid () inherits (t);
insert into t values (1, 1), (3, 1); insert into kid values (2, 1)`, nil)
	if got := rows(t, r, standing(t, pool), "1", 1, noLimit); len(got) != 2 {
		t.Errorf("rows %v", got)
	}
}
