package changefeed_test

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"runtime/metrics"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nudgesync/nudge/changefeed"
	"github.com/nudgesync/nudge/changefeed/change"
	"github.com/nudgesync/nudge/changefeed/changelog"
)

func long() bool { return os.Getenv("NUDGE_LONG") != "" }

// I3: two feeds over one WAL, one of which spills all that is more than a row, write the same log.
func TestI03SpilledLogIsTheSame(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	elsewhere := newRig(t) // a database for the other log
	spilled := *r
	spilled.slot += "_b"
	spilled.log = changelog.Open(elsewhere.db, spilled.slot)

	var frames sync.Map // of spilled transactions: their number
	r.start(nil)
	spilled.start(func(c *changefeed.Config) {
		c.Log, c.SpillBytes = spilled.log, 400
		c.Publish = func(_ context.Context, f change.Frame) {
			if f.HeadsOnly {
				frames.Store(f.Next, len(f.Changes))
			}
		}
	})
	r.settle()
	spilled.settle()

	const seed = 7
	random := rand.New(rand.NewPCG(seed, 0))
	for range 60 {
		var sql []string
		for range 1 + random.IntN(12) {
			id, user := random.IntN(25), random.IntN(4)
			sql = append(sql, [...]string{
				fmt.Sprintf(`insert into items values (%d, %d, 1, repeat('x', %d)) on conflict do nothing`, id, user, random.IntN(9000)),
				fmt.Sprintf(`delete from items where id = %d`, id),
				fmt.Sprintf(`update items set user_id = nullif(%d, 0) where id between %d and %d`, user, id, id+5),
				fmt.Sprintf(`update items set version = version + 1 where id < %d`, id),
				fmt.Sprintf(`update items set id = id + 100 where id = %d and not exists (select from items where id = %d)`, id, id+100),
				fmt.Sprintf(`update items set id = id - 100 where id = %d and not exists (select from items where id = %d)`, id+100, id),
				`select nudge.origin('phone')`,
				fmt.Sprintf(`insert into items select i, %d from generate_series(1000, 1050) i on conflict do nothing`, user),
				`delete from items where id >= 1000`,
			}[random.IntN(9)])
		}
		if random.IntN(15) == 0 {
			sql = append(sql, `truncate items`, `insert into items select i, 1 from generate_series(0, 9) i`)
		}
		r.exec(`begin; ` + strings.Join(sql, "; ") + `; commit`)
	}
	r.settle()
	spilled.settle()
	want, got := r.all(), spilled.all()
	if len(got) != len(want) {
		t.Fatalf("%d changes, want %d", len(got), len(want))
	}
	for i := range want {
		want[i].Pos.Epoch, got[i].Pos.Epoch = 0, 0 // random bits
		if !reflect.DeepEqual(want[i], got[i]) {
			t.Fatal(cmp.Diff(want[i], got[i]))
		}
	}
	n := 0
	frames.Range(func(_, changes any) bool {
		if changes != 0 {
			t.Errorf("a frame of heads with %d changes", changes)
		}
		n++
		return true
	})
	if n < 20 || len(want) < 100 {
		t.Errorf("only %d transactions spilled, %d changes", n, len(want))
	}
}

// memory is what the Go runtime holds of the machine's, bytes.
func memory() uint64 {
	s := []metrics.Sample{{Name: "/memory/classes/total:bytes"}, {Name: "/memory/classes/heap/released:bytes"}}
	metrics.Read(s)
	return s[0].Value.Uint64() - s[1].Value.Uint64()
}

