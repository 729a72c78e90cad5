package tail_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nudgesync/nudge/changefeed/change"
	"github.com/nudgesync/nudge/changefeed/tail"
)

func TestNothingBeforeWarmUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newLog(epoch)
		old := log.commit(up("user:1", 10))
		log.away = true
		n := startNode(t, log, 1<<20)
		early := log.commit(up("user:1", 20))
		n.Apply(early) // subscribed first, warm later
		n.refuses(t, old.Prev, tail.ErrNotReady)
		if _, ok := n.Head(); ok {
			t.Fatal("a head before the warm-up")
		}
		warm := make(chan error, 1)
		go func() { warm <- n.Wait(t.Context(), early.Next) }()
		log.set(func() { log.away = false })
		if err := <-warm; err != nil {
			t.Fatal(err)
		}
		same(t, n.since(t, old.Prev, "user:1").Changes, append(old.Changes, early.Changes...))
		if f := <-n.advanced; !f.HeadsOnly || f.Next != early.Next {
			t.Fatalf("the warm-up announced %+v", f)
		}
	})
}

// A cursor inside an evicted transaction has not seen its end; one at the end has.
func TestEvictionByWholeTransactions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newLog(epoch)
		n := startNode(t, log, 2000)
		first := log.commit(up("user:1", 300), up("user:1", 300), up("user:1", 300))
		second := log.commit(up("user:1", 300), up("user:1", 300))
		n.Apply(first)
		same(t, n.since(t, first.Prev, "user:1").Changes, first.Changes)
		n.Apply(second)
		n.refuses(t, first.Changes[1].Pos, tail.ErrBefore)
		same(t, n.since(t, first.Changes[2].Pos, "user:1").Changes, second.Changes)
		same(t, n.since(t, first.Next, "user:1").Changes, second.Changes)
	})
}

// The log counts bytes in its own way. However much it sends at the warm-up, the newest that fits is kept.
func TestWarmUpKeepsTheNewest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const budget = 100 << 10
		log := newLog(epoch)
		log.generous = true
		var last change.Frame
		for range 2000 {
			last = log.commit(up("user:1", 100), up("user:2", 100))
		}
		n := startNode(t, log, budget)
		if s := n.Stats(); s.Head != last.Next || s.Bytes > budget || s.Bytes < budget*9/10 {
			t.Fatalf("%d bytes of %d up to %s", s.Bytes, budget, s.Head)
		}
		same(t, n.since(t, last.Prev, "user:2").Changes, last.Changes[1:])
		if err := n.Audit(); err != nil {
			t.Error(err)
		}
	})
}

func TestNewEpochByFrame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newLog(epoch)
		n := startNode(t, log, 1<<20)
		<-n.advanced
		zombie := log.commit(up("user:1", 10))
		n.Apply(zombie)
		<-n.advanced
		waiting := make(chan error, 1)
		go func() { waiting <- n.Wait(t.Context(), change.Position{Epoch: epoch, LSN: 1 << 40}) }()
		synctest.Wait()

		log.begin(epoch.Next())
		f := log.commit(up("user:1", 20))
		n.Apply(f)
		if err := <-waiting; !errors.Is(err, tail.ErrEpoch) {
			t.Fatalf("Wait ended with %v", err)
		}
		if got := <-n.advanced; !got.HeadsOnly || got.Next != f.Next {
			t.Fatalf("announced %+v", got)
		}
		n.Apply(zombie)
		same(t, n.since(t, f.Prev, "user:1").Changes, f.Changes)
		if got := n.Stats().Foreign; got != 1 {
			t.Fatalf("%d frames of another epoch counted", got)
		}
	})
}

// The first that is heard of a new epoch is a batch without its changes: the window must not claim them.
func TestNewEpochByHeadsOnlyFrame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newLog(epoch)
		n := startNode(t, log, 1<<20)
		log.begin(epoch.Next())
		f := log.commit(up("user:1", 20))
		f.Changes, f.HeadsOnly = nil, true
		n.Apply(f)
		n.refuses(t, f.Prev, tail.ErrBefore)
		n.since(t, f.Next, "user:1")
	})
}

