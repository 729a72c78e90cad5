package api_test

import (
	"context"
	"encoding/json"
	"net/http"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nudgesync/nudge/changefeed/change"
	"github.com/nudgesync/nudge/server/api"
	"github.com/nudgesync/nudge/server/auth"
	"github.com/nudgesync/nudge/server/pull"
	"github.com/nudgesync/nudge/server/wire"
)

// answer is what came of a request made in the background.
type answer struct {
	res  *http.Response
	body string
	took time.Duration
}

// later makes a request that may take a while.
func (w *world) later(path string, headers ...string) <-chan answer {
	c := make(chan answer, 1)
	began := time.Now()
	go func() {
		res, body := w.ask("GET", path, "", headers...)
		c <- answer{res, body, time.Since(began)}
	}()
	return c
}

// commit moves the head on, and tells.
func (w *world) commit(tell func(n int)) {
	w.engine.mu.Lock()
	w.engine.head++
	n := w.engine.head
	w.engine.mu.Unlock()
	tell(n)
}

func (w *world) pullsMade() int {
	w.engine.mu.Lock()
	defer w.engine.mu.Unlock()
	return len(w.engine.pulls)
}

func (a answer) page(t *testing.T) wire.Page {
	t.Helper()
	var p wire.Page
	if err := json.Unmarshal([]byte(a.body), &p); err != nil || a.res.StatusCode != http.StatusOK {
		t.Fatalf("%d %s: %v", a.res.StatusCode, a.body, err)
	}
	return p
}

// A pull that waits is answered by the first thing that comes, its own device's change too; when its time
// is over with nothing new; and at once if there is something.
func TestLongPoll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := piped(t)
		if a := <-w.later("/v1/changes?since=9&wait=30s"); len(a.page(t).Changes) != 1 || a.took != 0 {
			t.Errorf("%+v", a)
		}
		if a := <-w.later("/v1/changes?since=10&wait=7s"); len(a.page(t).Changes) != 0 || a.took != 7*time.Second {
			t.Errorf("%+v", a)
		}
		if a := <-w.later("/v1/changes?since=10&wait=1h"); len(a.page(t).Changes) != 0 || a.took != 30*time.Second {
			t.Errorf("at most 30 s are served: %+v", a)
		}
		a := <-w.later("/v1/changes?wait=7s", "If-None-Match", `"10"`)
		if a.res.StatusCode != 304 || a.took != 7*time.Second || a.res.Header.Get(wire.HeaderCursor) != "10" {
			t.Errorf("%+v", a)
		}
		own := func(n int) {
			w.hub.Deliver(change.Frame{Changes: []change.Change{{Pos: position(n), Scope: change.User("7"), Origin: "phone"}}})
		}
		for since, tell := range map[string]func(int){"10": w.nudge, "11": own} {
			w.engine.mu.Lock()
			w.engine.head = int(since[1]-'0') + 10
			w.engine.mu.Unlock()
			c := w.later("/v1/changes?since=" + since + "&wait=30s")
			time.Sleep(20 * time.Second) // longer than a request may take that is answered at once
			if got := w.count("nudge_waiting_pulls"); got != 1 {
				t.Errorf("waiting: %v", got)
			}
			w.commit(tell)
			if a := <-c; len(a.page(t).Changes) != 1 || a.took != 20*time.Second {
				t.Errorf("%+v", a)
			}
		}
		synctest.Wait()
		if waiting, hub := w.count("nudge_waiting_pulls"), w.hub.Stats().Sessions; waiting != 0 || hub != 0 {
			t.Errorf("afterwards: %v waiting, in the hub %d", waiting, hub)
		}
	})
}

// It registers before it looks: what is committed while it looks is not missed.
func TestLongPollMissesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := piped(t)
		w.engine.pull = func(context.Context, pull.Request) (*pull.Answer, error) {
			if w.pullsMade() == 1 { // committed and announced behind the look at the tail, before the answer
				w.nudge(11)
				return &pull.Answer{Cursor: "10", NothingNew: true, Source: "tail", Upto: position(10)}, nil
			}
			return &pull.Answer{Cursor: "11", Changes: []byte(`{"op":"forget","scope":"user:7"}`), Rows: 1, Source: "tail", Upto: position(11)}, nil
		}
		if a := <-w.later("/v1/changes?since=10&wait=30s"); len(a.page(t).Changes) != 1 || a.took != 0 {
			t.Errorf("%+v", a)
		}
	})
}

