package api_test

import (
	"fmt"
	"net/http"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nudgesync/nudge/server/api"
	"github.com/nudgesync/nudge/server/wire"
)

func slowRates(c *api.Config) { c.Limits.DevicePulls, c.Limits.UserPulls = 2, 3 }

// pulls asks n times and returns how many were answered; the others have to be refused as the client's fault.
func (w *world) pulls(n int, headers ...string) (answered int, waits map[int64]bool) {
	w.t.Helper()
	waits = map[int64]bool{}
	for range n {
		res, body := w.ask("GET", "/v1/changes?since=10", "", headers...)
		if res.StatusCode == http.StatusOK {
			answered++
			continue
		}
		p := wantProblem(w.t, res, body, http.StatusTooManyRequests, wire.RateLimited)
		if res.Header.Get("Retry-After") == "" || p.RetryAfterMS < 1 || p.Detail == "" {
			w.t.Errorf("%+v", p)
		}
		waits[p.RetryAfterMS] = true
	}
	return answered, waits
}

// A device pulls at its rate, and five times as often for a moment; a user with all devices likewise. Others are
// none the worse.
func TestPullRates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := piped(t, slowRates)
		n, waits := w.pulls(30)
		if n != 10 || len(waits) < 10 {
			t.Errorf("a device: %d pulls at once, and %d times to come back", n, len(waits))
		}
		// What was refused has cost the user nothing: 5 of 15 are left.
		if n, _ := w.pulls(30, wire.HeaderDevice, "tablet"); n != 5 {
			t.Errorf("another of the user's: %d", n)
		}
		if n, _ := w.pulls(10, "Authorization", "Bearer "+w.token("sub", "8")); n != 10 {
			t.Errorf("another user: %d", n)
		}
		time.Sleep(3 * time.Second) // of the bubble's clock
		if n, _ := w.pulls(30); n != 6 {
			t.Errorf("3 s later: %d", n)
		}
		time.Sleep(time.Minute)
		if n, _ := w.pulls(30); n != 10 {
			t.Errorf("a minute later: %d", n)
		}
	})
}

// Who waits for as long as the hint says is answered.
func TestPullRateHintIsEnough(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := piped(t, slowRates)
		w.pulls(10)
		for range 20 {
			res, body := w.ask("GET", "/v1/changes?since=10", "")
			p := wantProblem(t, res, body, http.StatusTooManyRequests, wire.RateLimited)
			time.Sleep(time.Duration(p.RetryAfterMS) * time.Millisecond)
			if n, _ := w.pulls(1); n != 1 {
				t.Fatalf("refused after %d ms", p.RetryAfterMS)
			}
			w.pulls(5)
		}
	})
}

// A socket's pulls count among them; the session goes on.
func TestPullRateOfASocket(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := piped(t, noPings, slowRates)
		d := w.join("phone", "10")
		ask := func(id int64) {
			cursor := "10"
			d.say(wire.Pull{T: wire.TPull, ID: id, Cursor: &cursor})
		}
		for id := range int64(10) {
			ask(id)
			hear[wire.Changes](d, wire.TChanges)
		}
		ask(11)
		if e := d.wantError(wire.RateLimited); e.ID == nil || *e.ID != 11 || e.RetryAfterMS < 1 {
			t.Errorf("%+v", e)
		}
		if n, _ := w.pulls(5); n != 0 {
			t.Errorf("over HTTP: %d", n)
		}
		time.Sleep(time.Second)
		ask(12)
		hear[wire.Changes](d, wire.TChanges)
	})
}

// What is held is those that pulled in the last seconds, however many there ever were.
func TestPullRatesForget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rates := api.NewPullRates(2, 2)
		heap := func() uint64 {
			runtime.GC()
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			return m.HeapAlloc
		}
		before := heap()
		for i := range 400_000 {
			if err := rates.Allow(fmt.Sprint("user", i), "phone", time.Now()); err != nil {
				t.Fatal(err)
			}
			if i%1000 == 0 {
				time.Sleep(time.Second)
			}
		}
		if grown := int64(heap()) - int64(before); grown > 8<<20 {
			t.Errorf("%d bytes are held", grown)
		}
		runtime.KeepAlive(rates)
	})
}

// A client that calls itself by a new name each time costs no more memory than its user may pull, and none later.
func TestInventedDevicesAreForgotten(t *testing.T) {
	rates, now := api.NewPullRates(50, 100), time.Now()
	for i := range 100_000 {
		_ = rates.Allow("mallory", fmt.Sprint("phone", i), now)
	}
	if n := rates.Held(); n > 501 { // five seconds' pulls, and the user
		t.Errorf("%d are held", n)
	}
	for i := range 10_000 { // a herd of devices that are
		if err := rates.Allow(fmt.Sprint("user", i), "phone", now); err != nil {
			t.Fatal(err)
		}
	}
	rates.Forget(now)
	if n := rates.Held(); n < 20_000 {
		t.Errorf("%d are held while they count", n)
	}
	rates.Forget(now.Add(6 * time.Second))
	if n := rates.Held(); n != 0 {
		t.Errorf("%d are held for nothing", n)
	}
}

// Nor does a node on which nobody pulls any more remember who did.
func TestPullRatesOfAQuietNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := piped(t)
		w.pulls(3)
		if n := w.api.Rates().Held(); n != 2 {
			t.Errorf("%d are held", n)
		}
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if n := w.api.Rates().Held(); n != 0 {
			t.Errorf("%d are held for nothing", n)
		}
	})
}

// What was refused is not remembered either way: a device over its rate leaves the user's as it was, time and again.
func TestRefusedPullsCostTheUserNothing(t *testing.T) {
	rates, now := api.NewPullRates(2, 3), time.Now()
	answered := func(n int, device string) (yes int) {
		for range n {
			if rates.Allow("7", device, now) == nil {
				yes++
			}
		}
		return yes
	}
	if a, b, c := answered(1000, "a"), answered(1000, "b"), answered(1000, "c"); a != 10 || b != 5 || c != 0 {
		t.Errorf("%d, %d and %d", a, b, c)
	}
	now = now.Add(time.Minute)
	if n := answered(1000, "c"); n != 10 {
		t.Errorf("a minute later: %d", n)
	}
}

// What a push woke comes behind others before the database, unless the device has a session here.
func TestWokenByAPush(t *testing.T) {
	w := tcp(t)
	for _, c := range []struct {
		query string
		want  bool
	}{{"", false}, {"?nudge=3kx9", false}, {"?nudge=p.3kx9", true}} {
		w.ask("GET", "/v1/changes"+c.query, "")
		if got := w.engine.lastPull().Woken; got != c.want {
			t.Errorf("%q: woken %v", c.query, got)
		}
	}
	w.join("phone", "10")
	w.ask("GET", "/v1/changes?nudge=p.3kx9", "")
	if w.engine.lastPull().Woken {
		t.Error("a device with a socket counts as woken")
	}
}
