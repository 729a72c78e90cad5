package snapshot_test

import (
	"context"
	"log/slog"
	"net"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/nudgesync/nudge/changefeed/route"
	"github.com/nudgesync/nudge/changefeed/snapshot"
	"github.com/nudgesync/nudge/changefeed/value"
	"github.com/nudgesync/nudge/internal/devpg/pgtest"
)

// counting is a connection that counts what comes.
type counting struct {
	net.Conn
	bytes *atomic.Int64
}

func (c counting) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.bytes.Add(int64(n))
	return n, err
}

// A page of wide rows ends at its ceiling of bytes, and the server sends little of what has no room; also of wide
// columns that no device sees, and where the first rows were narrow.
func TestWideRowsAreNotSentForNothing(t *testing.T) {
	const wide = 256 << 10
	dsn := pgtest.Database(t)
	cfg, err := pgxpool.ParseConfig(dsn)
	if err != nil {
		t.Fatal(err)
	}
	var came atomic.Int64
	cfg.ConnConfig.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, network, addr)
		return counting{conn, &came}, err
	}
	for k, v := range value.SessionSettings() {
		cfg.ConnConfig.RuntimeParams[k] = v
	}
	pool, err := pgxpool.NewWithConfig(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	if _, err := pool.Exec(t.Context(), `
create table t (id int primary key, owner int not null, body text);
insert into t select i, 1 + i / 100, case when i < 100 or i >= 150 then repeat('x', 262144) end from generate_series(0, 199) i`); err != nil {
		t.Fatal(err)
	}
	catalog, err := route.Catalog(t.Context(), pool, []string{"public.t"})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, user string
		spec       route.Spec
		rows, most int // of the first page, and how many wide ones may come for it
		all        int // for all pages
	}{
		{"all wide", "1", route.Spec{Owner: "owner"}, 2, 9, 160},
		{"wide from the fiftieth on", "2", route.Spec{Owner: "owner"}, 52, 60, 160},
		{"hidden", "1", route.Spec{Owner: "owner", Deny: []string{"body"}}, 2, 9, 160},
	} {
		t.Run(c.name, func(t *testing.T) {
			routing, err := route.Resolve(map[string]route.Spec{"public.t": c.spec}, catalog, false)
			if err != nil {
				t.Fatal(err)
			}
			r, err := snapshot.New(snapshot.Config{Pool: pool, Routing: routing, Publication: "nudge", Logger: slog.New(slog.DiscardHandler)})
			if err != nil {
				t.Fatal(err)
			}
			log := standing(t, pool)
			before := came.Load()
			page, err := r.Page(t.Context(), "public.t", c.user, nil, log, 500, wide+wide/2)
			if err != nil || len(page.Rows) != c.rows || page.Done {
				t.Fatalf("%d rows, done: %v, %v", len(page.Rows), page.Done, err)
			}
			if got := came.Load() - before; got > int64(c.most)*wide {
				t.Errorf("%d bytes came for a page of %d", got, wide+wide/2)
			}
			before = came.Load()
			if got := rows(t, r, log, c.user, 500, wide+wide/2); len(got) != 100 {
				t.Errorf("%d rows in all pages", len(got))
			}
			if got := came.Load() - before; got > int64(c.all)*wide {
				t.Errorf("%d bytes came for all pages", got)
			}
			t.Logf("%d wide rows came for all pages", (came.Load()-before)/wide)
		})
	}
}

// Whoever gives up in the middle of a page leaves nothing behind: the query ends, its connection is not used again.
func TestGivingUpEndsTheQuery(t *testing.T) {
	r, pool := open(t, `
create table t (id int primary key, owner int not null);
insert into t values (1, 1);
create function open() returns bool volatile language plpgsql as $$ begin perform pg_advisory_xact_lock_shared(43); return true; end $$;
alter table t enable row level security;
alter table t force row level security;
create policy slow on t using (open());
grant select on t to pg_monitor`, nil)
	log := standing(t, pool)
	gate, err := pool.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer gate.Release()
	for _, sql := range []string{
		`select pg_advisory_lock(43)`,
		`do $$ begin execute format('alter database %I set role = pg_monitor', current_database()); end $$`,
	} {
		if _, err := gate.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	ctx, giveUp := context.WithCancel(t.Context())
	read := make(chan error, 1)
	pool.Reset()
	go func() {
		_, err := r.Page(ctx, "public.t", "1", nil, log, 10, noLimit)
		read <- err
	}()
	until(t, pool, `exists (select from pg_locks where locktype = 'advisory' and objid = 43 and not granted)`)
	giveUp()
	if err := <-read; err == nil {
		t.Error("a page for nobody")
	}
	until(t, pool, `not exists (select from pg_locks where locktype = 'advisory' and objid = 43 and not granted)`)
	if _, err := gate.Exec(t.Context(), `select pg_advisory_unlock(43)`); err != nil {
		t.Fatal(err)
	}
	if p, err := r.Page(t.Context(), "public.t", "1", nil, log, 10, noLimit); err != nil || len(p.Rows) != 1 {
		t.Errorf("afterwards: %d rows, %v", len(p.Rows), err)
	}
}
