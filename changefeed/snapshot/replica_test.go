package snapshot_test

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/nudgesync/nudge/changefeed/change"
	"github.com/nudgesync/nudge/changefeed/route"
	"github.com/nudgesync/nudge/changefeed/snapshot"
	"github.com/nudgesync/nudge/changefeed/value"
	"github.com/nudgesync/nudge/internal/devpg/pgtest"
)

// long is more than anything takes that happens; short is for what does not.
const (
	long  = 20 * time.Second
	short = 100 * time.Millisecond
)

// pair is a primary and its replica.
type pair struct {
	t                *testing.T
	primary, replica *pgxpool.Pool
	routing          *route.Config
}

var quiet = map[string]string{"autovacuum": "off", "max_prepared_transactions": "10"}

func newPair(t *testing.T, schema string) *pair {
	t.Helper()
	primary, standby := pgtest.Pair(t, quiet)
	return connectPair(t, primary.DSN("postgres"), standby.DSN("postgres"), schema)
}

func connectPair(t *testing.T, primary, replica, schema string) *pair {
	t.Helper()
	p := &pair{t: t, primary: pgtest.Pool(t, primary, value.SessionSettings()), replica: pgtest.Pool(t, replica, value.SessionSettings())}
	p.exec(p.primary, schema)
	catalog, err := route.Catalog(t.Context(), p.primary, []string{"public.t"})
	if err != nil {
		t.Fatal(err)
	}
	if p.routing, err = route.Resolve(map[string]route.Spec{"public.t": {Owner: "owner"}}, catalog, false); err != nil {
		t.Fatal(err)
	}
	return p
}

func (p *pair) exec(on *pgxpool.Pool, sql string) {
	p.t.Helper()
	if _, err := on.Exec(p.t.Context(), sql, pgx.QueryExecModeSimpleProtocol); err != nil {
		p.t.Fatalf("%s: %v", sql, err)
	}
}

func (p *pair) reader(patience time.Duration) *snapshot.Reader {
	p.t.Helper()
	r, err := snapshot.New(snapshot.Config{
		Pool: p.replica, Primary: p.primary, Routing: p.routing, Publication: "nudge", Logger: slog.New(slog.DiscardHandler), Patience: patience,
	})
	if err != nil {
		p.t.Fatal(err)
	}
	return r
}

// log is what a log says that has everything committed so far.
func (p *pair) log() snapshot.Standing {
	p.t.Helper()
	s := standing(p.t, p.primary)
	s.Past = p.end()
	err := p.primary.QueryRow(p.t.Context(), `select system_identifier::text, 1, current_database() from pg_control_system()`).
		Scan(&s.SystemID, &s.Timeline, &s.Database)
	if err != nil {
		p.t.Fatal(err)
	}
	return s
}

func (p *pair) lsn(on *pgxpool.Pool, function string) change.LSN {
	p.t.Helper()
	var text string
	if err := on.QueryRow(p.t.Context(), "select "+function+"()::text").Scan(&text); err != nil {
		p.t.Fatal(err)
	}
	at, err := change.ParseLSN(text)
	if err != nil {
		p.t.Fatal(err)
	}
	return at
}

func (p *pair) end() change.LSN      { return p.lsn(p.primary, "pg_current_wal_insert_lsn") }
func (p *pair) replayed() change.LSN { return p.lsn(p.replica, "pg_last_wal_replay_lsn") }

// until waits for a condition in SQL.
func until(t *testing.T, on *pgxpool.Pool, condition string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), long)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		var ok bool
		if err := on.QueryRow(ctx, "select "+condition).Scan(&ok); err != nil && !strings.Contains(err.Error(), "does not exist") {
			t.Fatalf("%s: %v", condition, err)
		}
		if ok {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("not in time: %s", condition)
		}
	}
}

// stopReplay has the replica stand exactly where the primary's WAL ends: the next record begins there.
func (p *pair) stopReplay() change.LSN {
	p.t.Helper()
	for range 100 {
		p.exec(p.primary, `select pg_logical_emit_message(true, 'test', '')`)
		until(p.t, p.replica, "pg_last_wal_replay_lsn() >= '"+p.end().String()+"'")
		p.exec(p.replica, `select pg_wal_replay_pause()`)
		until(p.t, p.replica, `pg_get_wal_replay_pause_state() = 'paused'`)
		if at := p.replayed(); at == p.end() {
			return at
		}
		p.resume()
	}
	p.t.Fatal("the primary's WAL does not stand still")
	return 0
}

