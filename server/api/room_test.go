package api_test

import (
	"net/http"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coder/websocket"

	"github.com/nudgesync/nudge/server/api"
	"github.com/nudgesync/nudge/server/wire"
)

// wantBusy opens a socket that has to be refused before the upgrade, and returns how long to wait.
func (w *world) wantBusy() time.Duration {
	w.t.Helper()
	res, body := w.ask(http.MethodGet, "/v1/socket", "", "Connection", "Upgrade", "Upgrade", "websocket",
		"Sec-WebSocket-Version", "13", "Sec-WebSocket-Key", "MDEyMzQ1Njc4OWFiY2RlZg==", "Sec-WebSocket-Protocol", wire.Subprotocol)
	p := wantProblem(w.t, res, body, http.StatusServiceUnavailable, wire.Overloaded)
	if p.Hint == "" || p.Detail == "" {
		w.t.Errorf("no hint or detail: %+v", p)
	}
	after, err := strconv.Atoi(res.Header.Get("Retry-After"))
	if err != nil || int64(after) != (p.RetryAfterMS+999)/1000 {
		w.t.Errorf("Retry-After %q, retry_after_ms %d", res.Header.Get("Retry-After"), p.RetryAfterMS)
	}
	wait := time.Duration(p.RetryAfterMS) * time.Millisecond
	if wait < time.Second || wait > 5*time.Second {
		w.t.Errorf("told to wait %v", wait)
	}
	return wait
}

func TestHandshakeRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := piped(t, func(c *api.Config) { c.Limits.HandshakeRate = 2 })
		w.join("a", "10")
		w.join("b", "10")
		waits := map[time.Duration]bool{}
		for range 20 {
			waits[w.wantBusy()] = true
		}
		if len(waits) < 10 {
			t.Errorf("20 refused clients are told to come back at %d different times", len(waits))
		}
		if res, _ := w.ask("GET", "/v1/changes", ""); res.StatusCode != http.StatusOK {
			t.Errorf("a pull meanwhile: %d", res.StatusCode)
		}
		time.Sleep(500 * time.Millisecond) // of the bubble's clock: one token
		w.join("c", "10")
		w.wantBusy()
		if got := w.count("nudge_sockets_refused_total", "overloaded"); got != 21 {
			t.Errorf("counted %v refusals", got)
		}
	})
}

func TestMaxSockets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := piped(t, func(c *api.Config) { c.Limits.MaxSockets = 2 })
		a := w.join("a", "10")
		w.dial() // one that has not said hello counts too
		w.wantBusy()
		if err := a.conn.Close(websocket.StatusNormalClosure, ""); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		w.join("b", "10")
		w.wantBusy()
	})
}

// A device whose old socket is half open takes its place, also where its user has no other left; and no place is lost
// or won by that.
func TestADeviceTakesItsOwnPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := piped(t, noPings, func(c *api.Config) { c.Limits.MaxUserSockets = 2 })
		w.join("tablet", "10")
		last := w.join("phone", "10")
		for range 5 {
			older := last
			last = w.join("phone", "10")
			older.wantClose(wire.CloseReplaced, wire.CauseReplaced)
			synctest.Wait()
		}
		third := func() *device {
			d := w.dial()
			d.say(wire.Hello{T: wire.THello, V: 1, Token: w.token(), Device: "watch"})
			return d
		}
		third().wantClose(wire.CloseRate, string(wire.RateLimited))
		_ = last.conn.CloseNow()
		synctest.Wait()
		hear[wire.Ready](third(), wire.TReady)
	})
}

// No user takes every place of the node: beyond a cap sockets, streams and waits are refused, whatever
// device they are of. Others are not, and what ends makes room.
func TestMaxUserSockets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := piped(t, noPings, func(c *api.Config) { c.Limits.MaxUserSockets = 3 })
		a := w.join("a", "10")
		heard[wire.Ready](w.listen("b", ""), wire.TReady)
		waiting := w.later("/v1/changes?since=10&wait=10s", wire.HeaderDevice, "c")
		synctest.Wait()

		d := w.dial()
		d.say(wire.Hello{T: wire.THello, V: 1, Token: w.token(), Device: "d"})
		d.wantClose(wire.CloseRate, "rate_limited")
		for _, path := range []string{"/v1/events", "/v1/changes?since=10&wait=10s"} {
			res, body := w.ask("GET", path, "", wire.HeaderDevice, "d")
			wantProblem(t, res, body, http.StatusTooManyRequests, wire.RateLimited)
		}
		if res, _ := w.ask("GET", "/v1/changes", ""); res.StatusCode != http.StatusOK {
			t.Errorf("a pull meanwhile: %d", res.StatusCode)
		}
		other := w.dial()
		other.say(wire.Hello{T: wire.THello, V: 1, Token: w.token("sub", "8"), Device: "d"})
		hear[wire.Ready](other, wire.TReady)

		(<-waiting).page(t)
		if err := a.conn.Close(websocket.StatusNormalClosure, ""); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		w.join("d", "10")
		w.join("e", "10")
		d = w.dial()
		d.say(wire.Hello{T: wire.THello, V: 1, Token: w.token(), Device: "f"})
		d.wantClose(wire.CloseRate, "rate_limited")
		if got := w.count("nudge_sockets_refused_total", "rate_limited"); got != 3 {
			t.Errorf("counted %v refusals", got)
		}
	})
}
