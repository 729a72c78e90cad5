package changefeed_test

import (
	"log/slog"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nudgesync/nudge/changefeed"
	"github.com/nudgesync/nudge/changefeed/changelog"
	"github.com/nudgesync/nudge/internal/devpg"
	"github.com/nudgesync/nudge/internal/devpg/pgtest"
	"github.com/nudgesync/nudge/migrations"
)

// cramped restarts a server with a bound on the size of its files: what it finds is a full disk. The test's
// own process has that bound meanwhile, so no test may run beside it.
func cramped(t *testing.T, server *devpg.Cluster, bytes uint64) {
	t.Helper()
	var before syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &before); err != nil {
		t.Fatal(err)
	}
	within := syscall.Rlimit{Cur: bytes, Max: before.Max}
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &within); err != nil {
		t.Fatal(err)
	}
	err := server.Restart(t.Context())
	if e := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &before); e != nil {
		t.Fatal(e)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// A log that can take no more is said by name, and loses nothing; it is gone on with once there is room.
func TestLogIsFull(t *testing.T) {
	server := cluster(t, tempDir(t))
	if _, err := migrations.Up(t.Context(), server.DSN("postgres")); err != nil {
		t.Fatal(err)
	}
	cramped(t, server, 20<<20) // more than a segment of its WAL takes
	r := newRig(t)
	w := watch{logger().Handler(), make(chan string, 1)}
	r.log = changelog.Open(pgtest.Pool(t, server.DSN("postgres")), r.slot)
	r.tune = func(f *changefeed.Feed) { f.Hurry(50*time.Millisecond, 10*time.Second) }
	stop := r.start(func(c *changefeed.Config) { c.Log, c.Logger = r.log, slog.New(w) })
	before := r.settle()
	r.exec(`
insert into items select i, 1, 1, (select string_agg(md5(random()::text), '') from generate_series(1, 40)) from generate_series(1, 20000) i`)
	if err := <-w.failures; !strings.Contains(err, "could not extend file") {
		t.Errorf("the feed says: %s", err)
	}
	if all := r.all(); len(all) != 0 {
		t.Errorf("%d changes of a transaction that did not fit", len(all))
	}
	if err := server.Restart(t.Context()); err != nil { // with room
		t.Fatal(err)
	}
	if s := r.settle(); s.Epoch != before.Epoch {
		t.Errorf("a new epoch: %s", s.Reason)
	}
	stop()
	r.check()
}
