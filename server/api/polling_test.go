package api_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nudgesync/nudge/server/api"
	"github.com/nudgesync/nudge/server/wire"
)

// order is an api.Polling in memory.
type order struct {
	mu    sync.Mutex
	after time.Duration
	err   error
}

func (o *order) PollAfter(context.Context) (time.Duration, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.after, o.err
}

func (o *order) SetPollAfter(_ context.Context, after time.Duration) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.err == nil {
		o.after = after
	}
	return o.err
}

// lagging is an order whose reads, where the test says so, take long or fail.
type lagging struct {
	order
	read func() error
}

func (l *lagging) PollAfter(ctx context.Context) (time.Duration, error) {
	after, _ := l.order.PollAfter(ctx)
	l.mu.Lock()
	read := l.read
	l.mu.Unlock()
	if read != nil {
		return after, read()
	}
	return after, nil
}

func (l *lagging) reads(as func() error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.read = as
}

// A 200 to the order means that this node follows it, and goes on to.
func TestPollingIsFollowedOnceAnswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &lagging{}
		w := piped(t, func(c *api.Config) { c.Polling = l })
		ask := func(method, body string) *httptest.ResponseRecorder {
			r := httptest.NewRequestWithContext(context.Background(), method, "/v1/admin/poll", strings.NewReader(body))
			r.Host = "127.0.0.1:8081"
			rec := httptest.NewRecorder()
			w.api.Admin().ServeHTTP(rec, r)
			return rec
		}
		synctest.Wait()
		l.reads(func() error { return errors.New("the database is away") })
		rec := ask("PUT", `{"poll_after_s":60}`)
		wantProblem(t, rec.Result(), rec.Body.String(), 500, wire.Internal)
		l.reads(nil)
		if rec := ask("DELETE", ""); rec.Code != 200 {
			t.Errorf("%d %s", rec.Code, rec.Body)
		}

		var lagged atomic.Bool
		late := make(chan struct{})
		l.reads(func() error {
			if lagged.CompareAndSwap(false, true) {
				<-late
			}
			return nil
		})
		time.Sleep(1500 * time.Millisecond) // the watcher has read that there is no order, and lags
		put := make(chan *httptest.ResponseRecorder, 1)
		go func() { put <- ask("PUT", `{"poll_after_s":60}`) }()
		synctest.Wait()
		close(late)
		if rec := <-put; rec.Code != 200 {
			t.Errorf("%d %s", rec.Code, rec.Body)
		}
		synctest.Wait()
		if got := strings.TrimSpace(ask("GET", "").Body.String()); got != `{"poll_after_s":60}` {
			t.Errorf("%s", got)
		}
	})
}

func (o *order) fail(err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.err = err
}

