package pull_test

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
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
	"github.com/nudgesync/nudge/changefeed/snapshot"
	"github.com/nudgesync/nudge/changefeed/tail"
	"github.com/nudgesync/nudge/changefeed/value"
	"github.com/nudgesync/nudge/internal/devpg/pgtest"
	"github.com/nudgesync/nudge/migrations"
	"github.com/nudgesync/nudge/server/admit"
	"github.com/nudgesync/nudge/server/pull"
	"github.com/nudgesync/nudge/server/wire"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// tailLog says tail.ErrGone where the log says it.
type tailLog struct{ *changelog.Log }

func (l tailLog) Stretch(ctx context.Context, after, upto change.Position, fn func(change.Change) error) error {
	err := l.Log.Stretch(ctx, after, upto, fn)
	if errors.Is(err, changelog.ErrGone) {
		return errors.Join(tail.ErrGone, err)
	}
	return err
}

// rig is a whole node without its network: a database, a feed, a tail and an engine.
type rig struct {
	t       *testing.T
	dsn     string
	db      *pgxpool.Pool
	log     *changelog.Log
	replica *pgxpool.Pool // where snapshots are read; nil: db
	tail    *tail.Tail
	engine  *pull.Engine
	routing *route.Config
	stop    func()

	watchEvery time.Duration // of the next start; 0: the feed's
	tailBytes  int64         // of the next start; 0: 1 MiB
	patience   time.Duration // likewise; 0: the engine's
	pageRows   int           // likewise; 0: 7
	queue      *admit.Queue  // likewise; nil: one of eight places
	lose       func() bool   // whether the bus loses the next frame; nil: never
}

func testLogger() *slog.Logger {
	var w io.Writer = io.Discard
	if os.Getenv("NUDGE_TEST_LOG") != "" {
		w = os.Stderr
	}
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// queue is one before the database.
func queue(t *testing.T, cfg admit.Config) *admit.Queue {
	t.Helper()
	q, err := admit.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return q
}

// newRig starts a node over the schema; every table is owned by its column user_id.
func newRig(t *testing.T, schema string, tables ...string) *rig {
	t.Helper()
	return newRigOn(t, pgtest.Database(t), schema, tables...)
}

func newRigOn(t *testing.T, dsn, schema string, tables ...string) *rig {
	t.Helper()
	local := map[string]string{"synchronous_commit": "local"}
	r := &rig{t: t, dsn: dsn, db: pgtest.Pool(t, dsn, value.SessionSettings(), local)}
	r.exec(schema)
	if _, err := migrations.Up(t.Context(), r.dsn); err != nil {
		t.Fatal(err)
	}
	specs := map[string]route.Spec{}
	publish := "create publication nudge"
	for i, name := range tables {
		specs[name] = route.Spec{Owner: "user_id"}
		publish += map[bool]string{true: " for table ", false: ", "}[i == 0] + name
	}
	r.exec(publish)
	catalog, err := route.Catalog(t.Context(), r.db, tables)
	if err != nil {
		t.Fatal(err)
	}
	if r.routing, err = route.Resolve(specs, catalog, false); err != nil {
		t.Fatal(err)
	}
	r.log = changelog.Open(r.db, "slot_"+r.database())
	r.start(nil)
	return r
}

func (r *rig) database() (name string) {
	if err := r.db.QueryRow(r.t.Context(), "select current_database()").Scan(&name); err != nil {
		r.t.Fatal(err)
	}
	return name
}

// start runs feed and tail until the test ends or stop is called.
func (r *rig) start(failpoint func(changefeed.Step) error) {
	r.t.Helper()
	var err error
	if r.tail, err = tail.New(tail.Config{Log: tailLog{r.log}, MaxBytes: cmp.Or(r.tailBytes, 1<<20), Logger: testLogger()}); err != nil {
		r.t.Fatal(err)
	}
	var feed *changefeed.Feed
	rows, err := snapshot.New(snapshot.Config{
		Pool: cmp.Or(r.replica, r.db), Primary: r.db, Routing: r.routing, Publication: "nudge", Logger: testLogger(), Patience: r.patience,
		Changed: func() { feed.Look() },
	})
	if err != nil {
		r.t.Fatal(err)
	}
	key, err := r.log.Key(r.t.Context(), "cursor")
	if err != nil {
		r.t.Fatal(err)
	}
	if r.queue == nil {
		r.queue = queue(r.t, admit.Config{Places: 8})
	}
	r.engine, err = pull.New(pull.Config{
		Tail: r.tail, Log: r.log, Rows: rows, Queue: r.queue, Routing: r.routing, Key: key, Logger: testLogger(),
		PageRows: cmp.Or(r.pageRows, 7), Patience: r.patience,
	})
	if err != nil {
		r.t.Fatal(err)
	}
	feed, err = changefeed.New(changefeed.Config{
		DSN: r.dsn, Source: r.db, Log: r.log, Routing: r.routing, Slot: "slot_" + r.database(), Publication: "nudge",
		Name: "test", Logger: testLogger(), Metrics: changefeed.NewMetrics(prometheus.NewRegistry()),
		Publish: func(_ context.Context, f change.Frame) {
			if r.lose == nil || !r.lose() {
				r.tail.Apply(f)
			}
		},
		Failpoint: failpoint, WatchEvery: r.watchEvery,
	})
	if err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := feed.Run(ctx); err != nil {
			r.t.Errorf("feed: %v", err)
		}
	})
	wg.Go(func() {
		for ctx.Err() == nil { // until the feed has begun the first epoch
			if err := r.tail.Run(ctx); err != nil && ctx.Err() == nil {
				r.t.Logf("tail: %v", err)
				select {
				case <-ctx.Done():
				case <-time.After(20 * time.Millisecond):
				}
			}
		}
	})
	r.stop = sync.OnceFunc(func() { cancel(); wg.Wait() })
	r.t.Cleanup(r.stop)
}

func (r *rig) exec(sql string, args ...any) {
	r.t.Helper()
	if _, err := r.db.Exec(r.t.Context(), sql, args...); err != nil {
		r.t.Fatalf("%s: %v", sql, err)
	}
}

// pull answers one request, waiting while the node starts.
func (r *rig) pull(req pull.Request) (*pull.Answer, wire.Page) {
	r.t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		a, err := r.engine.Pull(r.t.Context(), req)
		var p *wire.Problem
		if errors.As(err, &p) && p.Code == wire.Starting && time.Now().Before(deadline) {
			<-time.After(5 * time.Millisecond)
			continue
		}
		if err != nil {
			r.t.Fatalf("pull: %v", err)
		}
		var page wire.Page
		body := append(append([]byte("{"), a.AppendMembers(nil)...), '}')
		if err := json.Unmarshal(body, &page); err != nil {
			r.t.Fatalf("%s: %v", body, err)
		}
		return a, page
	}
}

// settle waits until the log has passed everything written so far.
func (r *rig) settle() {
	r.t.Helper()
	var at string
	if err := r.db.QueryRow(r.t.Context(), "select pg_logical_emit_message(true, 'nudge.heartbeat', '')::text").Scan(&at); err != nil {
		r.t.Fatal(err)
	}
	lsn, err := change.ParseLSN(at)
	if err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(r.t.Context(), 20*time.Second)
	defer cancel()
	for {
		head, ok := r.tail.Head()
		if ok && head.Next.LSN > lsn {
			return
		}
		if ctx.Err() != nil {
			r.t.Fatalf("the log did not pass %s: head %v", lsn, head.Next)
		}
		<-time.After(2 * time.Millisecond)
	}
}
