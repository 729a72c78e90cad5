package changefeed_test

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/nudgesync/nudge/changefeed"
	"github.com/nudgesync/nudge/changefeed/change"
	"github.com/nudgesync/nudge/changefeed/changelog"
	"github.com/nudgesync/nudge/changefeed/route"
	"github.com/nudgesync/nudge/changefeed/value"
	"github.com/nudgesync/nudge/internal/devpg/pgtest"
	"github.com/nudgesync/nudge/migrations"
)

func TestMain(m *testing.M) {
	if os.Getenv(sleeperEnv) != "" {
		runSleeper()
		return
	}
	pgtest.Main(m)
}

const schema = `
create table items (id bigint primary key, user_id bigint, version int not null default 1, body text);
alter table items replica identity full;`

// rig is a source database with a log in it. Feeds are started on it by the tests.
type rig struct {
	t    *testing.T
	dsn  string
	slot string
	db   *pgxpool.Pool
	log  *changelog.Log
	tune func(*changefeed.Feed) // if not nil, called with each feed before it runs
}

func newRig(t *testing.T) *rig {
	t.Helper()
	r := connectRig(t, pgtest.Database(t))
	if _, err := migrations.Up(t.Context(), r.dsn); err != nil {
		t.Fatal(err)
	}
	r.exec(schema)
	r.exec(`create publication nudge for table items`)
	return r
}

// connectRig is a rig on a database as it is.
func connectRig(t *testing.T, dsn string) *rig {
	t.Helper()
	// A feed's own commits must not wait for the standby that a test takes away.
	local := map[string]string{"synchronous_commit": "local"}
	r := &rig{t: t, dsn: dsn, db: pgtest.Pool(t, dsn, value.SessionSettings(), local)}
	if err := r.db.QueryRow(t.Context(), `select 'slot_' || current_database()`).Scan(&r.slot); err != nil {
		t.Fatal(err)
	}
	r.log = changelog.Open(r.db, r.slot)
	return r
}

func (r *rig) exec(sql string, args ...any) {
	r.t.Helper()
	if _, err := r.db.Exec(r.t.Context(), sql, args...); err != nil {
		r.t.Fatalf("%s: %v", sql, err)
	}
}

func logger() *slog.Logger {
	var w io.Writer = io.Discard
	if os.Getenv("NUDGE_TEST_LOG") != "" {
		w = os.Stderr
	}
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

func (r *rig) routing(specs map[string]route.Spec) *route.Config {
	r.t.Helper()
	names := make([]string, 0, len(specs))
	for n := range specs {
		names = append(names, n)
	}
	catalog, err := route.Catalog(r.t.Context(), r.db, names)
	if err != nil {
		r.t.Fatal(err)
	}
	c, err := route.Resolve(specs, catalog, false)
	if err != nil {
		r.t.Fatal(err)
	}
	return c
}

// start runs a feed until the test ends or stop is called. edit may change its configuration first.
func (r *rig) start(edit func(*changefeed.Config)) (stop func()) {
	r.t.Helper()
	_, stop = r.run(edit)
	return stop
}

func (r *rig) run(edit func(*changefeed.Config)) (feed *changefeed.Feed, stop func()) {
	r.t.Helper()
	cfg := changefeed.Config{
		DSN: r.dsn, Source: r.db, Log: r.log, Slot: r.slot, Publication: "nudge", Name: "test", Logger: logger(),
		Metrics: changefeed.NewMetrics(prometheus.NewRegistry()), Publish: func(context.Context, change.Frame) {},
		Routing: r.routing(map[string]route.Spec{"public.items": {Owner: "user_id"}}),
	}
	if edit != nil {
		edit(&cfg)
	}
	feed, err := changefeed.New(cfg)
	if err != nil {
		r.t.Fatal(err)
	}
	if r.tune != nil {
		r.tune(feed)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := feed.Run(ctx); err != nil {
			r.t.Errorf("feed: %v", err)
		}
	})
	stop = sync.OnceFunc(func() { cancel(); wg.Wait() })
	r.t.Cleanup(stop)
	return feed, stop
}

