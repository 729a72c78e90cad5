package tail_test

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/nudgesync/nudge/changefeed/change"
	"github.com/nudgesync/nudge/changefeed/tail"
)

const epoch change.Epoch = 4<<32 | 7

// node is a tail at work, with what it has announced.
type node struct {
	*tail.Tail
	advanced chan change.Frame
}

// startNode runs a tail until the test ends. Within a bubble it is warm on return, if the log answers.
func startNode(t *testing.T, log *naiveLog, maxBytes int64) *node {
	t.Helper()
	n := &node{advanced: make(chan change.Frame, 1000)}
	tl, err := tail.New(tail.Config{
		Log: log, MaxBytes: maxBytes, Logger: slog.New(slog.DiscardHandler),
		OnAdvance: func(f change.Frame) { n.advanced <- f },
	})
	if err != nil {
		t.Fatal(err)
	}
	n.Tail = tl
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := tl.Run(ctx); err != nil {
			t.Errorf("Run: %v", err)
		}
	}()
	t.Cleanup(func() { cancel(); <-done })
	synctest.Wait()
	return n
}

func (n *node) since(t *testing.T, after change.Position, scopes ...change.Scope) tail.Stretch {
	t.Helper()
	s, err := n.Since(t.Context(), scopes, after, 0, 0)
	if err != nil {
		t.Fatalf("Since %s: %v", after, err)
	}
	return s
}

func (n *node) refuses(t *testing.T, after change.Position, want error) {
	t.Helper()
	if _, err := n.Since(t.Context(), []change.Scope{"user:1"}, after, 0, 0); !errors.Is(err, want) {
		t.Fatalf("Since %s: %v, want %v", after, err, want)
	}
}

func same(t *testing.T, got, want []change.Change) {
	t.Helper()
	if d := cmp.Diff(want, got, cmpopts.EquateEmpty()); d != "" {
		t.Fatal(d)
	}
}

func TestA07LastFrameLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newLog(epoch)
		n := startNode(t, log, 1<<20)
		<-n.advanced // the warm-up
		at := log.state().Next
		lost := log.commit(up("user:1", 10))

		if s := n.since(t, at, "user:1"); s.Head != at || len(s.Changes) > 0 {
			t.Fatalf("a node that heard of nothing knows %s", s.Head)
		}
		// No later frame shows the hole, and nobody asks: the node finds it by itself, and says so.
		select {
		case f := <-n.advanced:
			if f.Next != lost.Next || f.HeadsOnly {
				t.Fatalf("announced %+v", f)
			}
			same(t, f.Changes, lost.Changes)
		case <-time.After(4 * time.Second):
			t.Fatal("nothing announced after 4 s of silence")
		}
		same(t, n.since(t, at, "user:1").Changes, lost.Changes)
	})
}

// A reader that comes while the node is stale gets what the log held when it came, or an error; and
// all that come at once cost one question.
func TestA07StaleNodeAsksOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newLog(epoch)
		release := make(chan struct{})
		n := startNode(t, log, 1<<20)
		at := log.state().Next
		log.set(func() { log.onState = func() { <-release } })
		time.Sleep(3 * time.Second)
		synctest.Wait() // the worker's own question waits in State, having read the old head
		lost := log.commit(up("user:1", 10))
		calls := log.called()

		var wg sync.WaitGroup
		for range 100 {
			wg.Go(func() { same(t, n.since(t, at, "user:1").Changes, lost.Changes) })
		}
		synctest.Wait()
		close(release)
		wg.Wait()
		if asked := log.called() - calls; asked > 2 { // one State and one Stretch, for all of them
			t.Fatalf("%d calls of the log for 100 readers", asked)
		}
	})
}

func TestA07StaleNodeAndLogAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newLog(epoch)
		n := startNode(t, log, 1<<20)
		at := log.state().Next
		log.set(func() { log.away = true })
		time.Sleep(3 * time.Second)
		synctest.Wait()
		calls := log.called()
		for range 100 {
			n.refuses(t, at, errAway)
		}
		if asked := log.called() - calls; asked > 0 {
			t.Fatalf("%d calls of a log that is known to be away", asked)
		}
		log.set(func() { log.away = false })
		time.Sleep(4 * time.Second)
		n.since(t, at, "user:1")
	})
}

// The bus brings the missing frame after all, before the log has answered.
func TestA07ReorderedFrames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newLog(epoch)
		n := startNode(t, log, 1<<20)
		<-n.advanced
		at := log.state().Next
		first, second, third := log.commit(up("user:1", 1)), log.commit(up("user:1", 2)), log.commit(up("user:1", 3))
		log.set(func() { log.away = true })
		for _, f := range []change.Frame{third, second, first, second} {
			n.Apply(f)
		}
		for _, want := range []change.Frame{first, second, third} {
			same(t, (<-n.advanced).Changes, want.Changes)
		}
		if s := n.since(t, at, "user:1"); len(s.Changes) != 3 {
			t.Fatalf("%d changes of 3", len(s.Changes))
		}
	})
}

