package changefeed_test

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/nudgesync/nudge/changefeed"
	"github.com/nudgesync/nudge/changefeed/change"
	"github.com/nudgesync/nudge/changefeed/changelog"
	"github.com/nudgesync/nudge/changefeed/value"
	"github.com/nudgesync/nudge/internal/devpg/pgtest"
)

// TestKillSeeds runs random schedules: transactions of every shape and size, and between them feeds that are
// killed at a random step, cancelled, doubled, or lose a connection. The log must then hold exactly what was
// committed, once and in order (I1, I2). NUDGE_LONG runs 1,000; NUDGE_SEED=n runs one alone.
func TestKillSeeds(t *testing.T) {
	first, n, lanes := 1, 40, 2
	if long() {
		n, lanes = 1000, 4
	}
	if s := os.Getenv("NUDGE_SEED"); s != "" {
		var err error
		if first, err = strconv.Atoi(s); err != nil {
			t.Fatal(err)
		}
		n, lanes = 1, 1
	}
	began := time.Now()
	t.Run("lanes", func(t *testing.T) {
		for lane := range lanes {
			t.Run(strconv.Itoa(lane), func(t *testing.T) {
				t.Parallel()
				r := newRig(t)
				feeds := pgtest.Pool(t, r.dsn, value.SessionSettings(), map[string]string{"application_name": "a feed of the schedule"})
				r.tune = func(f *changefeed.Feed) { f.Hurry(4*time.Millisecond, 10*time.Second) }
				stop := r.start(nil)
				r.settle()
				stop()
				for seed := first + lane; seed < first+n; seed += lanes {
					if !t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) { r.seed(t, uint64(seed), feeds) }) {
						return
					}
				}
			})
		}
	})
	t.Logf("%d seeds in %v", n, time.Since(began).Round(time.Second))
}

// seed runs one schedule on the rig's database, with rows of its own.
func (r *rig) seed(t *testing.T, seed uint64, feeds *pgxpool.Pool) {
	inner := *r
	r = &inner
	r.t = t
	random := rand.New(rand.NewPCG(seed, 3))
	if seed%16 == 0 {
		r.exec(`checkpoint`) // moves the slot's restart_lsn: each start decodes from there
	}
	before, err := r.log.Feed(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	s := schedule{
		rig: r, pool: feeds, random: random, first: int64(seed) * 1_000_000, rows: map[int64]row{},
		spill: []int{0, 400, 5000}[random.IntN(3)], batch: []int{0, 1, 4096}[random.IntN(3)],
	}
	s.run()
	if after := r.settle(); after.Epoch != before.Epoch {
		t.Errorf("a new epoch: %s", after.Reason)
	}
	s.stop()
	s.check(before.Head())
	if t.Failed() {
		t.Logf("run it alone with NUDGE_SEED=%d", seed)
	}
}

type row struct {
	owner   int // 0: nobody
	version int
}

// schedule is one seed's run, and what the log must hold of it.
type schedule struct {
	*rig
	pool         *pgxpool.Pool // the feeds'
	random       *rand.Rand
	first        int64
	next         int64
	rows         map[int64]row
	want         [][]string // a transaction's changes, sorted
	spill, batch int
	feeds        []func() // their stops

	mu    sync.Mutex // guards what the feeds' failpoints see
	armed map[changefeed.Step]int
}

var allSteps = []changefeed.Step{
	changefeed.BeforeDecode, changefeed.AfterDecode, changefeed.BeforeSpill, changefeed.BeforeAppend,
	changefeed.AfterAppend, changefeed.BeforeAck, changefeed.AfterAck,
}

func (s *schedule) run() {
	s.armed = map[changefeed.Step]int{}
	s.addFeed()
	for range 6 + s.random.IntN(10) {
		switch s.random.IntN(10) {
		case 0, 1, 2:
			s.mu.Lock()
			s.armed[allSteps[s.random.IntN(len(allSteps))]] = 1 + s.random.IntN(4)
			s.mu.Unlock()
		case 3:
			s.disturb()
		default:
			s.transaction()
		}
	}
	s.transaction() // whatever the schedule was, there is one
	s.mu.Lock()
	clear(s.armed)
	s.mu.Unlock()
	if len(s.feeds) == 0 {
		s.addFeed()
	}
}

// disturb happens at a random moment: it waits for nothing.
func (s *schedule) disturb() {
	switch s.random.IntN(4) {
	case 0:
		s.stop()
		s.addFeed()
	case 1:
		if len(s.feeds) < 2 {
			s.addFeed()
		}
	case 2:
		s.exec(`select pg_terminate_backend(active_pid) from pg_replication_slots where slot_name = $1 and active`, s.slot)
	case 3:
		s.exec(`select pg_terminate_backend(pid) from pg_stat_activity
			where datname = current_database() and application_name = 'a feed of the schedule'`)
	}
}

func (s *schedule) addFeed() {
	s.feeds = append(s.feeds, s.start(func(c *changefeed.Config) {
		c.Name = fmt.Sprint("feed ", len(s.feeds))
		c.Source, c.Log = s.pool, changelog.Open(s.pool, s.slot)
		c.SpillBytes, c.MaxBatch = s.spill, s.batch
		c.Failpoint = s.failpoint
	}))
}

func (s *schedule) failpoint(at changefeed.Step) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.armed[at] == 0 {
		return nil
	}
	if s.armed[at]--; s.armed[at] > 0 {
		return nil
	}
	return errKilled
}