// A transaction far larger than memory may hold: in the log at once or not at all, as heads on the bus.
// NUDGE_LONG makes it five million rows.
func TestP21LargeTransaction(t *testing.T) {
	rows, spill, every := 200_000, 1<<20, 5*time.Millisecond
	if long() {
		rows, spill, every = 5_000_000, 32<<20, time.Second/2
	}
	r := newRig(t)
	var frames []change.Frame // of the feed's goroutine
	large := make(chan struct{})
	stop := r.start(func(c *changefeed.Config) {
		c.SpillBytes = spill
		c.Publish = func(_ context.Context, f change.Frame) {
			frames = append(frames, f)
			if f.HeadsOnly {
				close(large)
			}
		}
	})
	before := r.settle()
	start := memory()
	peakBefore := resetPeak(t)
	began := time.Now()
	r.exec(`insert into items select i, 1 + i % 1000, 1, 'take with food' from generate_series(1, $1::int) i`, rows)
	t.Logf("written in %v", time.Since(began))

	// Whoever reads meanwhile sees nothing of it, or all, with the position behind it.
	most := start
	for done := false; !done; {
		var position int64
		var n int
		err := r.db.QueryRow(t.Context(), `
select f.position, (select count(*) from (select from nudge.changes c limit 100000) c) from nudge.feed f`).Scan(&position, &n)
		if err != nil {
			t.Fatal(err)
		}
		if n != 0 && n != min(rows, 100_000) || n != 0 && change.LSN(position) == before.Position {
			t.Fatalf("%d of %d changes at %d", n, rows, position)
		}
		most = max(most, memory())
		done = n > 0
		<-time.After(every)
	}
	<-large
	stop()
	t.Logf("%d rows in the log after %v; memory grew by %d MiB of the Go runtime, %d MiB of the process (peak)", rows,
		time.Since(began), (most-start)>>20, (resetPeak(t)-peakBefore)>>20)
	if grown := most - start; grown > 256<<20 {
		t.Errorf("memory grew by %d MiB", grown>>20)
	}

	var n, distinct, first, last int
	if err := r.db.QueryRow(t.Context(), `
select count(*), count(distinct key), min(seq), max(seq) from nudge.changes where op = 'u'`).Scan(&n, &distinct, &first, &last); err != nil {
		t.Fatal(err)
	}
	if n != rows || distinct != rows || first != 1 || last != rows {
		t.Errorf("%d changes of %d rows, numbered %d to %d", n, distinct, first, last)
	}
	heads, at := 0, before.Head()
	for _, f := range frames {
		if f.Prev == f.Next || f.Prev.Before(at) {
			continue
		}
		if f.Prev != at {
			t.Errorf("a frame from %v follows %v", f.Prev, at)
		}
		at = f.Next
		if f.HeadsOnly {
			heads++
		}
	}
	if heads != 1 {
		t.Errorf("%d frames of heads only", heads)
	}
}

// resetPeak returns the most memory that the process had resident since the last call, bytes.
func resetPeak(t *testing.T) int {
	t.Helper()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	var kib int
	for line := range strings.Lines(string(status)) {
		_, _ = fmt.Sscanf(line, "VmHWM: %d kB", &kib)
	}
	if err := os.WriteFile("/proc/self/clear_refs", []byte("5"), 0); err != nil {
		t.Fatal(err)
	}
	return kib << 10
}

// Many tiny transactions: NUDGE_LONG makes it 100,000.
func TestTinyTransactions(t *testing.T) {
	t.Parallel()
	n := 5000
	if long() {
		n = 100_000
	}
	r := newRig(t)
	stop := r.start(nil)
	r.settle()
	r.exec(fmt.Sprintf(`
do $$ begin
  for i in 0..%d loop
    if i < 100 then insert into items values (i, i %% 7); else update items set version = version + 1 where id = i %% 100; end if;
    commit;
  end loop;
end $$`, n-1))
	r.settle()
	stop()
	r.check()
	if got := len(r.all()); got != n {
		t.Errorf("%d changes of %d transactions", got, n)
	}
}

// A transaction that stays open holds nobody up, and stands where it commits.
func TestLongOpenTransaction(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.start(func(c *changefeed.Config) { c.SpillBytes = 1000 })
	r.settle()
	open, err := r.db.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = open.Rollback(context.WithoutCancel(t.Context())) }()
	for i := range 50 {
		if _, err := open.Exec(t.Context(), `insert into items values ($1, 1)`, 1000+i); err != nil {
			t.Fatal(err)
		}
		r.exec(`insert into items values ($1, 2)`, i)
		if i%10 == 0 {
			r.settle()
		}
	}
	r.settle()
	if err := open.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.settle()
	all := r.all()
	if len(all) != 100 {
		t.Fatalf("%d changes", len(all))
	}
	for i, c := range all {
		if want := [...]change.Scope{"user:2", "user:1"}[i/50]; c.Scope != want {
			t.Errorf("change %d is of %s", i, c.Scope)
		}
	}
	r.check()
}

