// Package bustest is the suite that every bus must pass.
package bustest

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nudgesync/nudge/changefeed/change"
	"github.com/nudgesync/nudge/notify/bus"
)

// patience bounds a wait for what must happen; a healthy bus never comes near it.
const patience = 30 * time.Second

const epoch change.Epoch = 3<<32 | 9

// Run runs the suite. open starts a fresh cluster for a test and returns a function that joins it as one more
// node: what one node publishes, the subscribers of all nodes hear.
func Run(t *testing.T, open func(t *testing.T) (join func() bus.Bus)) {
	for _, c := range []struct {
		name string
		run  func(t *testing.T, join func() bus.Bus)
	}{
		{"every field arrives", everyField},
		{"all subscribers, in order", inOrder},
		{"publishers keep their order", publishersKeepOrder},
		{"from ready on", fromReady},
		{"a slow subscriber delays nobody", slowSubscriber},
		{"a large batch travels as heads only", heavy},
		{"an ended subscription hears no more", ended},
		{"publish with an ended context", publishEnded},
	} {
		t.Run(c.name, func(t *testing.T) { c.run(t, open(t)) })
	}
}

// subscriber is one subscription and what it heard.
type subscriber struct {
	frames chan change.Frame
	stop   func()
}

// subscribe returns when the subscription is ready. hold, if not nil, is called before each frame is taken.
func subscribe(t *testing.T, b bus.Bus, hold func()) *subscriber {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	s := &subscriber{frames: make(chan change.Frame, 100_000)}
	ready, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		err := b.Subscribe(ctx, func() { close(ready) }, func(f change.Frame) {
			if hold != nil {
				hold()
			}
			s.frames <- f
		})
		if err != nil {
			t.Errorf("Subscribe: %v", err)
		}
	}()
	s.stop = sync.OnceFunc(func() { cancel(); <-done })
	t.Cleanup(s.stop)
	wait(t, ready, "ready")
	return s
}

func wait[T any](t *testing.T, c <-chan T, what string) (v T) {
	t.Helper()
	select {
	case v = <-c:
	case <-time.After(patience):
		t.Fatalf("no %s within %s", what, patience)
	}
	return v
}

func publish(t *testing.T, b bus.Bus, f change.Frame) {
	t.Helper()
	if err := b.Publish(t.Context(), f); err != nil {
		t.Fatalf("Publish: %v", err)
	}
}

func at(n int) change.Position { return change.Position{Epoch: epoch, LSN: change.LSN(n)} }

// step is the small frame from n to n+1.
func step(n int) change.Frame {
	return change.Frame{Epoch: epoch, Config: 1, Prev: at(n), Next: at(n + 1), Changes: []change.Change{{
		Pos: change.Position{Epoch: epoch, LSN: change.LSN(n), Seq: 1}, Scope: "user:1", Table: "public.t",
		Op: change.Upsert, Key: []byte(`{"id":1}`), Row: []byte(`{"id":1}`), CommittedAt: time.UnixMicro(1),
	}}}
}

func everyField(t *testing.T, join func() bus.Bus) {
	s := subscribe(t, join(), nil)
	p := func(seq uint32) change.Position { return change.Position{Epoch: epoch, LSN: 1 << 63, Seq: seq} }
	committed := time.Date(2026, 2, 3, 4, 5, 6, 789_000, time.UTC)
	full := change.Frame{
		Epoch: epoch, Config: 1<<63 | 5, Prev: p(0), Next: change.Position{Epoch: epoch, LSN: 1<<64 - 1},
		Changes: []change.Change{
			{Pos: p(1), Scope: "user:ü\x01", Table: "public.t", Op: change.Upsert, Key: []byte(`{"id":"9"}`), Row: []byte(`{"id":"9","a":null}`), Origin: "phone", CommittedAt: committed},
			{Pos: p(2), Scope: "list:1", Table: "public.t", Op: change.Patch, Key: []byte(`{}`), Row: []byte(`{}`), CommittedAt: committed},
			{Pos: p(3), Scope: "user:1", Table: "public.t", Op: change.Delete, Key: []byte(`{"id":"9"}`), CommittedAt: committed},
			{Pos: p(1<<32 - 1), Scope: change.All, Table: "*", Op: change.Reset, Reason: change.ReasonTruncate, CommittedAt: committed},
		},
	}
	frames := []change.Frame{
		full,
		{Epoch: epoch, Config: 2, Prev: at(5), Next: at(5)},
		{Epoch: epoch, Config: 2, Prev: at(5), Next: at(9), HeadsOnly: true},
	}
	b := join()
	for _, f := range frames {
		publish(t, b, f)
	}
	for _, want := range frames {
		if d := cmp.Diff(want, wait(t, s.frames, "frame")); d != "" {
			t.Error(d)
		}
	}
}

