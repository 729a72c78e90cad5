package api_test

import (
	"context"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nudgesync/nudge/changefeed/change"
	"github.com/nudgesync/nudge/server/pull"
	"github.com/nudgesync/nudge/server/wire"
)

// A device is not nudged for what it wrote, as long as it comes for it.
func TestOwnChange(t *testing.T) {
	own := func(n int) change.Frame {
		return change.Frame{Changes: []change.Change{{Pos: position(n), Scope: change.User("7"), Origin: "phone"}}}
	}
	upto := func(n int) func(context.Context, pull.Request) (*pull.Answer, error) {
		return func(context.Context, pull.Request) (*pull.Answer, error) {
			return &pull.Answer{Cursor: "c", Source: "tail", Upto: position(n)}, nil
		}
	}
	for _, way := range []string{"socket", "http"} {
		synctest.Test(t, func(t *testing.T) {
			w := piped(t, noPings)
			d := w.join("phone", "10")
			synctest.Wait()
			come := func(n int) {
				w.engine.mu.Lock()
				w.engine.pull = upto(n)
				w.engine.mu.Unlock()
				if way == "http" {
					w.ask("GET", "/v1/changes", "")
				} else {
					d.say(wire.Pull{T: wire.TPull})
					hear[wire.Changes](d, wire.TChanges)
				}
				synctest.Wait()
			}
			w.hub.Deliver(own(11))
			come(11) // behind the log
			come(12)
			w.hub.Deliver(own(12)) // it had it before we heard
			time.Sleep(10 * time.Second)

			w.hub.Deliver(own(13))
			began := time.Now()
			come(12) // too early: the change was not in it
			if n := hear[wire.Nudge](d, wire.TNudge); n.Head != "13" {
				t.Errorf("%s: %+v", way, n)
			}
			if took := time.Since(began); took < 2*time.Second || took > 3*time.Second {
				t.Errorf("%s: after %v", way, took)
			}
			// A page that goes past a waiting nudge takes it back.
			w.nudge(14)
			hear[wire.Nudge](d, wire.TNudge)
			w.nudge(15)
			come(15)
			time.Sleep(time.Second)
			w.nudge(16)
			if n := hear[wire.Nudge](d, wire.TNudge); n.Head != "16" {
				t.Errorf("%s: %+v", way, n)
			}
		})
	}
}

// A pull that waits is answered by the first thing that comes, which then is no nudge; or when its
// time is over.
func TestWaitingPull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := piped(t, noPings)
		d := w.join("phone", "10")
		synctest.Wait()
		ten, began := "10", time.Now()
		d.say(wire.Pull{T: wire.TPull, ID: 1, Cursor: &ten, WaitMS: 2000})
		if c := hear[wire.Changes](d, wire.TChanges); len(c.Changes) != 0 || time.Since(began) != 2*time.Second {
			t.Errorf("%+v after %v", c, time.Since(began))
		}
		began = time.Now()
		d.say(wire.Pull{T: wire.TPull, ID: 2, Cursor: &ten, WaitMS: 3_600_000})
		if hear[wire.Changes](d, wire.TChanges); time.Since(began) != 5*time.Second {
			t.Errorf("after %v, at most 5 s is served", time.Since(began))
		}
		d.say(wire.Pull{T: wire.TPull, ID: 3, Cursor: &ten, WaitMS: -1})
		d.wantError(wire.RequestInvalid)

		for _, tell := range []func(){
			func() { w.nudge(11) },
			func() {
				w.hub.Deliver(change.Frame{Changes: []change.Change{{Pos: position(12), Scope: change.User("7"), Origin: "phone"}}})
			},
		} {
			w.engine.mu.Lock()
			w.engine.pull = nil
			cursor := strconv.Itoa(w.engine.head)
			w.engine.mu.Unlock()
			began = time.Now()
			d.say(wire.Pull{T: wire.TPull, ID: 4, Cursor: &cursor, WaitMS: 5000})
			synctest.Wait()
			w.engine.mu.Lock()
			w.engine.head++
			w.engine.mu.Unlock()
			tell()
			if c := hear[wire.Changes](d, wire.TChanges); c.ID != 4 || len(c.Changes) != 1 || time.Since(began) != 0 {
				t.Errorf("%+v after %v", c, time.Since(began))
			}
		}
		time.Sleep(10 * time.Second)
		d.say(wire.Pull{T: wire.TPull, ID: 5}) // no nudge stands before its answer
		hear[wire.Changes](d, wire.TChanges)
	})
}

// Somebody else's change is quicker than the device's own, and answers its waiting pull: the device, which
// will not ask again, is nudged for its own at once.
func TestWaitingPullAnsweredByAnother(t *testing.T) {
	for _, when := range []string{"before the answer", "after the answer"} {
		synctest.Test(t, func(t *testing.T) {
			w := piped(t, noPings)
			d := w.join("phone", "10")
			synctest.Wait()
			own := change.Frame{Changes: []change.Change{{Pos: position(12), Scope: change.User("7"), Origin: "phone"}}}
			w.engine.mu.Lock()
			w.engine.pull = func(context.Context, pull.Request) (*pull.Answer, error) {
				if when == "before the answer" {
					w.hub.Deliver(own)
				}
				return &pull.Answer{Cursor: "c", Source: "tail", Rows: 1, Upto: position(11)}, nil
			}
			w.engine.mu.Unlock()
			began := time.Now()
			d.say(wire.Pull{T: wire.TPull, ID: 1, WaitMS: 2000})
			hear[wire.Changes](d, wire.TChanges)
			if when == "after the answer" {
				synctest.Wait()
				w.hub.Deliver(own)
			}
			if n := hear[wire.Nudge](d, wire.TNudge); n.Head != "12" || time.Since(began) != 0 {
				t.Errorf("%s: %+v after %v", when, n, time.Since(began))
			}
		})
	}
}