// watch is a logger that hands on the errors of a feed that starts over.
type watch struct {
	slog.Handler
	failures chan string
}

func (w watch) Handle(_ context.Context, rec slog.Record) error {
	if rec.Level < slog.LevelWarn { // a sample that was cut off by the test's end
		return nil
	}
	rec.Attrs(func(a slog.Attr) bool {
		if err, ok := a.Value.Any().(error); ok {
			select {
			case w.failures <- err.Error():
			default:
			}
		}
		return true
	})
	return nil
}

// A disk that can't take a large transaction is said by name, and loses nothing.
func TestSpillWithoutDisk(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	dir := filepath.Join(t.TempDir(), "not", "yet")
	w := watch{logger().Handler(), make(chan string, 1)}
	r.start(func(c *changefeed.Config) {
		c.SpillBytes, c.SpillDir, c.Logger = 1000, dir, slog.New(w)
	})
	epoch := r.settle().Epoch
	r.exec(`insert into items select i, 1 from generate_series(1, 100) i`)
	if got := <-w.failures; !strings.Contains(got, "feed_spill_failed: ") || !strings.Contains(got, dir) {
		t.Errorf("the feed says: %s", got)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if s := r.settle(); s.Epoch != epoch {
		t.Errorf("a new epoch: %s", s.Reason)
	}
	r.check()
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// The log's connection is ended in the middle of a large append: all of it comes again.
func TestKillLogBackendWhileCopying(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	w := watch{logger().Handler(), make(chan string, 1)}
	stop := r.start(func(c *changefeed.Config) { c.SpillBytes, c.Logger = 100_000, slog.New(w) })
	r.settle()
	// The COPY stops at its 5000th row while the lock is held.
	r.exec(`
create function stopper() returns trigger language plpgsql as $$
begin perform pg_advisory_xact_lock(42); return new; end $$`)
	r.exec(`create trigger stopper before insert on nudge.changes for each row when (new.seq = 5000) execute function stopper()`)
	blocker, err := r.db.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer blocker.Release()
	if _, err := blocker.Exec(t.Context(), `select pg_advisory_lock(42)`); err != nil {
		t.Fatal(err)
	}
	r.exec(`insert into items select i, 1, 1, repeat('x', 100) from generate_series(1, 8000) i`)
	deadline := time.Now().Add(30 * time.Second)
	for killed := 0; killed == 0; {
		if time.Now().After(deadline) {
			t.Fatal("no append waits")
		}
		if err := r.db.QueryRow(t.Context(), `
select count(pg_terminate_backend(pid)) from pg_stat_activity where datname = current_database() and wait_event = 'advisory'`).Scan(&killed); err != nil {
			t.Fatal(err)
		}
	}
	<-w.failures
	if _, err := blocker.Exec(t.Context(), `select pg_advisory_unlock(42)`); err != nil {
		t.Fatal(err)
	}
	r.settle()
	stop()
	r.check()
}

// P8: an append may take longer than anybody's patience. Until it is done, the server hears from us.
func TestP08StatusWhileStoring(t *testing.T) {
	t.Parallel()
	acks := 3
	if long() {
		acks = 25 // one a second: longer than wal_sender_timeout, and than the feed's own watchdog
	}
	r := newRig(t)
	appending, heard := make(chan struct{}), make(chan struct{}, 1000)
	release := make(chan struct{})
	var once sync.Once
	w := watch{logger().Handler(), make(chan string, 1)}
	stop := r.start(func(c *changefeed.Config) {
		c.SpillBytes, c.MaxBatch, c.Logger = 1000, 1, slog.New(w)
		c.Failpoint = func(s changefeed.Step) error {
			switch s {
			case changefeed.BeforeAppend:
				once.Do(func() { close(appending); <-release })
			case changefeed.AfterAck:
				heard <- struct{}{}
			}
			return nil
		}
	})
	r.state("the first epoch", func(changelog.State) bool { return true })
	r.exec(`insert into items select i, 1 from generate_series(1, 100) i`)
	<-appending
	for len(heard) > 0 {
		<-heard
	}
	for range acks {
		<-heard
	}
	close(release)
	r.settle()
	stop()
	r.check()
	select {
	case err := <-w.failures:
		t.Errorf("the feed started over: %s", err)
	default:
	}
}
