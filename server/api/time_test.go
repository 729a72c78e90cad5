package api_test

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coder/websocket"

	"github.com/nudgesync/nudge/server/api"
	"github.com/nudgesync/nudge/server/wire"
)

func noPings(c *api.Config) { c.Limits.Ping = 24 * time.Hour }

func TestHelloTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := piped(t)
		began := time.Now()
		d := w.dial()
		d.sayText(`{"t":"pull","id":1}`) // no hello, and no way to win time
		d.wantError(wire.RequestInvalid)
		d.wantClose(wire.CloseHelloTimeout, "hello_timeout")
		if took := time.Since(began); took < 5*time.Second || took > 6*time.Second {
			t.Errorf("after %v", took)
		}
		synctest.Wait()
		if got := w.count("nudge_session_closes_total", "4002"); got != 1 {
			t.Errorf("closes: %v", got)
		}
	})
}

func TestNudgesAreCoalesced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := piped(t, noPings)
		d := w.join("phone", "10")
		synctest.Wait()
		began := time.Now()
		var heard []string
		done := make(chan struct{})
		go func() {
			defer close(done)
			for len(heard) < 5 {
				n := hear[wire.Nudge](d, wire.TNudge)
				heard = append(heard, fmt.Sprint(n.Head, " at ", time.Since(began)))
			}
		}()
		for n := 11; n <= 110; n++ { // a burst of a second, a commit every 10 ms
			w.nudge(n)
			w.nudge(n - 1) // late, so of no account
			if n == 11 {
				time.Sleep(5 * time.Millisecond) // so that none falls on a quarter of a second
				continue
			}
			time.Sleep(10 * time.Millisecond)
		}
		<-done
		want := "[11 at 0s 36 at 250ms 61 at 500ms 86 at 750ms 110 at 1s]"
		if got := fmt.Sprint(heard); got != want {
			t.Errorf("heard %s, want %s", got, want)
		}
		synctest.Wait()
		if got := w.count("nudge_nudges_total"); got != 5 {
			t.Errorf("counted %v", got)
		}
	})
}

// An acknowledgement at or past the head takes back the nudge that waits; one before it does not.
func TestAckSettlesNudge(t *testing.T) {
	for _, way := range []string{"frame", "http", "pull", "http pull"} {
		t.Run(way, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := piped(t, noPings)
				d := w.join("phone", "10")
				synctest.Wait()
				w.nudge(11)
				hear[wire.Nudge](d, wire.TNudge)
				ack := func(cursor string) {
					switch way {
					case "frame":
						d.say(wire.Ack{T: wire.TAck, Cursor: cursor})
					case "http":
						w.ask("POST", "/v1/ack", `{"cursor":"`+cursor+`"}`)
					case "pull":
						d.say(wire.Pull{T: wire.TPull, Cursor: &cursor})
						hear[wire.Changes](d, wire.TChanges)
					case "http pull":
						w.ask("GET", "/v1/changes?since="+cursor, "")
					}
					synctest.Wait()
				}
				w.nudge(12)
				ack("12")
				time.Sleep(time.Second)
				w.nudge(13)
				if n := hear[wire.Nudge](d, wire.TNudge); n.Head != "13" {
					t.Errorf("%+v: the settled one came", n)
				}
				w.nudge(14)
				ack("13")
				if n := hear[wire.Nudge](d, wire.TNudge); n.Head != "14" {
					t.Errorf("%+v", n)
				}
			})
		})
	}
}

// I8: a device that does not read takes a slot, not a queue, and nobody waits for it.
func TestI8SlowReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := piped(t, noPings)
		slow, quick := w.join("slow", "10"), w.join("quick", "10")
		synctest.Wait() // nothing holds nudges back any more
		began := time.Now()
		for n := 11; n <= 1010; n++ {
			w.nudge(n)
		}
		if n := hear[wire.Nudge](quick, wire.TNudge); n.Head != "11" || time.Since(began) != 0 {
			t.Errorf("%+v after %v", n, time.Since(began))
		}
		if n := hear[wire.Nudge](quick, wire.TNudge); n.Head != "1010" || time.Since(began) != 250*time.Millisecond {
			t.Errorf("%+v after %v", n, time.Since(began))
		}
		// It takes the frame after 6 s: late, but whole. So it can be told.
		time.Sleep(6*time.Second - time.Since(began))
		hear[wire.Nudge](slow, wire.TNudge)
		slow.wantClose(wire.CloseTooSlow, "too_slow")
	})
}

