package pull_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/nudgesync/nudge/server/pull"
)

// Whoever asks while a heartbeat is on its way shares the next one: that one may have left before.
func TestBeatsAreShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := pull.NewBeats()
		var sent atomic.Int32
		answers := make(chan error)
		send := func(context.Context) error { sent.Add(1); return <-answers }
		var first, others atomic.Int32
		ask := func(done *atomic.Int32) {
			go func() {
				if err := b.After(t.Context(), send); err != nil {
					t.Error(err)
				}
				done.Add(1)
			}()
		}
		ask(&first)
		synctest.Wait()
		for range 10 {
			ask(&others)
		}
		synctest.Wait()
		if sent.Load() != 1 {
			t.Fatalf("%d are on their way", sent.Load())
		}
		answers <- nil
		synctest.Wait()
		if sent.Load() != 2 || first.Load() != 1 || others.Load() != 0 {
			t.Fatalf("%d sent; the first has it: %d, the others: %d", sent.Load(), first.Load(), others.Load())
		}
		answers <- nil
		synctest.Wait()
		if sent.Load() != 2 || others.Load() != 10 {
			t.Errorf("%d sent, %d have theirs", sent.Load(), others.Load())
		}
	})
}

// Who was to send a heartbeat and goes away leaves that to another; an error is everybody's.
func TestBeatsAreHandedOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := pull.NewBeats()
		away := errors.New("away")
		send := func(ctx context.Context) error {
			if ctx != t.Context() {
				<-ctx.Done()
				return ctx.Err()
			}
			return away
		}
		for range 2 { // one sends, one waits to send; both go away
			ctx, cancel := context.WithCancel(t.Context())
			gone := make(chan error, 1)
			go func() { gone <- b.After(ctx, send) }()
			synctest.Wait()
			stayed := make(chan error, 3)
			for range 3 {
				go func() { stayed <- b.After(t.Context(), send) }()
			}
			synctest.Wait()
			cancel()
			if err := <-gone; !errors.Is(err, context.Canceled) {
				t.Errorf("gone: %v", err)
			}
			for range 3 {
				if err := <-stayed; !errors.Is(err, away) {
					t.Errorf("stayed: %v", err)
				}
			}
		}
		sending, stop := context.WithCancel(t.Context())
		waiting, leave := context.WithCancel(t.Context())
		ended := make(chan error, 3)
		go func() { ended <- b.After(sending, send) }()
		synctest.Wait()
		go func() { ended <- b.After(waiting, send) }() // is to send the next one
		synctest.Wait()
		go func() { ended <- b.After(t.Context(), send) }() // relies on it
		synctest.Wait()
		leave()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("left: %v", err)
		}
		stop()
		if a, b := <-ended, <-ended; !errors.Is(errors.Join(a, b), away) || !errors.Is(errors.Join(a, b), context.Canceled) {
			t.Errorf("%v, %v", a, b)
		}
	})
}
