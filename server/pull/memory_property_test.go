package pull_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/jackc/pgx/v5/pgxpool"
	"pgregory.net/rapid"

	"github.com/nudgesync/nudge/changefeed/change"
	"github.com/nudgesync/nudge/changefeed/changelog"
	"github.com/nudgesync/nudge/changefeed/tail"
	"github.com/nudgesync/nudge/internal/devpg/pgtest"
	"github.com/nudgesync/nudge/migrations"
)

// TestPropertyTailLogAndModelAgree holds the window in memory, the log in a real Postgres and a list of
// everything that is left against each other: under appends, lost and late frames, evictions, new segments,
// retention, new epochs and restarts of the node, for cursors before, within and past both. What a page is read
// from must never show.
func TestPropertyTailLogAndModelAgree(t *testing.T) {
	dsn := pgtest.Database(t)
	if _, err := migrations.Up(t.Context(), dsn); err != nil {
		t.Fatal(err)
	}
	pool := pgtest.Pool(t, dsn)
	epoch := change.Epoch(0)
	rapid.Check(t, func(rt *rapid.T) {
		m := newMemory(t, rt, pool, &epoch)
		defer func() { m.stop() }()
		rt.Repeat(map[string]func(*rapid.T){
			"append": m.append, "append again": m.append, "deliver": m.deliver, "lose": m.lose,
			"read": m.read, "read on": m.read, "roll": rarely(m.roll), "retain": rarely(m.retain), "epoch": rarely(m.epochEnds), "restart": rarely(m.restart),
		})
		// Whatever was lost, a node that meets a cursor of the log's head comes there (A13), and memory answers
		// as the log does.
		for {
			s, err := m.tail.Since(t.Context(), nil, m.head, 0, 0)
			if err == nil && s.Head == m.head {
				break
			}
			if !errors.Is(err, tail.ErrNotReady) && !errors.Is(err, context.DeadlineExceeded) {
				rt.Fatalf("asked for %s, the tail stands at %s: %v", m.head, s.Head, err)
			}
			<-time.After(time.Millisecond)
		}
		m.compare(rt, m.head, m.scopes(rt), 0)
		m.read(rt)
	})
}

// rarely does what is slow, and would leave little to read.
func rarely(action func(*rapid.T)) func(*rapid.T) {
	return func(rt *rapid.T) {
		if rapid.IntRange(0, 5).Draw(rt, "rarely") > 0 {
			rt.Skip()
		}
		action(rt)
	}
}

// memory is one node's window, its log, and what both must answer.
type memory struct {
	t     *testing.T
	rt    *rapid.T
	log   *changelog.Log
	pool  *pgxpool.Pool
	feed  *changelog.Writer
	tail  *tail.Tail
	stop  func()
	epoch *change.Epoch // the newest of all runs: they share a log

	all     []change.Change   // of this epoch, in commit order
	bounds  []change.Position // commit boundaries: the start, and every head since
	head    change.Position
	horizon change.Position
	onWay   []change.Frame
}

func newMemory(t *testing.T, rt *rapid.T, pool *pgxpool.Pool, epoch *change.Epoch) *memory {
	m := &memory{t: t, rt: rt, log: changelog.Open(pool, "nudge"), pool: pool, epoch: epoch}
	var err error
	if m.feed, err = m.log.Writer(t.Context(), "test", time.Hour); err != nil && !errors.Is(err, changelog.ErrNoEpoch) {
		t.Fatal(err)
	}
	m.begin(1000)
	m.retain(rt) // what the run before left
	m.start()
	return m
}

// begin ends the present epoch. LSNs go on, or go back, as after a restore.
func (m *memory) begin(at change.LSN) {
	*m.epoch = m.epoch.Next()
	err := m.feed.NewEpoch(m.t.Context(), changelog.State{
		Epoch: *m.epoch, Position: at, SystemID: "1", Timeline: 1, Database: "app", ConfigHash: 7, Config: []byte("{}"), Reason: "test",
	})
	if err != nil {
		m.t.Fatal(err)
	}
	m.head = change.Position{Epoch: *m.epoch, LSN: at}
	m.horizon, m.all, m.bounds, m.onWay = m.head, nil, []change.Position{m.head}, nil
}

func (m *memory) start() {
	tl, err := tail.New(tail.Config{Log: tailLog{m.log}, MaxBytes: 8 << 10, Stale: 2 * time.Second, Logger: testLogger()})
	if err != nil {
		m.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = tl.Run(ctx) // nil, always
	}()
	m.tail, m.stop = tl, func() { cancel(); <-done }
}

var memoryScopes = []change.Scope{"user:1", "user:2", "user:3", change.All}