// A device that never reads again is cut in mid-frame, where no close frame can be put.
func TestStuckReaderIsCut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := piped(t, noPings)
		w.join("slow", "10")
		quick := w.join("quick", "10")
		w.nudge(11)
		hear[wire.Nudge](quick, wire.TNudge)
		time.Sleep(11 * time.Second)
		synctest.Wait()
		if got := w.count("nudge_session_closes_total", "4003"); got != 1 {
			t.Errorf("closes: %v", got)
		}
		if got := w.hub.Stats().Sessions; got != 1 {
			t.Errorf("in the hub: %d", got)
		}
	})
}

func TestFrameRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := piped(t, noPings) // a pipe holds no ping while a pull is written
		d := w.join("phone", "10")
		time.Sleep(time.Minute / 600) // hello counted
		for id := range int64(60) {
			d.say(wire.Pull{T: wire.TPull, ID: id})
			hear[wire.Changes](d, wire.TChanges)
		}
		for id := range int64(600) { // ten a second are fine for ever
			time.Sleep(100 * time.Millisecond)
			d.say(wire.Pull{T: wire.TPull, ID: id})
			hear[wire.Changes](d, wire.TChanges)
		}
		d.say(wire.Pull{T: wire.TPull})
		d.wantClose(wire.CloseRate, "rate_limited")
	})
}

// Refused acks are not free: they would let anyone keep us busy.
// Pings are frames like others, also before hello.
func TestPingRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := piped(t, noPings)
		pongs := 0
		d := w.dial(func(o *websocket.DialOptions) {
			o.OnPongReceived = func(context.Context, []byte) { pongs++ }
		})
		go func() {
			for range 100 {
				if d.conn.Ping(context.Background()) != nil {
					return
				}
			}
		}()
		d.wantClose(wire.CloseRate, "rate_limited")
		if pongs != 60 {
			t.Errorf("%d pongs", pongs)
		}
	})
}

func TestBadAcksAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := piped(t)
		d := w.join("phone", "10")
		for range 59 {
			d.say(wire.Ack{T: wire.TAck, Cursor: "junk"})
			d.wantError(wire.CursorMalformed)
		}
		d.say(wire.Ack{T: wire.TAck, Cursor: "junk"})
		d.wantClose(wire.CloseRate, "rate_limited")
	})
}

func TestTokenExpiry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := piped(t)
		d := w.dial()
		d.say(wire.Hello{T: wire.THello, V: 1, Token: w.tokenFor(5 * time.Minute), Device: "phone"})
		hear[wire.Ready](d, wire.TReady)
		began := time.Now()
		if e := hear[wire.TokenExpiring](d, wire.TTokenExpiring); e.InS > 60 || e.InS < 59 {
			t.Errorf("%+v", e)
		}
		if at := time.Since(began); at < 4*time.Minute || at > 4*time.Minute+time.Second {
			t.Errorf("noticed after %v", at)
		}
		d.say(wire.Token{T: wire.TToken, Token: w.tokenFor(5 * time.Minute)})
		began = time.Now()
		hear[wire.TokenExpiring](d, wire.TTokenExpiring)
		d.wantClose(wire.CloseTokenExpired, "token_expired")
		if at := time.Since(began); at < 5*time.Minute || at > 5*time.Minute+time.Second {
			t.Errorf("closed after %v", at)
		}
	})
}

func TestNoPong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := piped(t)
		pings := 0
		dead := w.dial(func(o *websocket.DialOptions) {
			o.OnPingReceived = func(context.Context, []byte) bool { pings++; return false }
		})
		dead.say(wire.Hello{T: wire.THello, V: 1, Token: w.token(), Device: "dead"})
		hear[wire.Ready](dead, wire.TReady)
		alive := w.join("alive", "10")
		go func() { _, _, _ = alive.conn.Read(context.Background()) }() // answers pings
		if _, _, err := dead.conn.Read(context.Background()); err == nil || websocket.CloseStatus(err) != -1 {
			t.Errorf("ended with %v", err)
		}
		if pings == 0 {
			t.Error("nobody asked")
		}
		synctest.Wait()
		if got := w.count("nudge_session_closes_total", "lost"); got != 1 {
			t.Errorf("closes: %v", got)
		}
		time.Sleep(10 * time.Minute)
		if got := w.count("nudge_sessions"); got != 1 {
			t.Errorf("sessions: %v", got)
		}
	})
}