func (p *pair) resume() { p.exec(p.replica, `select pg_wal_replay_resume()`) }

// page reads user 1's rows.
func (p *pair) page(r *snapshot.Reader, log snapshot.Standing) (snapshot.Page, error) {
	return r.Page(p.t.Context(), "public.t", "1", nil, log, 1000, noLimit)
}

func (p *pair) expect(log snapshot.Standing, rows int) {
	p.t.Helper()
	page, err := p.page(p.reader(long), log)
	if err != nil || len(page.Rows) != rows {
		p.t.Errorf("%d rows, %v; want %d", len(page.Rows), err, rows)
	}
}

func (p *pair) refused(log snapshot.Standing, want error) {
	p.t.Helper()
	patience := long
	if errors.Is(want, snapshot.ErrBehind) {
		patience = short
	}
	if page, err := p.page(p.reader(patience), log); !errors.Is(err, want) {
		p.t.Errorf("%d rows, %v; want %v", len(page.Rows), err, want)
	}
}

// A24: a page waits until the replica is strictly past the snapshot's position, where a commit's record may begin,
// and it waits for nothing that won't come by itself.
func TestA24PagesWaitForReplay(t *testing.T) {
	p := newPair(t, `create table t (id int primary key, owner int not null); insert into t values (1, 1)`)
	writer, err := p.primary.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := writer.Exec(t.Context(), `insert into t values (2, 1)`); err != nil {
		t.Fatal(err)
	}
	log := p.log()
	log.Past = p.stopReplay()
	if err := writer.Commit(t.Context()); err != nil { // its record is at the position
		t.Fatal(err)
	}
	p.refused(log, snapshot.ErrBehind)
	p.resume()
	p.expect(log, 2)

	p.stopReplay()
	p.exec(p.primary, `insert into t values (3, 1)`)
	log = p.log() // it has the commit
	p.refused(log, snapshot.ErrBehind)
	// Where the snapshot began before it, the row need not be there.
	log.Past = 1
	p.expect(log, 2)
	p.resume()
	p.expect(p.log(), 3)

	// All is replayed and nothing happens on the primary: a heartbeat moves it.
	p.exec(p.primary, `select pg_create_logical_replication_slot('witness', 'test_decoding')`)
	for range 5 { // the server's own records may move it as well
		log.Past = p.stopReplay()
		p.resume()
		p.expect(log, 3)
		var beats int
		if err := p.primary.QueryRow(t.Context(), `
select count(*) from pg_logical_slot_peek_changes('witness', null, null) where data like '%nudge.heartbeat%'`).Scan(&beats); err != nil {
			t.Fatal(err)
		}
		if beats > 0 {
			return
		}
	}
	t.Error("no heartbeat")
}

// A5: a commit shows on a replica while its record is replayed, which begins where replay stands: a log that stands
// there does not have it yet.
func TestA05FloorOnAReplica(t *testing.T) {
	p := newPair(t, `create table t (id int primary key, owner int not null); insert into t values (1, 1)`)
	p.expect(p.log(), 1) // it is there
	replayed := p.stopReplay()
	log := p.log()
	log.Past = replayed - 1
	page, err := p.page(p.reader(long), log)
	if err != nil || page.Floor <= replayed+40 {
		t.Errorf("floor %s where %s is replayed: %v", page.Floor, replayed, err)
	}
	// What the log will stand at, once it has the next commit, is past the floor.
	p.exec(p.primary, `select pg_logical_emit_message(true, 'nudge.heartbeat', '')`)
	if end := p.end(); end < page.Floor {
		t.Errorf("a heartbeat ends at %s, the floor is %s", end, page.Floor)
	}
}

