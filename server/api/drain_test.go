package api_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coder/websocket"

	"github.com/nudgesync/nudge/server/api"
	"github.com/nudgesync/nudge/server/pull"
	"github.com/nudgesync/nudge/server/wire"
)

func TestDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := piped(t, func(c *api.Config) { c.Limits.DrainRate = 2 })
		const n = 10
		type parting struct {
			after, waited time.Duration
			err           error
		}
		began := time.Now()
		parted := make(chan parting, n)
		for i := range n {
			d := w.join(fmt.Sprint("d", i), "10")
			go func() {
				g := hear[wire.Goaway](d, wire.TGoaway)
				if g.Reason != "drain" {
					t.Errorf("%+v", g)
				}
				_, _, err := d.conn.Read(context.Background())
				parted <- parting{time.Duration(g.AfterMS) * time.Millisecond, time.Since(began), err}
			}()
		}
		synctest.Wait()
		drained := make(chan error, 1)
		go func() { drained <- w.api.Drain(context.Background()) }()
		synctest.Wait()

		if res, body := w.ask("GET", "/readyz", ""); res.StatusCode != 503 || !strings.Contains(body, "draining") {
			t.Errorf("readyz: %d %s", res.StatusCode, body)
		}
		if res, _ := w.ask("GET", "/v1/changes", ""); res.StatusCode != 200 {
			t.Errorf("pull: %d", res.StatusCode)
		}
		res, body := w.ask(http.MethodGet, "/v1/socket", "", "Connection", "Upgrade", "Upgrade", "websocket",
			"Sec-WebSocket-Version", "13", "Sec-WebSocket-Key", "MDEyMzQ1Njc4OWFiY2RlZg==", "Sec-WebSocket-Protocol", wire.Subprotocol)
		wantProblem(t, res, body, 503, wire.Draining)

		// In the order and at the time that was said, over n/rate = 5 s.
		for i := range n {
			p := <-parted
			if want := time.Duration(i+1) * 500 * time.Millisecond; p.after != want || p.waited != want ||
				websocket.CloseStatus(p.err) != wire.CloseDrain {
				t.Errorf("%d: said %v, was %v: %v", i, p.after, p.waited, p.err)
			}
		}
		if err := <-drained; err != nil {
			t.Error(err)
		}
	})
}

func TestDrainInAHurry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := piped(t, func(c *api.Config) { c.Limits.DrainRate = 1 })
		reading := w.join("reading", "10")
		w.join("stuck", "10") // reads nothing, so there is no close handshake with it
		began := time.Now()
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		drained := make(chan error, 1)
		go func() { drained <- w.api.Drain(ctx) }()
		if g := hear[wire.Goaway](reading, wire.TGoaway); g.AfterMS > 800 {
			t.Errorf("%+v", g)
		}
		reading.wantClose(wire.CloseDrain, "draining")
		if err := <-drained; err == nil || time.Since(began) != time.Second {
			t.Errorf("%v after %v", err, time.Since(began))
		}
		w.stop() // Run waits for the stuck one, but not for long
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("stopped after %v", took)
		}
		if got := w.count("nudge_sessions"); got != 0 {
			t.Errorf("sessions: %v", got)
		}
	})
}

// Run's end closes what is left, also without a drain.
func TestRunEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := piped(t)
		d := w.join("phone", "10")
		greetless := w.dial()
		stopped := make(chan struct{})
		go func() { defer close(stopped); w.stop() }()
		d.wantClose(wire.CloseDrain, "draining")
		greetless.wantClose(wire.CloseDrain, "draining")
		<-stopped
		if got := w.hub.Stats().Sessions; got != 0 {
			t.Errorf("in the hub: %d", got)
		}
	})
}

// A pull under way does not hold up the end.
func TestRunEndsPulls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := piped(t)
		w.engine.pull = func(ctx context.Context, _ pull.Request) (*pull.Answer, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}
		d := w.join("phone", "10")
		d.say(wire.Pull{T: wire.TPull})
		synctest.Wait()
		began := time.Now()
		stopped := make(chan struct{})
		go func() { defer close(stopped); w.stop() }()
		for {
			if _, _, err := d.conn.Read(context.Background()); err != nil {
				break
			}
		}
		<-stopped
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("took %v", took)
		}
	})
}
