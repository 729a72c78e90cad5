package api_test

import (
	"fmt"
	"net/http"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nudgesync/nudge/changefeed/change"
	"github.com/nudgesync/nudge/notify/hub"
	"github.com/nudgesync/nudge/server/api"
	"github.com/nudgesync/nudge/server/wire"
)

// reset is a frame that has everybody start over at n.
func reset(n int) change.Frame {
	return change.Frame{Epoch: 1, Next: position(n), Changes: []change.Change{
		{Pos: position(n), Scope: change.All, Table: "*", Op: change.Reset, Reason: change.ReasonSchema},
	}}
}

// tables is a node that can serve so many pages of live rows a second, and any number from the log.
func tables(rate float64) func(hub.Source) float64 {
	return func(from hub.Source) float64 {
		if from == hub.Tables {
			return rate
		}
		return 1e6
	}
}

// Devices that start over together each get the time that all of them take; a few are not made to wait.
func TestWithinIsWhatAllOfThemTake(t *testing.T) {
	for name, c := range map[string]struct {
		sessions int
		rate     float64 // pages a second
		want     int     // ms
	}{
		"few":          {5, 100, 0},
		"many":         {40, 20, 2000},
		"a great many": {60, 0.01, 600_000},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := piped(t, noPings, func(cfg *api.Config) { cfg.Capacity = tables(c.rate) })
				var devices []*device
				for i := range c.sessions {
					devices = append(devices, w.join(fmt.Sprint(i), "10"))
				}
				synctest.Wait()
				w.hub.Deliver(reset(11))
				for _, d := range devices {
					if n := hear[wire.Nudge](d, wire.TNudge); n.WithinMS != c.want || n.Head != "11" {
						t.Fatalf("%+v, want to pull within %d ms", n, c.want)
					}
				}
				w.nudge(12) // from memory, for one user's: nothing to wait for
				time.Sleep(time.Second)
				if n := hear[wire.Nudge](devices[0], wire.TNudge); n.WithinMS != 0 {
					t.Errorf("%+v", n)
				}
			})
		})
	}
}

// Frames that follow each other count together, until what they asked for has been served.
func TestWithinAddsUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := piped(t, noPings, func(cfg *api.Config) { cfg.Capacity = tables(10) })
		d := w.join("a", "10")
		within := func(n int) (ms int) {
			t.Helper()
			w.hub.Deliver(reset(n))
			return hear[wire.Nudge](d, wire.TNudge).WithinMS
		}
		synctest.Wait()
		for i := range 10 { // 250 ms apart, as nudges are: 2.5 are served meanwhile
			within(11 + i)
			time.Sleep(time.Millisecond)
		}
		if ms := within(30); ms != 100 {
			t.Errorf("a single one, and the next: %d ms", ms)
		}
		for i := range 20 {
			w.hub.Deliver(reset(40 + i))
		}
		if ms := hear[wire.Nudge](d, wire.TNudge).WithinMS; ms != 100 {
			t.Errorf("20 for one device, which pulls once: %d ms", ms)
		}
		devices := []*device{d}
		for i := range 19 {
			devices = append(devices, w.join(fmt.Sprint(i), "10"))
		}
		time.Sleep(time.Second)
		for n, want := range []int{2000, 3750} { // a second one 250 ms later
			w.hub.Deliver(reset(70 + n))
			longest := 0
			for _, d := range devices {
				longest = max(longest, hear[wire.Nudge](d, wire.TNudge).WithinMS)
			}
			if longest < want-100 || longest > want+100 {
				t.Errorf("20 devices, frame %d: %d ms, want %d", n, longest, want)
			}
		}
		time.Sleep(4 * time.Second)
		if ms := within(80); ms != 2000 {
			t.Errorf("afterwards: %d ms", ms)
		}
	})
}

// Pulls from memory are spread by what they were seen to cost, and within a minute.
func TestWithinOfPullsFromMemory(t *testing.T) {
	within := func(sessions int, cost time.Duration) time.Duration {
		h := api.NewHerd()
		for range 1000 {
			h.Pulled(cost)
		}
		return h.Within(time.Now(), hub.Crowd{Sessions: sessions})
	}
	many := 10_000 * runtime.GOMAXPROCS(0)
	cheap, dear := within(many, 0), within(many, 100*time.Microsecond)
	if cheap < 900*time.Millisecond || cheap > 1100*time.Millisecond || dear < 19*cheap/10 || dear > 21*cheap/10 {
		t.Errorf("%v, and %v where a pull costs twice as much", cheap, dear)
	}
	if d := within(many/20, 0); d != 0 {
		t.Errorf("a few: %v", d)
	}
	if d := within(1000*many, 0); d != time.Minute {
		t.Errorf("all the world: %v", d)
	}
}