func (s *schedule) stop() {
	for _, stop := range s.feeds {
		stop()
	}
	s.feeds = nil
}

// transaction touches each row at most once, so that its net effect is what its statements say.
func (s *schedule) transaction() {
	var sql, want []string
	rows := map[int64]row{}
	for k, v := range s.rows {
		rows[k] = v
	}
	touched := map[int64]bool{}
	logged := func(op string, owner int, id int64, version int) {
		if owner != 0 {
			want = append(want, fmt.Sprintf("%s user:%d %d v%d", op, owner, id, version))
		}
	}
	body := fmt.Sprintf("repeat('x', %d)", s.random.IntN(3000))
	for range 1 + s.random.IntN(8) {
		id, found := s.pick(rows, touched)
		switch kind := s.random.IntN(6); {
		case kind == 0 || !found: // several new rows, at times many
			n := 1 + s.random.IntN(3)
			if s.random.IntN(6) == 0 {
				n = 50 + s.random.IntN(300)
			}
			owner := s.random.IntN(4)
			from := s.first + s.next
			if s.next += int64(n); s.next >= 1_000_000 {
				s.t.Fatal("too many rows for one seed")
			}
			sql = append(sql, fmt.Sprintf(`insert into items select i, nullif(%d, 0), 1, %s from generate_series(%d, %d) i`, owner, body, from, from+int64(n)-1))
			for i := range int64(n) {
				rows[from+i], touched[from+i] = row{owner, 1}, true
				logged("u", owner, from+i, 1)
			}
		case kind == 1:
			sql = append(sql, fmt.Sprintf(`delete from items where id = %d`, id))
			logged("d", rows[id].owner, id, 0)
			delete(rows, id)
		case kind == 2:
			owner, was := s.random.IntN(4), rows[id]
			sql = append(sql, fmt.Sprintf(`update items set user_id = nullif(%d, 0), version = version + 1 where id = %d`, owner, id))
			if owner != was.owner {
				logged("d", was.owner, id, 0)
			}
			rows[id] = row{owner, was.version + 1}
			logged("u", owner, id, was.version+1)
		default:
			was := rows[id]
			sql = append(sql, fmt.Sprintf(`savepoint s; delete from items where id = %d; rollback to s; update items set version = version + 1, body = %s where id = %d`, id, body, id))
			if kind == 3 {
				sql[len(sql)-1] = fmt.Sprintf(`update items set version = version + 1 where id = %d`, id)
			}
			rows[id] = row{was.owner, was.version + 1}
			logged("u", was.owner, id, was.version+1)
		}
		touched[id] = true
	}
	if s.random.IntN(8) == 0 {
		s.exec(`begin; ` + strings.Join(sql, "; ") + `; rollback`)
		return
	}
	s.exec(`begin; ` + strings.Join(sql, "; ") + `; commit`)
	s.rows = rows
	if len(want) > 0 {
		slices.Sort(want)
		s.want = append(s.want, want)
	}
}

// pick is a row that this transaction has not touched.
func (s *schedule) pick(rows map[int64]row, touched map[int64]bool) (int64, bool) {
	var free []int64
	for id := range rows {
		if !touched[id] {
			free = append(free, id)
		}
	}
	if len(free) == 0 {
		return 0, false
	}
	slices.SortFunc(free, cmp.Compare[int64]) // a map's order is not the seed's
	return free[s.random.IntN(len(free))], true
}

// check compares the log after a position with what was committed.
func (s *schedule) check(after change.Position) {
	state, err := s.log.Feed(context.WithoutCancel(s.t.Context()))
	if err != nil {
		s.t.Fatal(err)
	}
	var got [][]string
	var last change.Position
	if err := s.log.Stretch(s.t.Context(), after, state.Head(), func(c change.Change) error {
		if !last.Before(c.Pos) {
			s.t.Errorf("position %v follows %v", c.Pos, last)
		}
		if c.Pos.LSN != last.LSN {
			got = append(got, nil)
		}
		if (c.Pos.LSN == last.LSN && c.Pos.Seq != last.Seq+1) || (c.Pos.LSN != last.LSN && c.Pos.Seq != 1) {
			s.t.Errorf("position %v follows %v", c.Pos, last)
		}
		last = c.Pos
		var it item
		data := c.Row
		if len(data) == 0 {
			data = c.Key
		}
		if err := json.Unmarshal(data, &it); err != nil {
			return fmt.Errorf("%s: %w", data, err)
		}
		t := &got[len(got)-1]
		*t = append(*t, fmt.Sprintf("%c %s %d v%d", c.Op, c.Scope, it.ID, it.Version))
		return nil
	}); err != nil {
		s.t.Fatal(err)
	}
	for i := range max(len(got), len(s.want)) {
		var g, w []string
		if i < len(got) {
			g = got[i]
			slices.Sort(g)
		}
		if i < len(s.want) {
			w = s.want[i]
		}
		if !slices.Equal(g, w) {
			s.t.Fatalf("transaction %d of %d (the log has %d) is\n%s\nwant\n%s", i, len(s.want), len(got), strings.Join(g, "\n"), strings.Join(w, "\n"))
		}
	}
}