func inOrder(t *testing.T, join func() bus.Bus) {
	a, b := join(), join()
	subs := []*subscriber{subscribe(t, a, nil), subscribe(t, a, nil), subscribe(t, b, nil)}
	for n := range 20 {
		publish(t, a, step(n))
	}
	for _, s := range subs {
		for n := range 20 {
			if f := wait(t, s.frames, "frame"); f.Prev != at(n) {
				t.Fatalf("frame from %s where %s was due", f.Prev, at(n))
			}
		}
	}
}

func publishersKeepOrder(t *testing.T, join func() bus.Bus) {
	const publishers, each = 4, 10
	s := subscribe(t, join(), nil)
	var wg sync.WaitGroup
	for p := range publishers {
		b := join()
		wg.Go(func() {
			for n := range each {
				f := step(n)
				f.Config = uint64(p)
				publish(t, b, f)
			}
		})
	}
	wg.Wait()
	var next [publishers]int
	for range publishers * each {
		f := wait(t, s.frames, "frame")
		if f.Prev != at(next[f.Config]) {
			t.Fatalf("publisher %d: frame from %s where %s was due", f.Config, f.Prev, at(next[f.Config]))
		}
		next[f.Config]++
	}
}

func fromReady(t *testing.T, join func() bus.Bus) {
	b := join()
	publish(t, b, step(0)) // nobody is there, and nobody waits
	s := subscribe(t, join(), nil)
	publish(t, b, step(1))
	if f := wait(t, s.frames, "frame"); f.Prev != at(1) {
		t.Fatalf("first frame from %s", f.Prev)
	}
}

func slowSubscriber(t *testing.T, join func() bus.Bus) {
	const flood = 20_000
	release := make(chan struct{})
	slow := subscribe(t, join(), func() { <-release })
	b := join()
	for n := range flood {
		publish(t, b, step(n)) // would hang here
	}
	quick := subscribe(t, join(), nil)
	publish(t, b, step(flood))
	for wait(t, quick.frames, "frame for the quick one").Prev != at(flood) {
	}
	close(release)

	// The slow one goes on where it can: in order, and up to date again sooner or later.
	last, n := -1, flood
	for {
		f := wait(t, slow.frames, "frame for the slow one")
		if got := int(f.Prev.LSN); got <= last {
			t.Fatalf("frame %d after %d", got, last)
		}
		if last = int(f.Prev.LSN); last > flood {
			return
		}
		n++
		publish(t, b, step(n))
	}
}

func heavy(t *testing.T, join func() bus.Bus) {
	s := subscribe(t, join(), nil)
	f := step(0)
	f.Changes[0].Row = make([]byte, bus.MaxFrameBytes)
	publish(t, join(), f)
	want := f
	want.Changes, want.HeadsOnly = nil, true
	if d := cmp.Diff(want, wait(t, s.frames, "frame")); d != "" {
		t.Error(d)
	}
	if len(f.Changes) != 1 || f.HeadsOnly {
		t.Error("the publisher's frame was changed")
	}
}

func ended(t *testing.T, join func() bus.Bus) {
	b := join()
	gone, stays := subscribe(t, join(), nil), subscribe(t, join(), nil)
	gone.stop()
	publish(t, b, step(0))
	wait(t, stays.frames, "frame")
	if n := len(gone.frames); n > 0 {
		t.Fatalf("%d frames after the end", n)
	}
}

func publishEnded(t *testing.T, join func() bus.Bus) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := join().Publish(ctx, step(0)); !errors.Is(err, context.Canceled) {
		t.Fatalf("Publish: %v", err)
	}
}
