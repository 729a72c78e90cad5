package bus_test

import (
	"context"
	"testing"

	"go.uber.org/goleak"

	"github.com/nudgesync/nudge/changefeed/change"
	"github.com/nudgesync/nudge/notify/bus"
	"github.com/nudgesync/nudge/notify/bus/bustest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestLocal(t *testing.T) {
	bustest.Run(t, func(*testing.T) func() bus.Bus {
		b := bus.NewLocal()
		return func() bus.Bus { return b }
	})
}

// Large frames fill the memory long before they fill the queue.
func TestLocalBoundsMemory(t *testing.T) {
	b := bus.NewLocal()
	ctx, cancel := context.WithCancel(t.Context())
	ready, release, done := make(chan struct{}), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		_ = b.Subscribe(ctx, func() { close(ready) }, func(change.Frame) { <-release })
	}()
	<-ready
	large := change.Frame{Changes: []change.Change{{Row: make([]byte, 3<<20)}}}
	const frames = 100
	for range frames {
		if err := b.Publish(t.Context(), large); err != nil {
			t.Fatal(err)
		}
	}
	if kept := frames - b.Stats().Dropped; kept < 10 || kept > 30 {
		t.Errorf("%d frames of 3 MiB were kept", kept)
	}
	cancel()
	close(release)
	<-done
}

func TestLocalCountsWhatIsLost(t *testing.T) {
	const frames = 5000
	b := bus.NewLocal()
	ctx, cancel := context.WithCancel(t.Context())
	ready, release, done := make(chan struct{}), make(chan struct{}), make(chan struct{})
	heard := 0
	go func() {
		defer close(done)
		_ = b.Subscribe(ctx, func() { close(ready) }, func(f change.Frame) {
			<-release
			heard++
			if f.Config == 1 {
				cancel()
			}
		})
	}()
	<-ready
	for range frames {
		if err := b.Publish(t.Context(), change.Frame{}); err != nil {
			t.Fatal(err)
		}
	}
	s := b.Stats()
	if s.Published != frames || s.Dropped == 0 {
		t.Fatalf("%+v", s)
	}
	close(release)
	for ctx.Err() == nil { // until one finds room
		if err := b.Publish(t.Context(), change.Frame{Config: 1}); err != nil {
			t.Fatal(err)
		}
	}
	<-done
	if heard < int(frames-s.Dropped) {
		t.Fatalf("%d heard, %d dropped of %d", heard, s.Dropped, frames)
	}
}

// BenchmarkLocal is the cost of one small frame for publisher and subscriber together.
func BenchmarkLocal(b *testing.B) {
	l := bus.NewLocal()
	ctx, cancel := context.WithCancel(context.Background())
	ready, took, done := make(chan struct{}), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		_ = l.Subscribe(ctx, func() { close(ready) }, func(change.Frame) { took <- struct{}{} })
	}()
	<-ready
	b.ReportAllocs()
	for b.Loop() {
		_ = l.Publish(ctx, change.Frame{})
		<-took
	}
	cancel()
	<-done
}
