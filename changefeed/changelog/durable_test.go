package changelog_test

import (
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/nudgesync/nudge/changefeed/change"
	"github.com/nudgesync/nudge/changefeed/changelog"
)

// I1: an append is in the flushed WAL when it returns, also in a database that commits asynchronously: what
// was acknowledged to the slot never comes again.
func TestI1AppendsAreFlushed(t *testing.T) {
	l, pool := open(t)
	if _, err := pool.Exec(t.Context(), `do $$ begin
		execute format('alter database %I set synchronous_commit = off', current_database()); end $$`); err != nil {
		t.Fatal(err)
	}
	pool.Reset()
	w, e := begin(t, l)
	for i := range change.LSN(20) {
		n := []int{1, 300}[i%2]
		var flushed bool
		var before string
		if err := pool.QueryRow(t.Context(), `select pg_current_wal_insert_lsn()::text`).Scan(&before); err != nil {
			t.Fatal(err)
		}
		appendTo(t, w, 101+i, changes(e, 100+i, "user:1", n)...)
		if err := pool.QueryRow(t.Context(), `select pg_current_wal_flush_lsn() > $1::text::pg_lsn`, before).Scan(&flushed); err != nil {
			t.Fatal(err)
		}
		if !flushed {
			t.Fatalf("append %d, of %d changes, is not flushed", i, n)
		}
	}
}

// Appends and retention wait for each other, and for nothing else.
func TestRetentionBesideLargeAppends(t *testing.T) {
	l, pool := open(t)
	w, e := begin(t, l)
	done := make(chan error, 1)
	go func() {
		for i := range change.LSN(60) {
			err := w.Append(t.Context(), changelog.Batch{Next: 101 + i, Changes: changes(e, 100+i, "user:1", 3000)})
			if err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	for n := 0; ; n++ {
		select {
		case err := <-done:
			if err != nil {
				t.Fatal(err)
			}
			var deadlocks int
			err = pool.QueryRow(t.Context(), `select deadlocks from pg_stat_database where datname = current_database()`,
				pgx.QueryExecModeExec).Scan(&deadlocks)
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%d trims, %d deadlocks", n, deadlocks)
			return
		default:
		}
		started := time.Now()
		if err := l.Trim(t.Context()); err != nil {
			t.Errorf("trim %d after %v: %v", n, time.Since(started), err)
		}
	}
}