// An operator turns the fleet to polling, and back: sessions leave one after the other, new ones are
// refused, pulls say when to come again and do not wait.
func TestPolling(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := &order{}
		w := piped(t, noPings, func(c *api.Config) { c.Polling, c.Limits.DrainRate = o, 2 })
		const n = 10
		var devices []*device
		for i := range n {
			devices = append(devices, w.join(fmt.Sprint("d", i), "10"))
		}
		stream := w.listen("stream", "")
		heard[wire.Ready](stream, wire.TReady)
		waiting := w.later("/v1/changes?since=10&wait=30s")
		synctest.Wait()
		if err := o.SetPollAfter(context.Background(), time.Minute); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Second) // within a second they know, within another they are told
		var leaving sync.WaitGroup
		for _, d := range devices {
			leaving.Go(func() {
				g := hear[wire.Goaway](d, wire.TGoaway)
				if g.Reason != "polling" || g.AfterMS < 0 || g.AfterMS > 5500 {
					t.Errorf("%+v", g)
				}
				d.wantClose(wire.CloseDrain, "polling")
			})
		}
		if g := heard[wire.Goaway](stream, wire.TGoaway); g.Reason != "polling" {
			t.Errorf("%+v", g)
		}
		stream.wantEnd(wire.CloseDrain, "polling")
		leaving.Wait()

		res, body := w.ask(http.MethodGet, "/v1/socket", "", "Connection", "Upgrade", "Upgrade", "websocket",
			"Sec-WebSocket-Version", "13", "Sec-WebSocket-Key", "MDEyMzQ1Njc4OWFiY2RlZg==", "Sec-WebSocket-Protocol", wire.Subprotocol)
		if p := wantProblem(t, res, body, 503, wire.Polling); p.RetryAfterMS < 60_000 || p.RetryAfterMS > 75_000 {
			t.Errorf("%+v", p)
		}
		res, body = w.ask("GET", "/v1/events", "")
		wantProblem(t, res, body, 503, wire.Polling)
		a := <-waiting // it is not left to wait its time out
		if got := a.page(t).PollAfterS; got == nil || *got != 60 || a.took > 2*time.Second {
			t.Errorf("%+v", a)
		}
		for _, c := range []struct{ path, match string }{
			{"/v1/changes?since=10", ""},
			{"/v1/changes?since=10&wait=30s", ""},
			{"/v1/changes", `"10"`},
		} {
			a := <-w.later(c.path, "If-None-Match", c.match)
			if a.took != 0 || a.res.Header.Get(wire.HeaderPollAfter) != "60" {
				t.Errorf("%s: %v %+v", c.path, a.took, a.res.Header)
			}
			if c.match == "" {
				if got := a.page(t).PollAfterS; got == nil || *got != 60 {
					t.Errorf("%s: %v", c.path, got)
				}
			}
		}
		o.fail(errors.New("the database is away")) // what was read last stands
		time.Sleep(time.Minute)
		if got := (<-w.later("/v1/changes")).page(t).PollAfterS; got == nil || *got != 60 {
			t.Errorf("%v", got)
		}
		o.fail(nil)
		if err := o.SetPollAfter(context.Background(), 0); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Second)
		a = <-w.later("/v1/changes")
		if a.page(t).PollAfterS != nil || a.res.Header.Get(wire.HeaderPollAfter) != "" {
			t.Errorf("%+v", a)
		}
		w.join("back", "10")
	})
}

func TestPollingOrder(t *testing.T) {
	o := &order{}
	w := tcp(t, func(c *api.Config) { c.Polling = o })
	ask := func(method, body string) (*http.Response, string) {
		r := httptest.NewRequestWithContext(t.Context(), method, "/v1/admin/poll", strings.NewReader(body))
		r.Host = "127.0.0.1:8081"
		rec := httptest.NewRecorder()
		w.api.Admin().ServeHTTP(rec, r)
		res := rec.Result()
		theContract().check(t, r, res, rec.Body.String())
		return res, rec.Body.String()
	}
	for _, c := range []struct{ method, body, want string }{
		{"GET", "", `{"poll_after_s":null}`},
		{"PUT", `{"poll_after_s":60}`, `{"poll_after_s":60}`},
		{"GET", "", `{"poll_after_s":60}`},
		{"PUT", `{"poll_after_s":86400}`, `{"poll_after_s":86400}`},
		{"DELETE", "", `{"poll_after_s":null}`},
	} {
		if res, body := ask(c.method, c.body); res.StatusCode != 200 || strings.TrimSpace(body) != c.want || !json.Valid([]byte(body)) {
			t.Errorf("%s %s: %d %s", c.method, c.body, res.StatusCode, body)
		}
	}
	for _, body := range []string{"", "{}", `{"poll_after_s":0}`, `{"poll_after_s":null}`, `{"poll_after_s":86401}`, `{"poll_after_s":1.5}`, `{"poll_after_s":"60"}`} {
		res, got := ask("PUT", body)
		wantProblem(t, res, got, 400, wire.RequestInvalid)
	}
	res, body := ask("POST", "")
	wantProblem(t, res, body, 405, wire.RequestInvalid)
	o.fail(errors.New("secret"))
	res, body = ask("PUT", `{"poll_after_s":60}`)
	wantProblem(t, res, body, 500, wire.Internal)
	o.fail(context.DeadlineExceeded)
	for _, method := range []string{"PUT", "DELETE"} {
		res, body = ask(method, `{"poll_after_s":60}`)
		wantProblem(t, res, body, 503, wire.Overloaded)
	}
}