// The bus brings the new epoch, and more of it, while the log is still about to say so: the head stays.
func TestNewEpochByFrameAndLogAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newLog(epoch)
		n := startNode(t, log, 1<<20)
		log.begin(epoch.Next())
		at := log.state().Next
		var f change.Frame
		log.set(func() {
			log.onState = func() {
				if f.Next.IsZero() {
					f = log.commit(up("user:1", 20))
					n.Apply(f)
				}
			}
		})
		same(t, n.since(t, at, "user:1").Changes, f.Changes)
		if head, _ := n.Head(); head.Next != f.Next {
			t.Fatalf("head %s, want %s", head.Next, f.Next)
		}
	})
}

// A frame says more than the log knows. Once the log was asked, such a hole holds nobody up.
func TestFramePastTheLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newLog(epoch)
		n := startNode(t, log, 1<<20)
		at := log.state().Next
		bogus := log.state()
		bogus.Prev.LSN, bogus.Next.LSN = 5000, 5001
		n.Apply(bogus)
		synctest.Wait()
		calls := log.called()
		n.since(t, at, "user:1")
		if log.called() != calls {
			t.Fatal("the log was asked again")
		}
	})
}

// A frame that is repeated with another configuration does not bring the old one back; the log decides.
func TestConfigurationAtTheHead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newLog(epoch)
		n := startNode(t, log, 1<<20)
		delayed := log.state()
		delayed.Config = 99
		n.Apply(delayed)
		synctest.Wait()
		if s := n.since(t, delayed.Next, "user:1"); s.Config != 1 {
			t.Fatalf("configuration %d", s.Config)
		}
		log.set(func() { log.heads[len(log.heads)-1].Config = 2 })
		n.Apply(log.state())
		synctest.Wait()
		if s := n.since(t, delayed.Next, "user:1"); s.Config != 2 {
			t.Fatalf("configuration %d", s.Config)
		}
	})
}

// A log that lost its unflushed end grows back identically: what was handed out stays true.
func TestLogBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newLog(epoch)
		n := startNode(t, log, 1<<20)
		f := log.commit(up("user:1", 10))
		n.Apply(f)
		log.set(func() { log.heads = log.heads[:1] })
		time.Sleep(4 * time.Second)
		same(t, n.since(t, f.Prev, "user:1").Changes, f.Changes)
		if n.Stats().LogBehind == 0 {
			t.Fatal("not counted")
		}
	})
}

func TestMalformedFrames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newLog(epoch)
		n := startNode(t, log, 1<<20)
		at := log.state().Next
		good := log.commit(up("user:1", 10), up("user:1", 10))
		for name, spoil := range map[string]func(*change.Frame){
			"epoch":           func(f *change.Frame) { f.Epoch++ },
			"backwards":       func(f *change.Frame) { f.Prev, f.Next = f.Next, f.Prev },
			"order":           func(f *change.Frame) { f.Changes = []change.Change{f.Changes[1], f.Changes[0]} },
			"outside":         func(f *change.Frame) { f.Next = f.Changes[0].Pos },
			"heads with rows": func(f *change.Frame) { f.HeadsOnly = true },
		} {
			f := good
			spoil(&f)
			n.Apply(f)
			synctest.Wait()
			if s := n.since(t, at, "user:1"); len(s.Changes) != 2 {
				t.Errorf("%s: %d changes of 2", name, len(s.Changes))
			}
		}
		if got := n.Stats().Malformed; got != 5 {
			t.Fatalf("%d counted", got)
		}
	})
}

func TestWaitEndsWithItsContextAndWithRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newLog(epoch)
		tl, err := tail.New(tail.Config{Log: log, Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- tl.Run(ctx) }()
		synctest.Wait()

		past := log.state().Next
		past.LSN++
		short, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := tl.Wait(short, past); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("Wait: %v", err)
		}
		waiting := make(chan error, 1)
		go func() { waiting <- tl.Wait(t.Context(), past) }()
		synctest.Wait()
		stop()
		if err := <-waiting; !errors.Is(err, tail.ErrNotReady) {
			t.Fatalf("Wait after Run: %v", err)
		}
		if err := <-ended; err != nil {
			t.Fatal(err)
		}
		if _, err := tl.Since(t.Context(), nil, log.state().Next, 0, 0); !errors.Is(err, tail.ErrNotReady) {
			t.Fatalf("Since after Run: %v", err)
		}
	})
}