func TestMaxAge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := piped(t, func(c *api.Config) { c.Limits.MaxAge = 10 * time.Minute })
		began := time.Now()
		d := w.dial()
		d.say(wire.Hello{T: wire.THello, V: 1, Token: w.token(), Device: "phone"})
		ready := hear[wire.Ready](d, wire.TReady)
		if ready.MaxAgeS < 480 || ready.MaxAgeS > 720 {
			t.Errorf("%+v", ready)
		}
		g := hear[wire.Goaway](d, wire.TGoaway)
		if at := time.Since(began); g.Reason != "max_age" || g.AfterMS < 0 || g.AfterMS > 10_000 || int(at.Seconds())-ready.MaxAgeS > 2 {
			t.Errorf("%+v after %v", g, at)
		}
		at := time.Now()
		d.wantClose(wire.CloseDrain, "max_age")
		if waited := time.Since(at).Milliseconds(); waited < int64(g.AfterMS) || waited > int64(g.AfterMS)+1000 {
			t.Errorf("closed after %d ms, said %d", waited, g.AfterMS)
		}
	})
}

// A23: a device that never pulls gets fresh cursors, so that its own does not expire.
func TestA23QuietCursor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := piped(t, func(c *api.Config) { c.Limits.QuietCursor = 10 * time.Minute })
		d := w.join("phone", "10")
		began := time.Now()
		elapsed := func(min time.Duration) {
			t.Helper()
			if at := time.Since(began); at < min || at > min+2*time.Second {
				t.Errorf("after %v, want %v", at, min)
			}
			began = time.Now()
		}
		if c := hear[wire.Cursor](d, wire.TCursor); c.Cursor != "10" {
			t.Errorf("%+v", c)
		}
		elapsed(10 * time.Minute)
		// An ack starts the quiet anew.
		time.AfterFunc(5*time.Minute, func() { d.say(wire.Ack{T: wire.TAck, Cursor: "10"}) })
		hear[wire.Cursor](d, wire.TCursor)
		elapsed(15 * time.Minute)
		// One that missed its nudge hears of it now.
		w.engine.mu.Lock()
		w.engine.head = 11
		w.engine.mu.Unlock()
		if n := hear[wire.Nudge](d, wire.TNudge); n.Head != "11" {
			t.Errorf("%+v", n)
		}
		elapsed(10 * time.Minute)
	})
}

// At rest a session is one goroutine, its reader; net/http's is gone.
func TestSessionAtRest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := piped(t, noPings)
		const n = 20
		devices := make([]*device, n)
		for i := range n {
			devices[i] = w.join(fmt.Sprint("d", i), "10")
		}
		synctest.Wait()
		w.nudge(11)
		for _, d := range devices {
			hear[wire.Nudge](d, wire.TNudge)
		}
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if got := len(goroutinesOf("/server/api.")); got != n+1 {
			t.Errorf("%d goroutines for %d sessions and Run", got, n)
		}
		if got := len(goroutinesOf("net/http.(*conn).serve(")); got != 0 {
			t.Errorf("net/http still serves %d connections", got)
		}
	})
}

// goroutinesOf lists the goroutines with a call whose name has this in it, whoever started them.
func goroutinesOf(call string) []string {
	all := make([]byte, 4<<20)
	var out []string
	for stack := range strings.SplitSeq(string(all[:runtime.Stack(all, true)]), "\n\n") {
		if strings.Contains(stack, call) {
			out = append(out, stack)
		}
	}
	return out
}

// Between two sweeps an expired token pulls nothing either.
func TestExpiredTokenPullsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(500 * time.Millisecond) // sweeps fall on half seconds, exp on whole ones
		w := piped(t, noPings)
		d := w.dial()
		token := w.tokenFor(4500 * time.Millisecond)
		d.say(wire.Hello{T: wire.THello, V: 1, Token: token, Device: "phone"})
		hear[wire.Ready](d, wire.TReady)
		hear[wire.TokenExpiring](d, wire.TTokenExpiring)
		_, err := w.verifier.Verify(context.Background(), token)
		for ; err == nil; _, err = w.verifier.Verify(context.Background(), token) {
			time.Sleep(100 * time.Millisecond)
		}
		d.say(wire.Pull{T: wire.TPull})
		d.wantClose(wire.CloseTokenExpired, "token_expired")
		if n := len(w.engine.pulls); n != 0 {
			t.Errorf("%d pulls", n)
		}
	})
}

// Devices that take nothing keep a writer each, and nobody else waits for them (I8).
func TestI8StuckWriters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := piped(t, noPings)
		for i := range 20 { // that never read what they are sent
			w.join(fmt.Sprint("stuck", i), "10")
		}
		last := w.join("last", "10")
		began := time.Now()
		w.nudge(11)
		hear[wire.Nudge](last, wire.TNudge)
		if took := time.Since(began); took > 0 { // of the bubble's clock, which stands while anybody can run
			t.Errorf("a nudge waited %v for devices that take none", took)
		}
		synctest.Wait()
		if got := len(goroutinesOf("(*writers).write(")); got != 20 {
			t.Errorf("%d writers for 20 stuck devices", got)
		}
	})
}
