package changelog_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/nudgesync/nudge/changefeed/change"
	"github.com/nudgesync/nudge/changefeed/changelog"
	"github.com/nudgesync/nudge/internal/devpg/pgtest"
	"github.com/nudgesync/nudge/migrations"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// open returns an empty log in a database of its own.
func open(t *testing.T) (*changelog.Log, *pgxpool.Pool) {
	t.Helper()
	dsn := pgtest.Database(t)
	if _, err := migrations.Up(t.Context(), dsn); err != nil {
		t.Fatal(err)
	}
	pool := pgtest.Pool(t, dsn)
	return changelog.Open(pool, "nudge"), pool
}

func epochState(e change.Epoch, at change.LSN) changelog.State {
	return changelog.State{Epoch: e, Position: at, SystemID: "1", Timeline: 1, Database: "app", ConfigHash: 7, Config: []byte("{}"), Reason: "first"}
}

// begin opens a writer and its first epoch at LSN 100.
func begin(t *testing.T, l *changelog.Log) (*changelog.Writer, change.Epoch) {
	t.Helper()
	w, err := l.Writer(t.Context(), "test", time.Hour)
	if !errors.Is(err, changelog.ErrNoEpoch) {
		t.Fatalf("a new log: %v", err)
	}
	e := change.Epoch(0).Next()
	if err := w.NewEpoch(t.Context(), epochState(e, 100)); err != nil {
		t.Fatal(err)
	}
	return w, e
}

// changes makes n changes of one transaction for a scope.
func changes(e change.Epoch, lsn change.LSN, scope change.Scope, n int) []change.Change {
	out := make([]change.Change, n)
	for i := range out {
		out[i] = change.Change{
			Pos: change.Position{Epoch: e, LSN: lsn, Seq: uint32(i + 1)}, Scope: scope, Table: "public.t", Op: change.Upsert,
			Key: []byte(fmt.Sprintf(`{"id":%d}`, i)), Row: []byte(fmt.Sprintf(`{"id":%d,"at":%d}`, i, lsn)),
			Origin: "phone", CommittedAt: time.UnixMicro(1_700_000_000_000_000).UTC(),
		}
	}
	return out
}

func appendTo(t *testing.T, w *changelog.Writer, next change.LSN, cs ...change.Change) {
	t.Helper()
	if err := w.Append(t.Context(), changelog.Batch{Next: next, Changes: cs}); err != nil {
		t.Fatal(err)
	}
}

func TestReadReturnsWhatWasAppended(t *testing.T) {
	l, _ := open(t)
	w, e := begin(t, l)
	small, large := changes(e, 110, change.User("7"), 3), changes(e, 120, change.User("7"), 300)
	other := changes(e, 130, change.User("8"), 1)
	reset := change.Change{Pos: change.Position{Epoch: e, LSN: 140, Seq: 1}, Scope: change.All, Table: "public.t", Op: change.Reset, Reason: change.ReasonTruncate, CommittedAt: time.UnixMicro(0).UTC()}
	appendTo(t, w, 115, small...)
	appendTo(t, w, 125, large...)
	appendTo(t, w, 150, append(other, reset)...)

	want := append(append(append([]change.Change{}, small...), large...), reset)
	page, err := l.Read(t.Context(), []change.Scope{change.User("7")}, change.Position{Epoch: e, LSN: 100}, 1000, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, page.Changes); diff != "" || page.More {
		t.Errorf("more %v, diff %s", page.More, diff)
	}
	if page.State.Position != 150 {
		t.Errorf("state %+v", page.State)
	}
	// Ceilings cut, and say so; the rest follows the last change.
	page, err = l.Read(t.Context(), []change.Scope{change.User("7")}, want[0].Pos, 4, 1<<20)
	if err != nil || !page.More || len(page.Changes) != 4 || page.Changes[0].Pos != want[1].Pos {
		t.Errorf("by rows: %d changes, more %v, %v", len(page.Changes), page.More, err)
	}
	page, err = l.Read(t.Context(), []change.Scope{change.User("7")}, want[0].Pos, 1000, 500)
	if err != nil || !page.More || len(page.Changes) == 0 || len(page.Changes) > 5 {
		t.Errorf("by bytes: %d changes, more %v, %v", len(page.Changes), page.More, err)
	}
	// A stretch holds every scope.
	var all []change.Change
	err = l.Stretch(t.Context(), want[1].Pos, change.Position{Epoch: e, LSN: 150}, func(c change.Change) error {
		all = append(all, c)
		return nil
	})
	if err != nil || len(all) != 303-2+2 {
		t.Errorf("stretch of %d, %v", len(all), err)
	}
}