func TestConfigIsValidated(t *testing.T) {
	log, logger := newLog(epoch), slog.New(slog.DiscardHandler)
	for name, cfg := range map[string]tail.Config{
		"log":    {Logger: logger},
		"logger": {Log: log},
		"bytes":  {Log: log, Logger: logger, MaxBytes: -1},
		"stale":  {Log: log, Logger: logger, Stale: -1},
	} {
		if _, err := tail.New(cfg); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// Readers page through a scope while frames arrive and old ones are evicted: nobody misses a change.
func TestReadersBesideFrames(t *testing.T) {
	log := newLog(epoch)
	n := startNodeOutside(t, log, 1<<20)
	const commits = 3000
	at := log.state().Next
	frames := make([]change.Frame, commits)
	for i := range frames {
		frames[i] = log.commit(up("user:1", 10), up("user:2", 10), up(change.All, 10))
	}
	end := frames[commits-1].Next
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			scope := change.Scope(fmt.Sprintf("user:%d", i%2+1))
			cursor, seen := at, 0
			for cursor != end {
				s, err := n.Since(t.Context(), []change.Scope{scope}, cursor, 7, 0)
				if errors.Is(err, tail.ErrBefore) { // the log's to answer
					s.Head = n.Stats().Start
					s.Changes = log.since([]change.Scope{scope}, cursor, s.Head)
				} else if err != nil {
					t.Error(err)
					return
				}
				seen += len(s.Changes)
				if cursor = s.Head; s.More {
					cursor = s.Changes[len(s.Changes)-1].Pos
				}
			}
			if seen != 2*commits {
				t.Errorf("%s: %d changes of %d", scope, seen, 2*commits)
			}
		})
	}
	for i, f := range frames {
		if i%17 == 0 {
			continue // lost
		}
		n.Apply(f)
	}
	wg.Wait()
	if err := n.Audit(); err != nil {
		t.Error(err)
	}
}

// startNodeOutside is startNode without a bubble; the announcements are read and dropped.
func startNodeOutside(t testing.TB, log *naiveLog, maxBytes int64) *tail.Tail {
	t.Helper()
	tl, err := tail.New(tail.Config{Log: log, MaxBytes: maxBytes, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = tl.Run(ctx)
	}()
	t.Cleanup(func() { cancel(); <-done })
	if err := tl.Wait(t.Context(), log.state().Next); err != nil {
		t.Fatal(err)
	}
	return tl
}

// The budget is the memory that is really taken, near enough, also when scopes come and go.
func TestBytesAreHonest(t *testing.T) {
	const budget = 32 << 20
	log := newLog(epoch)
	tl := startNodeOutside(t, log, budget)
	before := heap()
	row := 0
	at := log.state().Next
	for range 400 {
		f := change.Frame{Epoch: epoch, Config: 1, Prev: at}
		for i := range 500 {
			row++
			at.LSN++
			c := change.Change{
				Scope: change.Scope(fmt.Sprintf("user:%d", row/2)), Table: "public.t", Op: change.Upsert,
				Key: fmt.Appendf(nil, `{"id":%d}`, row), Row: make([]byte, 100+i%100), Pos: at,
			}
			c.Pos.Seq = 1
			f.Changes = append(f.Changes, c)
		}
		at.LSN++
		f.Next = at
		tl.Apply(f)
	}
	taken, counted := heap()-before, tl.Stats().Bytes
	if counted < budget*9/10 || counted > budget {
		t.Fatalf("%d bytes counted in a budget of %d", counted, budget)
	}
	if taken > counted*13/10 || taken < counted*7/10 {
		t.Fatalf("%d bytes taken, %d counted", taken, counted)
	}
	if err := tl.Audit(); err != nil {
		t.Error(err)
	}
	runtime.KeepAlive(tl)
}

func heap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
