package changefeed_test

import (
	"context"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/nudgesync/nudge/changefeed"
	"github.com/nudgesync/nudge/changefeed/change"
	"github.com/nudgesync/nudge/changefeed/changelog"
	"github.com/nudgesync/nudge/internal/devpg"
	"github.com/nudgesync/nudge/internal/devpg/pgtest"
	"github.com/nudgesync/nudge/migrations"
)

// pair is a rig whose source and log are servers of its own.
type pair struct {
	*rig
	source, journal *devpg.Cluster
	logDB           *pgxpool.Pool
}

func newPair(t *testing.T) *pair {
	t.Helper()
	p := &pair{source: cluster(t, tempDir(t)), journal: cluster(t, tempDir(t))}
	for _, c := range []*devpg.Cluster{p.source, p.journal} {
		if _, err := migrations.Up(t.Context(), c.DSN("postgres")); err != nil {
			t.Fatal(err)
		}
	}
	p.rig = connectRig(t, p.source.DSN("postgres"))
	p.tune = func(f *changefeed.Feed) { f.Hurry(50*time.Millisecond, 10*time.Second) }
	p.logDB = pgtest.Pool(t, p.journal.DSN("postgres"))
	p.exec(schema)
	p.exec(`create publication nudge for table items`)
	return p
}

// external has a feed keep its log on the other server.
func (p *pair) external(c *changefeed.Config) {
	c.Log = changelog.Open(pgtest.Pool(p.t, p.journal.DSN("postgres"), map[string]string{"application_name": "the feed's log"}), p.slot)
}

// signalLog signals the backends of the feed's log.
func (p *pair) signalLog(s syscall.Signal) {
	p.t.Helper()
	rows, err := p.logDB.Query(p.t.Context(), `select pid from pg_stat_activity where application_name = 'the feed''s log'`)
	if err != nil {
		p.t.Fatal(err)
	}
	pids, err := pgx.CollectRows(rows, pgx.RowTo[int])
	if err != nil || len(pids) == 0 {
		p.t.Fatalf("backends %v, %v", pids, err)
	}
	for _, pid := range pids {
		if err := syscall.Kill(pid, s); err != nil {
			p.t.Fatal(err)
		}
	}
}

// stopLog has the feed's log stand still while an append waits for it. Were the gate still to be asked, its
// connection would end with the server's, and the feed with it.
func (p *pair) stopLog() (goOn func()) {
	p.t.Helper()
	ctx := context.WithoutCancel(p.t.Context())
	lock, err := p.logDB.Begin(ctx)
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { _ = lock.Rollback(ctx) })
	if _, err := lock.Exec(ctx, `lock table nudge.feed in exclusive mode`); err != nil {
		p.t.Fatal(err)
	}
	p.exec(`update items set version = version + 1`)
	p.eventually("an append waits", func() (waits bool) {
		if err := p.logDB.QueryRow(ctx, `
select exists (select from pg_stat_activity where application_name = 'the feed''s log' and wait_event_type = 'Lock')`).Scan(&waits); err != nil {
			p.t.Fatal(err)
		}
		return waits
	})
	p.signalLog(syscall.SIGSTOP)
	return func() {
		p.signalLog(syscall.SIGCONT)
		if err := lock.Rollback(ctx); err != nil {
			p.t.Error(err)
		}
	}
}

// shutdown is a fast one of the source. The bound is generous: what it is to find waits for the server's
// walsender timeout, or for the feed's patience, or for ever.
func (p *pair) shutdown() {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), time.Minute)
	defer cancel()
	began := time.Now()
	if err := p.source.Stop(ctx); err != nil {
		p.t.Fatal(err)
	}
	took := time.Since(began).Round(time.Millisecond)
	p.t.Logf("shut down in %v", took)
	if took > 8*time.Second {
		p.t.Errorf("the server waited %v for the feed", took)
	}
}

// writing updates items until the server is gone.
func (p *pair) writing(dsn string) (wait func()) {
	done := make(chan struct{})
	started := make(chan struct{})
	go func() {
		defer close(done)
		conn, err := pgx.Connect(context.Background(), dsn)
		if err != nil {
			p.t.Error(err)
			close(started)
			return
		}
		for n := 0; err == nil; n++ {
			_, err = conn.Exec(context.Background(), `update items set version = version + 1`)
			if n == 20 || (err != nil && n < 20) {
				close(started)
			}
		}
		_ = conn.Close(context.Background())
	}()
	<-started
	return func() { <-done }
}