func TestA13CursorAheadOfTheNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newLog(epoch)
		n := startNode(t, log, 1<<20)
		fast := log.commit(up("user:1", 10)).Next // handed out by a faster node

		if s := n.since(t, fast, "user:1"); s.Head != fast || len(s.Changes) > 0 {
			t.Fatalf("the answer to %s goes up to %s", fast, s.Head)
		}
		future := fast
		future.LSN += 1000
		n.refuses(t, future, tail.ErrAhead)
	})
}

func TestA13EpochAheadOfTheNode(t *testing.T) {
	for name, next := range map[string]change.Epoch{"counted on": epoch.Next(), "counted alike": epoch - 1} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				log := newLog(epoch)
				n := startNode(t, log, 1<<20)
				old := log.state().Next
				log.begin(next)
				at := log.state().Next

				if s := n.since(t, at, "user:1"); s.Epoch != next || s.Head != at {
					t.Fatalf("answered with epoch %s and head %s", s.Epoch, s.Head)
				}
				n.refuses(t, old, tail.ErrEpoch)
				var wrong *tail.EpochError
				if _, err := n.Since(t.Context(), nil, old, 0, 0); !errors.As(err, &wrong) || wrong.Node != next {
					t.Fatalf("%v does not name epoch %s", err, next)
				}
			})
		})
	}
}

func TestA15EveryScopeHearsOfAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newLog(epoch)
		n := startNode(t, log, 1<<20)
		at := log.state().Next
		f := log.commit(up("user:1", 1), change.Change{Scope: change.All, Table: "public.t", Op: change.Reset, Reason: change.ReasonTruncate}, up("user:2", 1))
		n.Apply(f)
		same(t, n.since(t, at, "user:1").Changes, f.Changes[:2])
		same(t, n.since(t, at, "user:9").Changes, f.Changes[1:2])
		same(t, n.since(t, at, change.All, change.All).Changes, f.Changes[1:2])
		for scope, want := range map[change.Scope]int{"user:1": 1, "user:2": 2, "user:9": 1} {
			if p, ok := n.HeadOf(scope); !ok || p != f.Changes[want].Pos {
				t.Errorf("head of %s is %s, want %s", scope, p, f.Changes[want].Pos)
			}
		}
	})
}

// A row that leaves one scope and stays in another comes as two entries, each under its scope.
func TestA16EntriesNameTheirScope(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newLog(epoch)
		n := startNode(t, log, 1<<20)
		at := log.state().Next
		gone := change.Change{Scope: "list:1", Table: "public.t", Op: change.Delete, Key: []byte(`{"id":1}`)}
		f := log.commit(gone, up("list:2", 1))
		n.Apply(f)
		same(t, n.since(t, at, "list:1", "list:2", "list:1").Changes, f.Changes)
		same(t, n.since(t, at, "list:2").Changes, f.Changes[1:])
	})
}

// A transaction that is too large for the bus is too large for the window: the node reads a
// bounded part of it, starts anew at the log's head and tells everybody.
func TestA22HugeTransaction(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const budget = 1 << 20
		log := newLog(epoch)
		n := startNode(t, log, budget)
		<-n.advanced
		before := log.state().Next
		huge := make([]change.Change, 50_000)
		for i := range huge {
			huge[i] = up("user:1", 100)
		}
		f := log.commit(huge...)
		f.Changes, f.HeadsOnly = nil, true
		n.Apply(f)

		if got := <-n.advanced; !got.HeadsOnly || got.Prev != before || got.Next != f.Next {
			t.Fatalf("announced %+v", got)
		}
		n.since(t, f.Next, "user:1")
		n.refuses(t, before, tail.ErrBefore)
		if log.stretchd > budget/200 {
			t.Fatalf("read %d changes of a stretch that is skipped", log.stretchd)
		}
	})
}

// A batch that travels as heads only, but is small, is read: cursors before it stay in memory.
func TestA22HeadsOnlyOfModestSize(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newLog(epoch)
		n := startNode(t, log, 1<<20)
		<-n.advanced
		at := log.state().Next
		whole := log.commit(up("user:1", 100), up("user:2", 100))
		f := whole
		f.Changes, f.HeadsOnly = nil, true
		n.Apply(f)
		same(t, n.since(t, at, "user:1").Changes, whole.Changes[:1])
		if got := <-n.advanced; got.HeadsOnly {
			t.Fatal("announced to everybody what is known to concern two")
		}
	})
}