// A4: on a replica too nothing is read while a transaction is open that began before the epoch, however much the
// replica knows of it.
func TestA04OpenTransactionsOnAReplica(t *testing.T) {
	p := newPair(t, `create table t (id int primary key, owner int not null)`)
	for i, c := range []struct{ name, write, end string }{
		{"of which it has rows", `insert into t values (1, 1)`, `commit`},
		{"of which it has nothing", `select pg_current_xact_id()`, `insert into t values (2, 1); commit`},
		{"prepared", `insert into t values (3, 1); prepare transaction 'p'`, `commit prepared 'p'`},
		{"of many parts", `do $$ begin for i in 1..200 loop begin insert into t values (1000 + i, 2); exception when unique_violation then null; end; end loop; end $$`, `insert into t values (4, 1); commit`},
	} {
		t.Run(c.name, func(t *testing.T) {
			conn, err := p.primary.Acquire(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Release()
			run := func(sql string) {
				t.Helper()
				if _, err := conn.Exec(t.Context(), sql, pgx.QueryExecModeSimpleProtocol); err != nil {
					t.Fatalf("%s: %v", sql, err)
				}
			}
			run("begin; " + c.write)
			var fence int64
			if err := p.primary.QueryRow(t.Context(), `select pg_current_xact_id()::text::bigint`).Scan(&fence); err != nil {
				t.Fatal(err)
			}
			p.exec(p.primary, `select pg_logical_emit_message(true, 'test', '')`)
			log := p.log()
			log.Fence = uint64(fence)
			if page, err := p.page(p.reader(long), log); !errors.Is(err, snapshot.ErrFenced) {
				t.Errorf("beside it: %v, %v", page.Rows, err)
			}
			run(c.end)
			log.Past = p.end()
			p.expect(log, i+1)
		})
	}
}

// A19, I5: a replica that lags behind a change of the table is not read as if it had it.
func TestA19ReplicaBehindItsCatalog(t *testing.T) {
	p := newPair(t, `create table t (id int primary key, owner int not null, body text); insert into t values (1, 1, 'x')`)
	before := p.log()
	p.expect(before, 1)
	p.stopReplay()
	p.exec(p.primary, `alter table t rename body to content`)
	after := p.log()
	after.Past = before.Past
	p.refused(after, snapshot.ErrUnknown)
	p.expect(before, 1)
	p.resume()
	after.Past = p.end()
	p.expect(after, 1)
	before.Past = p.end()
	p.refused(before, snapshot.ErrUnknown)
}

// midPage has a page be read on a replica, of one row, and runs do while it is. waits is a condition for "it waits in
// the middle since then".
func midPage(t *testing.T, do func(p *pair, waits func(since string) string)) error {
	t.Helper()
	p := newPair(t, `
create table t (id int primary key, owner int not null);
insert into t values (1, 1);
create function open() returns bool volatile language plpgsql as $$ begin perform pg_advisory_xact_lock_shared(42); return true; end $$;
alter table t enable row level security;
create policy slow on t using (open());
create role reader login in role pg_read_all_stats;
grant select on t to reader`)
	until(t, p.replica, `exists (select from pg_roles where rolname = 'reader')`)
	p.exec(p.replica, `alter system set max_standby_streaming_delay = 0`)
	p.exec(p.replica, `select pg_reload_conf()`)
	gate, err := p.replica.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer gate.Release()
	if _, err := gate.Exec(t.Context(), `select pg_advisory_lock(42)`); err != nil {
		t.Fatal(err)
	}
	asReader := *p
	asReader.replica = pgtest.Pool(t, strings.Replace(p.replica.Config().ConnString(), "postgres@", "reader@", 1), value.SessionSettings())
	read := make(chan error, 1)
	reader, log := asReader.reader(long), p.log()
	go func() {
		page, err := p.page(reader, log)
		if err == nil && len(page.Rows) != 1 {
			err = errors.New("no row")
		}
		read <- err
	}()
	waits := func(since string) string {
		return `exists (select from pg_stat_activity where usename = 'reader' and wait_event_type = 'Lock' and xact_start > '` + since + `')`
	}
	until(t, p.replica, waits(`-infinity`))
	do(p, waits)
	if _, err := gate.Exec(t.Context(), `select pg_advisory_unlock(42)`); err != nil {
		t.Fatal(err)
	}
	return <-read
}

// A statement that replay cancels is run again.
func TestReplayConflicts(t *testing.T) {
	err := midPage(t, func(p *pair, waits func(string) string) {
		var since string
		if err := p.replica.QueryRow(t.Context(), `select clock_timestamp()::text`).Scan(&since); err != nil {
			t.Fatal(err)
		}
		p.exec(p.primary, `begin; lock table t in access exclusive mode; commit`)
		until(t, p.replica, waits(since))
	})
	if err != nil {
		t.Error(err)
	}
}

// A page that was being read while the replica was promoted may have rows of the other history.
func TestA24PromotedInMidPage(t *testing.T) {
	err := midPage(t, func(p *pair, _ func(string) string) { p.exec(p.replica, `select pg_promote()`) })
	if !errors.Is(err, snapshot.ErrForeign) {
		t.Error(err)
	}
}