// A frame that was too large to be carried has everybody ask the log, where most find nothing: that is not to start
// over. A new epoch is.
func TestWithinOfWhatWasNotCarried(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := piped(t, noPings, func(cfg *api.Config) {
			cfg.Capacity = func(from hub.Source) float64 {
				return map[hub.Source]float64{hub.Log: 50, hub.Tables: 0.1}[from]
			}
		})
		var devices []*device
		for i := range 20 {
			devices = append(devices, w.join(fmt.Sprint(i), "10"))
		}
		synctest.Wait()
		for _, c := range []struct {
			frame change.Frame
			want  int // ms
		}{
			{change.Frame{Epoch: 1, Prev: position(10), Next: position(11), HeadsOnly: true}, 400},
			{change.Frame{Epoch: 2, Prev: position(11), Next: change.Position{Epoch: 2, LSN: 12}, HeadsOnly: true}, 200_000},
		} {
			w.hub.Deliver(c.frame)
			for _, d := range devices {
				if n := hear[wire.Nudge](d, wire.TNudge); n.WithinMS != c.want {
					t.Errorf("epoch %v: %d ms, want %d", c.frame.Epoch, n.WithinMS, c.want)
				}
			}
			time.Sleep(time.Second)
		}
		if d := w.api.Within(hub.Crowd{Sessions: 1000, Source: hub.Log}); d != 20*time.Second {
			t.Errorf("a thousand: %v", d)
		}
		if d := w.api.Within(hub.Crowd{Sessions: 1_000_000, Source: hub.Log}); d != time.Minute {
			t.Errorf("a million: %v", d)
		}
	})
}

// Pulls that had to wait say nothing of what a pull costs: those who hear when the wait is over are not sent away for it.
func TestWithinAfterAStandstill(t *testing.T) {
	h := api.NewHerd()
	for range 1000 {
		h.Pulled(3 * time.Second)
	}
	many := 10_000 * runtime.GOMAXPROCS(0)
	if d := h.Within(time.Now(), hub.Crowd{Sessions: many}); d > 11*time.Second {
		t.Errorf("%v for what takes one second", d)
	}
}

// A pull that waits is spread as a nudged device is, but not past its own time.
func TestWaitsAreSpread(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := piped(t, noPings, func(cfg *api.Config) { cfg.Capacity = tables(2) })
		var answers []<-chan answer
		for i := range 40 {
			answers = append(answers, w.later("/v1/changes?since=10&wait=10s", wire.HeaderDevice, fmt.Sprint(i)))
		}
		synctest.Wait()
		w.commit(func(n int) { w.hub.Deliver(reset(n)) })
		at := map[time.Duration]int{}
		for _, a := range answers {
			got := <-a
			if got.res.StatusCode != http.StatusOK || got.took > 10*time.Second {
				t.Fatalf("%d after %v", got.res.StatusCode, got.took)
			}
			at[got.took.Truncate(time.Second)]++
		}
		if len(at) < 5 || at[0] > 20 {
			t.Errorf("answered at %v", at)
		}
	})
}

// A pull whose time ends while it is spread is answered then, also if the news was nothing for it.
func TestSpreadWaitsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := piped(t, noPings, func(cfg *api.Config) { cfg.Capacity = tables(0.001) })
		got := w.later("/v1/changes?since=10&wait=2s", wire.HeaderDevice, "a")
		synctest.Wait()
		w.hub.Deliver(reset(11)) // of what this pull does not ask for: the engine has nothing
		time.Sleep(time.Hour)
		synctest.Wait()
		select {
		case a := <-got:
			if a.took != 2*time.Second || a.res.StatusCode != http.StatusOK {
				t.Errorf("%d after %v", a.res.StatusCode, a.took)
			}
		default:
			t.Error("it still waits after an hour")
			w.commit(w.nudge)
			<-got
		}
	})
}

// However much was asked for, a herd is over once all of it can have been served.
func TestHerdsEnd(t *testing.T) {
	h := api.NewHerd()
	now := time.Now()
	for range 2_000_000 * runtime.GOMAXPROCS(0) { // three minutes' pulls
		h.Within(now, hub.Crowd{Sessions: 1})
	}
	if d := h.Within(now, hub.Crowd{Sessions: 1}); d != time.Minute {
		t.Errorf("at its height: %v", d)
	}
	if d := h.Within(now.Add(time.Minute), hub.Crowd{Sessions: 1}); d != 0 {
		t.Errorf("a minute later: %v", d)
	}
}
