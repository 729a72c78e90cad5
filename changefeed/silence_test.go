package changefeed_test

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/url"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/nudgesync/nudge/changefeed"
	"github.com/nudgesync/nudge/changefeed/changelog"
	"github.com/nudgesync/nudge/changefeed/value"
	"github.com/nudgesync/nudge/internal/devpg"
	"github.com/nudgesync/nudge/internal/devpg/pgtest"
	"github.com/nudgesync/nudge/migrations"
)

// wire leads to a database, and can go silent: bytes and ends of connections are swallowed, none closes.
type wire struct {
	dsn      string
	listener net.Listener
	wg       sync.WaitGroup
	close    func()

	mu    sync.Mutex
	to    string  // where new lines lead
	mute  [2]bool // what new lines are like: up (to the server), down
	lines []*line
}

// line is one connection through the wire.
type line struct {
	ends [2]net.Conn // the client's, the server's
	mute [2]atomic.Bool
}

func newWire(t *testing.T, dsn string) *wire {
	t.Helper()
	u, err := url.Parse(dsn)
	if err != nil {
		t.Fatal(err)
	}
	w := &wire{to: u.Host}
	var lc net.ListenConfig
	if w.listener, err = lc.Listen(t.Context(), "tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	u.Host = w.listener.Addr().String()
	w.dsn = u.String()
	w.wg.Go(w.accept)
	w.close = sync.OnceFunc(func() {
		_ = w.listener.Close()
		w.mu.Lock()
		for _, l := range w.lines {
			_, _ = l.ends[0].Close(), l.ends[1].Close()
		}
		w.mu.Unlock()
		w.wg.Wait()
	})
	t.Cleanup(w.close)
	return w
}

func (w *wire) accept() {
	for {
		client, err := w.listener.Accept()
		if err != nil {
			return
		}
		var d net.Dialer
		w.mu.Lock()
		to := w.to
		w.mu.Unlock()
		server, err := d.DialContext(context.Background(), "tcp", to)
		if err != nil {
			_ = client.Close()
			continue
		}
		l := &line{ends: [2]net.Conn{client, server}}
		w.mu.Lock()
		w.lines = append(w.lines, l)
		l.mute[0].Store(w.mute[0])
		l.mute[1].Store(w.mute[1])
		w.mu.Unlock()
		for direction := range l.ends {
			w.wg.Go(func() { l.carry(direction) })
		}
	}
}

func (l *line) carry(direction int) {
	from, to := l.ends[direction], l.ends[1-direction]
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		if l.mute[direction].Load() {
			if err != nil {
				return // the other end never hears of it
			}
			continue
		}
		if _, failed := to.Write(buf[:n]); err != nil || failed != nil {
			_ = to.Close()
			return
		}
	}
}

// lead has new lines lead to another server, as a name does after a failover.
func (w *wire) lead(c *devpg.Cluster) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.to = net.JoinHostPort("127.0.0.1", strconv.Itoa(c.Port()))
}

// silence mutes the lines there are, and new ones until heal. What is mute stays so.
func (w *wire) silence(up, down bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.mute = [2]bool{up, down}
	for _, l := range w.lines {
		l.mute[0].Store(up)
		l.mute[1].Store(down)
	}
}

func (w *wire) heal() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.mute = [2]bool{}
}

// pool is one as main makes it: a connection that went silent is found out when it is taken.
func (w *wire) pool(t *testing.T) *pgxpool.Pool {
	t.Helper()
	cfg, err := pgxpool.ParseConfig(w.dsn)
	if err != nil {
		t.Fatal(err)
	}
	for k, v := range value.SessionSettings() {
		cfg.ConnConfig.RuntimeParams[k] = v
	}
	cfg.PingTimeout = time.Second / 2
	pool, err := pgxpool.NewWithConfig(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		w.close() // or pgx waits long for what is mute
		pool.Close()
	})
	return pool
}

// wires is a rig whose feeds reach everything through wires, the log in a database of its own.
type wires struct {
	*rig
	replication, source, log *wire
	logDB                    *pgxpool.Pool // directly
	failures                 chan string
	edit                     func(*changefeed.Config)
}