// P7, A21: a fast shutdown of the source never waits for the feed, whatever the feed waits for.
func TestP07A21FastShutdown(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	restart := func() {
		t.Helper()
		if err := p.source.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
		p.db.Reset() // its connections are of the server that ended
	}
	again := func(t *testing.T, stop func()) {
		t.Helper()
		restart()
		p.settle()
		stop()
		p.check()
		p.released()
	}
	sub := func(name string, do func(t *testing.T)) {
		t.Run(name, func(inner *testing.T) {
			p.t = inner
			defer func() { p.t = t }()
			do(inner)
		})
	}
	first := p.start(nil)
	p.settle()
	p.exec(`insert into items select i, 1 from generate_series(1, 20) i`)
	p.settle()
	first()
	p.released()

	sub("following, under writes", func(t *testing.T) {
		stop := p.start(nil)
		p.settle()
		wait := p.writing(p.dsn)
		p.shutdown()
		wait()
		again(t, stop)
	})
	// From here on the log is elsewhere, under another slot.
	p.slot += "_b"
	p.log = changelog.Open(p.logDB, p.slot)
	p.exec(`truncate items`)
	outside := p.start(p.external)
	p.settle()
	p.exec(`insert into items select i, 1 from generate_series(1, 20) i`)
	p.settle()
	outside()
	p.released()

	sub("A21: the log elsewhere, under writes", func(t *testing.T) {
		stop := p.start(p.external)
		p.settle()
		wait := p.writing(p.dsn)
		p.shutdown()
		wait()
		again(t, stop)
	})
	sub("the log stands still", func(t *testing.T) {
		stop := p.start(p.external)
		p.settle()
		goOn := p.stopLog()
		p.shutdown()
		goOn()
		again(t, stop)
	})
	sub("the log stands still, and memory is full", func(t *testing.T) {
		stop := p.start(func(c *changefeed.Config) { p.external(c); c.MaxBatch = 1 })
		p.settle()
		goOn := p.stopLog()
		for range 3 {
			p.exec(`update items set version = version + 1, body = repeat(md5(random()::text), 2000)`)
		}
		p.shutdown()
		goOn()
		again(t, stop)
	})
	sub("the log is gone", func(t *testing.T) {
		stop := p.start(p.external)
		p.settle()
		if err := p.journal.Kill(); err != nil {
			t.Fatal(err)
		}
		p.exec(`update items set version = version + 1`)
		p.shutdown()
		if err := p.journal.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
		again(t, stop)
	})
	sub("A21: the gate waits, reading stops, status goes on", func(t *testing.T) {
		heard := make(chan struct{}, 1000)
		stop := p.start(func(c *changefeed.Config) {
			p.external(c)
			c.MaxBatch = 1 << 18
			c.Failpoint = func(s changefeed.Step) error {
				if s == changefeed.AfterAck {
					select {
					case heard <- struct{}{}:
					default:
					}
				}
				return nil
			}
		})
		p.settle()
		p.exec(`alter system set synchronous_standby_names = 'nobody'`)
		p.exec(`select pg_reload_conf()`)
		commitsWait(t, p.dsn)
		standby := make(chan error, 1)
		go func() {
			conn, err := pgx.Connect(context.Background(), p.dsn)
			if err == nil {
				_, err = conn.Exec(context.Background(), `insert into items values (1000, 1)`)
				_ = conn.Close(context.Background())
			}
			standby <- err
		}()
		p.eventually("a commit waits for its standby", func() bool {
			var n int
			if err := p.db.QueryRow(t.Context(), `select count(*) from pg_stat_activity where wait_event = 'SyncRep'`).Scan(&n); err != nil {
				t.Fatal(err)
			}
			return n == 1
		})
		for range 8 { // 20 MB, behind it in the log
			p.exec(`update items set version = version + 1, body = (select string_agg(md5(random()::text), '') from generate_series(1, 4000)) where id < 1000`)
		}
		var written, sent string
		if err := p.db.QueryRow(t.Context(), `select pg_current_wal_lsn()::text`).Scan(&written); err != nil {
			t.Fatal(err)
		}
		for len(heard) > 0 {
			<-heard
		}
		for range 3 {
			<-heard // one a second
		}
		if err := p.db.QueryRow(t.Context(), `select sent_lsn::text from pg_stat_replication`).Scan(&sent); err != nil {
			t.Fatal(err)
		}
		w, err1 := change.ParseLSN(written)
		s, err2 := change.ParseLSN(sent)
		if err1 != nil || err2 != nil {
			t.Fatal(err1, err2)
		}
		t.Logf("%d MiB were left to the server", (w-s)>>20)
		if w < s+4<<20 {
			t.Errorf("the feed read on while the gate was closed: %s of %s", sent, written)
		}
		p.shutdown()
		if err := <-standby; err == nil { // it was written, and is there after the restart
			t.Error("the commit did not wait for its standby")
		}
		restart()
		p.exec(`alter system reset synchronous_standby_names`)
		p.exec(`select pg_reload_conf()`)
		p.settle()
		stop()
		p.check()
	})
}