func (m *memory) append(rt *rapid.T) {
	prev := m.head
	var made []change.Change
	lsn := prev.LSN
	for range rapid.IntRange(1, 3).Draw(rt, "transactions") {
		lsn += change.LSN(rapid.SampledFrom([]int{0, 0, 8}).Draw(rt, "other WAL")) // A3: a commit may stand at the position
		for i := range rapid.SampledFrom([]int{0, 1, 2, 9, 9, 20, 300}).Draw(rt, "changes") {
			c := change.Change{
				Pos: change.Position{Epoch: prev.Epoch, LSN: lsn, Seq: uint32(i + 1)}, Scope: rapid.SampledFrom(memoryScopes).Draw(rt, "scope"),
				Table: "public.t", Op: change.Upsert, Key: fmt.Append(nil, `{"id":`, i, `}`), Row: fmt.Append(nil, `{"id":`, i, `,"at":`, uint64(lsn), `}`),
				CommittedAt: time.UnixMicro(1_700_000_000_000_000).UTC(),
			}
			if c.Scope == change.All {
				c.Op, c.Key, c.Row, c.Reason = change.Reset, nil, nil, change.ReasonTruncate
			}
			made = append(made, c)
		}
		lsn += 8
	}
	if err := m.feed.Append(m.t.Context(), changelog.Batch{Next: lsn, Changes: made}); err != nil {
		m.t.Fatal(err)
	}
	m.head.LSN = lsn
	m.all, m.bounds = append(m.all, made...), append(m.bounds, m.head)
	f := change.Frame{Epoch: prev.Epoch, Config: 7, Prev: prev, Next: m.head, Changes: made}
	if len(made) > 100 && rapid.Bool().Draw(rt, "heads only") {
		f.Changes, f.HeadsOnly = nil, true
	}
	m.onWay = append(m.onWay, f)
}

func (m *memory) deliver(rt *rapid.T) {
	if len(m.onWay) == 0 {
		rt.Skip()
	}
	i := rapid.IntRange(0, min(1, len(m.onWay)-1)).Draw(rt, "frame")
	m.tail.Apply(m.onWay[i])
	m.onWay = append(m.onWay[:i:i], m.onWay[i+1:]...)
}

func (m *memory) lose(rt *rapid.T) {
	if len(m.onWay) == 0 {
		rt.Skip()
	}
	m.onWay = m.onWay[1:]
}

func (m *memory) roll(*rapid.T) {
	if _, err := m.feed.Roll(m.t.Context(), time.Now().Add(2*time.Hour)); err != nil {
		m.t.Fatal(err)
	}
}

func (m *memory) retain(*rapid.T) {
	if _, err := m.log.Retain(m.t.Context(), time.Now().Add(time.Hour)); err != nil {
		m.t.Fatal(err)
	}
	s, err := m.log.Feed(m.t.Context())
	if err != nil {
		m.t.Fatal(err)
	}
	m.horizon = s.Start()
}

func (m *memory) epochEnds(rt *rapid.T) {
	m.begin(m.head.LSN - change.LSN(rapid.SampledFrom([]int{0, 64}).Draw(rt, "went back")))
}

func (m *memory) restart(*rapid.T) {
	m.stop()
	m.start()
}

func (m *memory) scopes(rt *rapid.T) []change.Scope {
	return rapid.SliceOfNDistinct(rapid.SampledFrom(memoryScopes[:3]), 0, 2, rapid.ID[change.Scope]).Draw(rt, "scopes")
}

// read asks both for what follows a place that a device may hold.
func (m *memory) read(rt *rapid.T) {
	after := rapid.SampledFrom(m.bounds).Draw(rt, "boundary")
	if len(m.all) > 0 && rapid.Bool().Draw(rt, "within a transaction") {
		after = rapid.SampledFrom(m.all).Draw(rt, "after").Pos
	}
	m.compare(rt, after, m.scopes(rt), rapid.SampledFrom([]int{0, 1, 3}).Draw(rt, "ceiling"))
}

func (m *memory) compare(rt *rapid.T, after change.Position, scopes []change.Scope, most int) {
	page, err := m.log.Read(m.t.Context(), scopes, after, max(most, 1)*map[bool]int{true: 1, false: 1 << 20}[most > 0], 1<<30)
	switch gone := after.Before(m.horizon); {
	case gone != errors.Is(err, changelog.ErrGone):
		rt.Fatalf("the log begins at %s; reading after %s: %v", m.horizon, after, err)
	case !gone && err != nil:
		rt.Fatal(err)
	case !gone:
		if page.State.Head() != m.head {
			rt.Fatalf("the log says %s, its head is %s", page.State.Head(), m.head)
		}
		m.same(rt, "log", page.Changes, page.More, scopes, after, m.head, most)
	}
	s, err := m.tail.Since(m.t.Context(), scopes, after, most, 0)
	if errors.Is(err, tail.ErrBefore) {
		return // the log's to answer
	}
	if errors.Is(err, tail.ErrNotReady) || errors.Is(err, context.DeadlineExceeded) {
		return // it warms up; the log had no time
	}
	if err != nil {
		rt.Fatalf("the tail, after %s of epoch %s: %v", after, m.head.Epoch, err)
	}
	if s.Head.Before(after) || m.head.Before(s.Head) {
		rt.Fatalf("the tail answers up to %s; the cursor is %s, the log's head %s", s.Head, after, m.head)
	}
	m.same(rt, "tail", s.Changes, s.More, scopes, after, s.Head, most)
}

// same fails if an answer up to head is not all of the scopes' changes after the cursor, or the first of them.
func (m *memory) same(rt *rapid.T, who string, got []change.Change, more bool, scopes []change.Scope, after, head change.Position, most int) {
	var want []change.Change
	for _, c := range m.all {
		if !after.Before(c.Pos) || head.Before(c.Pos) {
			continue
		}
		for _, s := range append([]change.Scope{change.All}, scopes...) {
			if c.Scope == s {
				want = append(want, c)
			}
		}
	}
	cut := most > 0 && len(want) > most
	if cut {
		want = want[:most]
	}
	if more != cut {
		rt.Fatalf("%s after %s: more is %v, want %v (%d changes)", who, after, more, cut, len(got))
	}
	if d := cmp.Diff(want, got, cmpopts.EquateEmpty()); d != "" {
		rt.Fatalf("%s, scopes %v, (%s, %s]: (-want +got)\n%s", who, scopes, after, head, d)
	}
}