func newWires(t *testing.T) *wires {
	t.Helper()
	w := &wires{rig: newRig(t), failures: make(chan string, 1)}
	logDSN := pgtest.Database(t)
	if _, err := migrations.Up(t.Context(), logDSN); err != nil {
		t.Fatal(err)
	}
	w.logDB = pgtest.Pool(t, logDSN)
	w.rig.log = changelog.Open(w.logDB, w.slot)
	w.replication, w.source, w.log = newWire(t, w.dsn), newWire(t, w.dsn), newWire(t, logDSN)
	source, log := w.source.pool(t), w.log.pool(t)
	w.tune = func(f *changefeed.Feed) { f.Hurry(50*time.Millisecond, time.Second) }
	w.edit = func(c *changefeed.Config) {
		c.DSN, c.Source, c.Log = w.replication.dsn, source, changelog.Open(log, w.slot)
		c.Patience, c.Logger = time.Second, slog.New(watch{logger().Handler(), w.failures})
	}
	return w
}

// P8: whatever line goes silent in whatever direction, the feed notices by itself, and goes on without
// loss once it can.
func TestP08SilentNetwork(t *testing.T) {
	for _, name := range []string{"replication", "source", "log"} {
		for _, d := range []struct {
			name     string
			up, down bool
		}{{"up", true, false}, {"down", false, true}, {"both", true, true}} {
			if name != "replication" && d.name != "both" && !long() {
				continue
			}
			t.Run(name+" "+d.name, func(t *testing.T) {
				t.Parallel()
				w := newWires(t)
				stop := w.start(w.edit)
				w.settle()
				w.exec(`insert into items select i, 1 from generate_series(1, 5) i`)
				before := w.settle()

				silent := map[string]*wire{"replication": w.replication, "source": w.source, "log": w.log}[name]
				silent.silence(d.up, d.down)
				w.exec(`update items set version = version + 1`)
				w.exec(`insert into items select i, 1 from generate_series(101, 600) i`)
				select {
				case err := <-w.failures:
					t.Log(err)
				case <-time.After(30 * time.Second):
					t.Fatal("the feed did not notice")
				}
				silent.heal()
				w.exec(`update items set version = version + 1`)
				if s := w.settle(); s.Epoch != before.Epoch {
					t.Errorf("a new epoch: %s", s.Reason)
				}
				stop()
				w.check()
			})
		}
	}
}

// P10: a feed that lost its log in mid-append leaves a connection there that holds the feed's row. Nobody
// waits for it.
func TestP10StalledAppendIsTakenOver(t *testing.T) {
	t.Parallel()
	w := newWires(t)
	var slow atomic.Bool
	stop := w.start(func(c *changefeed.Config) {
		w.edit(c)
		c.SpillBytes = 100_000
		c.Failpoint = func(s changefeed.Step) error {
			if s == changefeed.BeforeAppend && slow.Load() {
				return errors.New("not again")
			}
			return nil
		}
	})
	w.settle()
	unlock := stopCopy(t, w.rig, w.logDB)
	w.exec(`insert into items select i, 1, 1, repeat('x', 100) from generate_series(1, 8000) i`)
	copying := func() (n int) {
		if err := w.logDB.QueryRow(t.Context(), `
select count(*) from pg_stat_activity where datname = current_database() and query like '%copy nudge.changes%' and pid <> pg_backend_pid()`).Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	w.eventually("the append waits", func() bool { return waitsForLock(t, w.logDB) == 1 })
	slow.Store(true) // so that the feed has not taken over before it is looked at
	w.log.silence(true, true)
	unlock()
	<-w.failures
	w.log.heal()
	if copying() == 0 {
		t.Error("the stalled append is gone by itself")
	}
	slow.Store(false)
	w.settle()
	stop()
	w.check()
}

// stopCopy has the log's COPY wait at its 5000th row until the returned function is called.
func stopCopy(t *testing.T, r *rig, db *pgxpool.Pool) (unlock func()) {
	t.Helper()
	exec := func(sql string) {
		t.Helper()
		if _, err := db.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	exec(`
create function stopper() returns trigger language plpgsql as $$
begin perform pg_advisory_xact_lock(42); return new; end $$`)
	exec(`create trigger stopper before insert on nudge.changes for each row when (new.seq = 5000) execute function stopper()`)
	blocker, err := db.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := blocker.Exec(t.Context(), `select pg_advisory_lock(42)`); err != nil {
		t.Fatal(err)
	}
	unlock = sync.OnceFunc(func() {
		if _, err := blocker.Exec(context.WithoutCancel(t.Context()), `select pg_advisory_unlock(42)`); err != nil {
			t.Error(err)
		}
		blocker.Release()
	})
	t.Cleanup(unlock)
	return unlock
}

// waitsForLock counts the connections that wait at stopCopy.
func waitsForLock(t *testing.T, db *pgxpool.Pool) (n int) {
	t.Helper()
	if err := db.QueryRow(t.Context(), `
select count(*) from pg_stat_activity where datname = current_database() and wait_event = 'advisory'`).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}
