package api_test

import (
	"bufio"
	"context"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"

	"github.com/nudgesync/nudge/changefeed/change"
	devices "github.com/nudgesync/nudge/notify/device"
	"github.com/nudgesync/nudge/server/api"
	"github.com/nudgesync/nudge/server/pull"
	"github.com/nudgesync/nudge/server/wire"
)

// ears keep what they hear.
type ears struct {
	t      *testing.T
	mu     sync.Mutex
	events []devices.Event
	rang   chan struct{}
}

func (e *ears) Heard(user, name string, ev devices.Event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if user != "7" || name != "phone" {
		e.t.Errorf("heard %s of %s", name, user)
	}
	e.events = append(e.events, ev)
	select {
	case e.rang <- struct{}{}:
	default:
	}
}

func listening(t *testing.T) (*ears, func(*api.Config)) {
	e := &ears{t: t, rang: make(chan struct{}, 1)}
	return e, func(c *api.Config) { c.Hears = e }
}

// want holds what was heard since the last call against events.
func (e *ears) want(what string, events ...devices.Event) {
	e.t.Helper()
	for {
		e.mu.Lock()
		got := e.events
		if len(got) >= len(events) {
			e.events = nil
			e.mu.Unlock()
			if d := cmp.Diff(events, got); d != "" {
				e.t.Errorf("%s was heard as (-want +got):\n%s", what, d)
			}
			return
		}
		e.mu.Unlock()
		<-e.rang
	}
}

// A pull proves the cursor that it brings, not the one that it takes away; an ack proves its own (A6).
func TestA06WhatPullsProve(t *testing.T) {
	e, with := listening(t)
	w := tcp(t, with)
	w.ask("GET", "/v1/changes?since=7", "")
	e.want("a pull that is behind", devices.Event{Acked: position(7), Pulled: true, Served: true})
	w.ask("GET", "/v1/changes?since=10&nudge=p.42", "")
	e.want("a pull that is up to date, after a push", devices.Event{Acked: position(10), Pulled: true, Nudge: "p.42"})
	w.ask("GET", "/v1/changes?since=10&nudge=2n9c", "")
	e.want("a pull after a nudge of a socket", devices.Event{Acked: position(10), Pulled: true})
	w.ask("GET", "/v1/changes", "")
	e.want("the first pull", devices.Event{Pulled: true, Served: true})
	w.ask("GET", "/v1/changes", "", "If-None-Match", `"10"`)
	e.want("a check", devices.Event{Acked: position(10), Pulled: true})
	w.ask("POST", "/v1/ack", `{"cursor":"9"}`)
	e.want("an acknowledgement", devices.Event{Acked: position(9)})

	// In the middle of a snapshot a cursor proves nothing.
	w.engine.pull = func(context.Context, pull.Request) (*pull.Answer, error) {
		return &pull.Answer{Cursor: "5", HasMore: true, Source: "snapshot"}, nil
	}
	w.engine.saved = func(string) (change.Position, error) { return change.Position{}, nil }
	w.ask("GET", "/v1/changes?since=5", "")
	e.want("a page of a snapshot", devices.Event{Pulled: true, Served: true})
	w.ask("POST", "/v1/ack", `{"cursor":"5"}`)
	e.want("an acknowledgement of it", devices.Event{})

	w.engine.pull = func(context.Context, pull.Request) (*pull.Answer, error) {
		return nil, wire.NewProblem(wire.Overloaded, "")
	}
	if res, _ := w.ask("GET", "/v1/changes?since=5", ""); res.StatusCode != http.StatusServiceUnavailable {
		t.Error(res.StatusCode)
	}
	w.engine.pull = nil
	w.engine.saved = nil
	w.ask("GET", "/v1/changes?since=8", "")
	e.want("a pull behind one that was refused", devices.Event{Acked: position(8), Pulled: true, Served: true})
}

func TestSocketIsHeard(t *testing.T) {
	e, with := listening(t)
	w := tcp(t, with)
	d := w.dial()
	cursor := "7"
	d.say(wire.Hello{T: wire.THello, V: 1, Token: w.token(), Device: "phone", Cursor: &cursor})
	id := hear[wire.Ready](d, wire.TReady).Session
	e.want("hello", devices.Event{Session: id, Acked: position(7)})
	d.say(wire.Pull{T: wire.TPull, ID: 1, Cursor: &cursor, Nudge: "p.x"})
	hear[wire.Changes](d, wire.TChanges)
	e.want("a pull", devices.Event{Session: id, Acked: position(7), Pulled: true, Served: true, Nudge: "p.x"})
	d.say(wire.Ack{T: wire.TAck, Cursor: "10"})
	e.want("an ack", devices.Event{Session: id, Acked: position(10)})
	newest := "10"
	d.say(wire.Pull{T: wire.TPull, ID: 2, Cursor: &newest, WaitMS: 1})
	hear[wire.Changes](d, wire.TChanges)
	e.want("a pull that waits", devices.Event{Session: id, Acked: position(10)}, devices.Event{Session: id, Acked: position(10), Pulled: true})
	_ = d.conn.CloseNow()
	e.want("the end", devices.Event{Session: id, Ended: true})

	_ = w.dial().conn.CloseNow()
	w.stop()
	e.want("a socket without hello")
}

func TestStreamIsHeard(t *testing.T) {
	e, with := listening(t)
	w := tcp(t, with)
	ctx, cancel := context.WithCancel(t.Context())
	r, err := http.NewRequestWithContext(ctx, "GET", w.url+"/v1/events?since=10", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+w.token())
	r.Header.Set(wire.HeaderDevice, "phone")
	res, err := (&http.Client{Transport: w.client.Transport.(recording).RoundTripper}).Do(r)
	if err != nil {
		t.Fatal(err)
	}
	for lines := bufio.NewReader(res.Body); ; {
		line, err := lines.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(line, wire.TReady) {
			break
		}
	}
	e.mu.Lock()
	began := e.events
	e.events = nil
	e.mu.Unlock()
	if len(began) != 1 || began[0].Session == "" || began[0].Acked != position(10) {
		t.Fatalf("heard %+v", began)
	}
	cancel()
	_ = res.Body.Close()
	e.want("the end", devices.Event{Session: began[0].Session, Ended: true})
}

// A pull that waits is there as long as it waits, and its cursor counts from the start.
func TestWaitingPullIsHeard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, with := listening(t)
		w := piped(t, with)
		done := make(chan struct{})
		go func() {
			defer close(done)
			w.ask("GET", "/v1/changes?since=10&wait=20s", "")
		}()
		synctest.Wait()
		e.mu.Lock()
		began := e.events
		e.events = nil
		e.mu.Unlock()
		if len(began) != 2 || began[0].Session == "" || began[1] != (devices.Event{Acked: position(10)}) {
			t.Fatalf("heard %+v", began)
		}
		<-done
		e.want("the answer", devices.Event{Session: began[0].Session, Ended: true}, devices.Event{Acked: position(10), Pulled: true})
	})
}