// state waits for the log's state to be as asked, for as long as the log moves on, within reason.
func (r *rig) state(what string, ok func(changelog.State) bool) changelog.State {
	r.t.Helper()
	const stuck, most = 30 * time.Second, 5 * time.Minute
	began, moved := time.Now(), time.Now()
	var at change.Position
	for {
		s, err := r.log.Feed(r.t.Context())
		if err == nil && ok(s) {
			return s
		}
		if s.Head() != at {
			at, moved = s.Head(), time.Now()
		}
		if time.Since(moved) > stuck || time.Since(began) > most {
			r.t.Fatalf("%s: still at %v, fence %d, doubt %q, publication %s, tables %v; %v", what, at, s.SnapshotFence, s.Doubt, s.Publication, s.Relations, err)
		}
		<-time.After(5 * time.Millisecond)
	}
}

// settle waits until the log has passed everything written so far.
func (r *rig) settle() changelog.State {
	r.t.Helper()
	r.state("the first epoch", func(changelog.State) bool { return true })
	var at string
	if err := r.db.QueryRow(r.t.Context(), `select pg_logical_emit_message(true, 'nudge.heartbeat', '')::text`).Scan(&at); err != nil {
		r.t.Fatal(err)
	}
	lsn, err := change.ParseLSN(at)
	if err != nil {
		r.t.Fatal(err)
	}
	return r.state("past "+at, func(s changelog.State) bool { return s.Position > lsn })
}

// all is the present epoch's log.
func (r *rig) all() []change.Change {
	r.t.Helper()
	s, err := r.log.Feed(r.t.Context())
	if err != nil {
		r.t.Fatal(err)
	}
	var out []change.Change
	if err := r.log.Stretch(r.t.Context(), s.Start(), s.Head(), func(c change.Change) error {
		out = append(out, c)
		return nil
	}); err != nil {
		r.t.Fatal(err)
	}
	return out
}

type item struct {
	ID      int64  `json:"id"`
	UserID  *int64 `json:"user_id"`
	Version int    `json:"version"`
}

// check is the log checker: every item's versions are in the log exactly once and in order, the last one
// is the table's, and positions rise strictly. Items are only ever updated by version + 1 in a
// transaction of their own or with other items, and each was inserted once.
func (r *rig) check() {
	r.t.Helper()
	seen := map[int64]int{}
	var last change.Position
	for _, c := range r.all() {
		if !last.Before(c.Pos) {
			r.t.Errorf("position %v follows %v", c.Pos, last)
		}
		last = c.Pos
		if c.Table != "public.items" || c.Op == change.Reset {
			continue
		}
		var it item
		if err := json.Unmarshal(c.Row, &it); err != nil {
			r.t.Fatalf("row %s: %v", c.Row, err)
		}
		if it.Version != seen[it.ID]+1 {
			r.t.Errorf("item %d: version %d in the log follows %d", it.ID, it.Version, seen[it.ID])
		}
		seen[it.ID] = it.Version
	}
	rows, err := r.db.Query(r.t.Context(), `select id, version from items`)
	if err != nil {
		r.t.Fatal(err)
	}
	n := 0
	for rows.Next() {
		var id int64
		var version int
		if err := rows.Scan(&id, &version); err != nil {
			r.t.Fatal(err)
		}
		if seen[id] != version {
			r.t.Errorf("item %d: the log ends at version %d, the table at %d", id, seen[id], version)
		}
		n++
	}
	if rows.Err() != nil || n == 0 {
		r.t.Fatalf("%d items, %v", n, rows.Err())
	}
}

// logTo is a logger that hands each line to fn.
func logTo(fn func(line string)) *slog.Logger {
	return slog.New(slog.NewTextHandler(writerFunc(func(b []byte) { fn(string(b)) }), &slog.HandlerOptions{Level: slog.LevelDebug}))
}

type writerFunc func([]byte)

func (f writerFunc) Write(b []byte) (int, error) {
	f(b)
	return len(b), nil
}