// I2, P10: only the feed that knows the position appends.
func TestP10ZombieIsFenced(t *testing.T) {
	l, _ := open(t)
	w, e := begin(t, l)
	zombie, err := l.Writer(t.Context(), "zombie", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	appendTo(t, w, 115, changes(e, 110, "user:7", 1)...)
	for _, n := range []int{0, 1, 300} {
		err := zombie.Append(t.Context(), changelog.Batch{Next: 115, Changes: changes(e, 110, "user:7", n)})
		if !errors.Is(err, changelog.ErrFenced) {
			t.Errorf("zombie appends %d: %v", n, err)
		}
	}
	if err := zombie.NewEpoch(t.Context(), epochState(e.Next(), 100)); !errors.Is(err, changelog.ErrFenced) {
		t.Errorf("zombie begins an epoch: %v", err)
	}
	page, err := l.Read(t.Context(), []change.Scope{"user:7"}, change.Position{Epoch: e, LSN: 100}, 10, 1<<20)
	if err != nil || len(page.Changes) != 1 {
		t.Errorf("%d changes, %v", len(page.Changes), err)
	}
}

func TestRetentionMovesTheHorizon(t *testing.T) {
	l, pool := open(t)
	w, e := begin(t, l)
	appendTo(t, w, 115, changes(e, 110, "user:7", 2)...)
	if err := l.Trim(t.Context()); err != nil {
		t.Fatal(err)
	}
	appendTo(t, w, 125, changes(e, 120, "user:7", 1)...) // the writer follows into the new segment
	read := func(lsn change.LSN) (int, error) {
		p, err := l.Read(t.Context(), []change.Scope{"user:7"}, change.Position{Epoch: e, LSN: lsn}, 10, 1<<20)
		return len(p.Changes), err
	}
	if _, err := read(112); !errors.Is(err, changelog.ErrGone) {
		t.Errorf("before the horizon: %v", err)
	}
	if n, err := read(115); n != 1 || err != nil {
		t.Errorf("at the horizon: %d, %v", n, err)
	}
	if err := l.Stretch(t.Context(), change.Position{Epoch: e, LSN: 112}, change.Position{Epoch: e, LSN: 125}, func(change.Change) error { return nil }); !errors.Is(err, changelog.ErrGone) {
		t.Errorf("stretch from before the horizon: %v", err)
	}
	if n, err := l.Retain(t.Context(), time.Now().Add(-time.Hour)); n != 0 || err != nil {
		t.Errorf("nothing is old: %d, %v", n, err)
	}
	var tables int
	if err := pool.QueryRow(t.Context(), `select count(*) from pg_class where relname ~ '^changes_\d+$'`).Scan(&tables); err != nil || tables != 1 {
		t.Errorf("%d segments, %v", tables, err)
	}
	// A new epoch: the old cursors are gone, its own start is not.
	if err := w.NewEpoch(t.Context(), epochState(e.Next(), 50)); err != nil {
		t.Fatal(err)
	}
	if _, err := read(125); !errors.Is(err, changelog.ErrGone) {
		t.Errorf("a cursor of the old epoch: %v", err)
	}
}

// The log reaches back to where its oldest segment was opened, until that is dropped.
func TestHorizonAge(t *testing.T) {
	l, pool := open(t)
	if _, err := l.HorizonAge(t.Context()); !errors.Is(err, changelog.ErrNoEpoch) {
		t.Errorf("before the first epoch: %v", err)
	}
	w, e := begin(t, l)
	appendTo(t, w, 115, changes(e, 110, "user:7", 2)...)
	if _, err := pool.Exec(t.Context(), `update nudge.segments set created_at = created_at - interval '3 days'`); err != nil {
		t.Fatal(err)
	}
	if rolled, err := w.Roll(t.Context(), time.Now().Add(2*time.Hour)); !rolled || err != nil {
		t.Fatalf("rolled %v, %v", rolled, err)
	}
	if age, err := l.HorizonAge(t.Context()); age < 72*time.Hour || err != nil {
		t.Errorf("%v, %v", age, err)
	}
	if n, err := l.Retain(t.Context(), time.Now().Add(time.Hour)); n != 1 || err != nil {
		t.Fatalf("dropped %d, %v", n, err)
	}
	if age, err := l.HorizonAge(t.Context()); age > 24*time.Hour || err != nil {
		t.Errorf("after the drop: %v, %v", age, err)
	}
}

// A segment that is opened by somebody else while an append waits for the feed's row: the append must not
// go to the old one, which may be dropped as soon as it is no longer the newest.
func TestAppendDuringRollKeepsItsChanges(t *testing.T) {
	for _, n := range []int{1, 300} {
		l, pool := open(t)
		w, e := begin(t, l)
		appendTo(t, w, 115, changes(e, 110, "user:7", 1)...)

		tx, err := pool.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var segment int
		if err := tx.QueryRow(t.Context(), `update nudge.feed set segment = segment + 1 returning segment`).Scan(&segment); err != nil {
			t.Fatal(err)
		}
		if _, err := tx.Exec(t.Context(), `select nudge.segment_open($1, $2, 115)`, segment, int64(e)); err != nil {
			t.Fatal(err)
		}
		appended := make(chan error, 1)
		go func() {
			appended <- w.Append(context.WithoutCancel(t.Context()), changelog.Batch{Next: 125, Changes: changes(e, 120, "user:7", n)})
		}()
		for waiting := 0; waiting == 0; {
			if err := pool.QueryRow(t.Context(), `select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`).Scan(&waiting); err != nil {
				t.Fatal(err)
			}
		}
		if err := tx.Commit(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := <-appended; err != nil {
			t.Fatal(err)
		}
		if dropped, err := l.Retain(t.Context(), time.Now().Add(time.Hour)); dropped != 1 || err != nil {
			t.Fatalf("dropped %d, %v", dropped, err)
		}
		p, err := l.Read(t.Context(), []change.Scope{"user:7"}, change.Position{Epoch: e, LSN: 115}, 1000, 1<<20)
		if err != nil || len(p.Changes) != n {
			t.Errorf("%d of %d changes are left, %v", len(p.Changes), n, err)
		}
	}
}

func TestNewestIsNearTheEnd(t *testing.T) {
	l, _ := open(t)
	w, e := begin(t, l)
	for i := range 20 {
		at := change.LSN(200 + 10*i)
		appendTo(t, w, at+5, changes(e, at, "user:7", 500)...)
	}
	head := change.Position{Epoch: e, LSN: 395}
	count := func(after change.Position) (n int) {
		if err := l.Stretch(t.Context(), after, head, func(change.Change) error { n++; return nil }); err != nil {
			t.Fatal(err)
		}
		return n
	}
	some, err := l.Newest(t.Context(), 200<<10)
	if err != nil {
		t.Fatal(err)
	}
	if n := count(some); n < 500 || n > 5000 {
		t.Errorf("200 KiB are %d changes", n)
	}
	all, err := l.Newest(t.Context(), 1<<30)
	if err != nil || count(all) != 10_000 {
		t.Errorf("all: %v, %v", all, err)
	}
}

// All nodes of a log share its keys.
func TestKeyIsMadeOnce(t *testing.T) {
	l, _ := open(t)
	got := make(chan string, 8)
	for range cap(got) {
		go func() {
			k, err := l.Key(context.WithoutCancel(t.Context()), "cursor")
			if err != nil || len(k) != 32 {
				t.Errorf("key of %d bytes, %v", len(k), err)
			}
			got <- string(k)
		}()
	}
	first := <-got
	for range cap(got) - 1 {
		if k := <-got; k != first {
			t.Error("two keys of one name")
		}
	}
}
