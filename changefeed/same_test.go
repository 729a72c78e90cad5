package changefeed_test

import (
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/nudgesync/nudge/changefeed"
	"github.com/nudgesync/nudge/changefeed/change"
	"github.com/nudgesync/nudge/changefeed/changelog"
)

// I3: two feeds over one WAL, each killed at random steps and with other limits, write byte-identical logs.
func TestI03KilledFeedsWriteTheSameLog(t *testing.T) {
	t.Parallel()
	seeds := 4
	if long() {
		seeds = 40
	}
	a := newRig(t)
	elsewhere := newRig(t) // a database for the other log
	b := *a
	b.slot += "_b"
	b.log = changelog.Open(elsewhere.db, b.slot)
	both := []*rig{a, &b}
	for _, r := range both {
		r.tune = func(f *changefeed.Feed) { f.Hurry(4*time.Millisecond, 10*time.Second) }
		stop := r.start(nil)
		r.settle()
		defer stop()
		stop()
	}
	// What the logs have of their slots' beginnings is not the same; from here on all of it is.
	var from change.LSN
	kills := make([]int, len(both))
	var mu sync.Mutex // guards kills
	for seed := range seeds {
		random := rand.New(rand.NewPCG(uint64(seed), 4))
		if seed == 0 {
			var at string
			if err := a.db.QueryRow(t.Context(), `select pg_logical_emit_message(true, 'nudge.heartbeat', '')::text`).Scan(&at); err != nil {
				t.Fatal(err)
			}
			var err error
			if from, err = change.ParseLSN(at); err != nil {
				t.Fatal(err)
			}
		}
		var stops []func()
		for i, r := range both {
			mine := rand.New(rand.NewPCG(uint64(seed), uint64(100+i)))
			left := 12
			stops = append(stops, r.start(func(c *changefeed.Config) {
				c.Log = r.log
				c.SpillBytes, c.MaxBatch = []int{0, 400, 5000}[mine.IntN(3)], []int{0, 1, 4096}[mine.IntN(3)]
				c.Failpoint = func(changefeed.Step) error {
					mu.Lock()
					defer mu.Unlock()
					if left == 0 || mine.IntN(12) != 0 {
						return nil
					}
					left--
					kills[i]++
					return errKilled
				}
			}))
		}
		s := schedule{rig: a, random: random, first: int64(seed+1) * 1_000_000, rows: map[int64]row{}}
		for range 25 {
			s.transaction()
		}
		for i, r := range both {
			r.settle()
			stops[i]()
		}
	}
	logs := make([][]string, len(both))
	for i, db := range []*rig{a, elsewhere} {
		// All columns but segment, which is the log's own.
		rows, err := db.db.Query(t.Context(), `
select concat_ws('|', lsn, seq, scope, tbl, op, coalesce(key, '-'), coalesce(row, '-'), coalesce(origin, '-'), coalesce(reason, '-'), committed_at)
  from nudge.changes where lsn >= $1 order by lsn, seq`, int64(from))
		if err != nil {
			t.Fatal(err)
		}
		if logs[i], err = pgx.CollectRows(rows, pgx.RowTo[string]); err != nil {
			t.Fatal(err)
		}
	}
	if d := cmp.Diff(logs[0], logs[1]); d != "" {
		t.Errorf("the logs differ: %s", d)
	}
	t.Logf("%d changes, %v kills", len(logs[0]), kills)
	if len(logs[0]) < 100 || kills[0] == 0 || kills[1] == 0 {
		t.Errorf("%d changes, %v kills", len(logs[0]), kills)
	}
}