// While it waits it asks the engine nothing; each piece of news is one look, not one after the other, and
// news of what it has already seen none.
func TestLongPollCostsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := piped(t)
		c := w.later("/v1/changes?since=10&wait=30s")
		synctest.Wait()
		if got := len(goroutinesOf("/server/api.")); got != 2 {
			t.Errorf("%d goroutines for the handler and Run", got)
		}
		for range 1000 {
			w.nudge(10)
			w.nudge(9)
		}
		synctest.Wait()
		if got := w.pullsMade(); got != 1 {
			t.Errorf("%d pulls", got)
		}
		w.nudge(11) // of a table that was not asked for, say
		synctest.Wait()
		if got := w.pullsMade(); got != 2 {
			t.Errorf("%d pulls", got)
		}
		if a := <-c; a.took != 30*time.Second || w.pullsMade() != 2 {
			t.Errorf("%+v, %d pulls", a, w.pullsMade())
		}
	})
}

// A wait ends early when the client goes, when another one of the same device comes, and on a drain.
func TestLongPollEndsEarly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := piped(t)
		ctx, cancel := context.WithCancel(context.Background())
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, w.url+"/v1/changes?since=10&wait=30s", http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer "+w.token())
		r.Header.Set(wire.HeaderDevice, "phone")
		time.AfterFunc(5*time.Second, cancel)
		if res, err := w.client.Do(r); err == nil {
			_ = res.Body.Close()
			t.Error("answered")
		}
		synctest.Wait()
		if waiting, gone := w.count("nudge_waiting_pulls"), w.count("nudge_pulls_total", "gone", "none"); waiting != 0 || gone != 1 {
			t.Errorf("%v waiting, %v gone", waiting, gone)
		}

		older := w.later("/v1/changes?since=10&wait=30s")
		other := w.later("/v1/changes?since=10&wait=30s", wire.HeaderDevice, "tablet")
		time.Sleep(5 * time.Second)
		newer := w.later("/v1/changes?since=10&wait=30s")
		if a := <-older; len(a.page(t).Changes) != 0 || a.took != 5*time.Second {
			t.Errorf("%+v", a)
		}
		time.Sleep(5 * time.Second)
		if err := w.api.Drain(context.Background()); err != nil {
			t.Error(err)
		}
		if a := <-newer; len(a.page(t).Changes) != 0 || !a.res.Close || a.took > 6*time.Second {
			t.Errorf("%+v", a)
		}
		if a := <-other; len(a.page(t).Changes) != 0 || !a.res.Close || a.took > 11*time.Second {
			t.Errorf("%+v", a)
		}
	})
}

// revocable refuses every token once it is told to.
type revocable struct {
	api.Verifier
	revoked atomic.Bool
}

func (v *revocable) Verify(ctx context.Context, token string) (auth.Identity, error) {
	if v.revoked.Load() {
		return auth.Identity{}, wire.NewProblem(wire.TokenRevoked, "")
	}
	return v.Verifier.Verify(ctx, token)
}

// A token that ends while the pull waits gets nothing any more.
func TestLongPollToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var v *revocable
		w := piped(t, func(c *api.Config) {
			v = &revocable{Verifier: c.Verifier}
			c.Verifier = v
		})
		a := <-w.later("/v1/changes?since=10&wait=30s", "Authorization", "Bearer "+w.tokenFor(10*time.Second))
		wantProblem(t, a.res, a.body, 401, wire.TokenExpired)
		if a.took < 9*time.Second || a.took > 10*time.Second {
			t.Errorf("after %v", a.took)
		}
		c := w.later("/v1/changes?since=10&wait=30s")
		synctest.Wait()
		v.revoked.Store(true)
		w.commit(w.nudge)
		a = <-c
		wantProblem(t, a.res, a.body, 403, wire.TokenRevoked)
	})
}
