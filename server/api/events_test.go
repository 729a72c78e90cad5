package api_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nudgesync/nudge/server/api"
	"github.com/nudgesync/nudge/server/pull"
	"github.com/nudgesync/nudge/server/wire"
)

// listener is an event stream's client side.
type listener struct {
	t     testing.TB
	res   *http.Response
	lines *bufio.Reader
	stop  context.CancelFunc

	id       string // the last event's
	comments int
}

// listen opens a stream that has to be accepted.
func (w *world) listen(name, query string, headers ...string) *listener {
	w.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	w.t.Cleanup(cancel)
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, w.url+"/v1/events"+query, http.NoBody)
	if err != nil {
		w.t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+w.token())
	r.Header.Set(wire.HeaderDevice, name)
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	res, err := w.client.Do(r)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = res.Body.Close() })
	if res.StatusCode != http.StatusOK {
		b, err := io.ReadAll(res.Body)
		w.t.Fatalf("%d %s %v", res.StatusCode, b, err)
	}
	return &listener{t: w.t, res: res, lines: bufio.NewReader(res.Body), stop: cancel}
}

// next reads to the next event; io.EOF at the stream's proper end.
func (l *listener) next() (typ, data string, err error) {
	for {
		line, err := l.lines.ReadString('\n')
		if err != nil {
			return "", "", err
		}
		line = strings.TrimSuffix(line, "\n")
		field, value, _ := strings.Cut(line, ": ")
		switch {
		case line == "" && typ != "":
			return typ, data, nil
		case field == "event":
			typ = value
		case field == "data":
			data = value
		case field == "id":
			l.id = value
		case line == ":":
			l.comments++
		case line == "", field == "retry":
		default:
			l.t.Errorf("a line of no use: %q", line)
		}
	}
}

// heard reads the next event, which has to be of this type.
func heard[F any](l *listener, typ string) F {
	l.t.Helper()
	got, data, err := l.next()
	if err != nil {
		l.t.Fatalf("wanted %s: %v", typ, err)
	}
	var head struct{ T string }
	var f F
	if err := errors.Join(json.Unmarshal([]byte(data), &head), json.Unmarshal([]byte(data), &f)); err != nil || got != typ || head.T != typ {
		l.t.Fatalf("heard %s %s (%v), wanted %s", got, data, err, typ)
	}
	theContract().frame(l.t, "events", typ, []byte(data))
	return f
}

// wantEnd reads on to the close, which has to be of this code and cause, and to the end behind it.
func (l *listener) wantEnd(code int, cause string) {
	l.t.Helper()
	if c := heard[wire.Close](l, wire.TClose); c.Code != code || !strings.HasPrefix(c.Reason, cause+": ") {
		l.t.Errorf("closed by %+v, wanted %d %s", c, code, cause)
	}
	theContract().closed(l.t, "events", code, cause)
	if _, _, err := l.next(); !errors.Is(err, io.EOF) {
		l.t.Errorf("behind the close: %v", err)
	}
}

func TestEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := piped(t)
		l := w.listen("phone", "?since=9")
		for name, want := range map[string]string{
			"Content-Type": "text/event-stream", "Cache-Control": "no-store, no-transform", "X-Accel-Buffering": "no", "Content-Encoding": "",
		} {
			if got := l.res.Header.Get(name); got != want {
				t.Errorf("%s: %q", name, got)
			}
		}
		if r := heard[wire.Ready](l, wire.TReady); !r.Behind || r.Head != "10" || r.Session == "" || r.MaxAgeS <= 0 {
			t.Errorf("%+v", r)
		}
		synctest.Wait()
		// Coalesced as on a socket, and the last one is of the newest head.
		began := time.Now()
		for n := 11; n <= 1010; n++ {
			w.nudge(n)
		}
		if n := heard[wire.Nudge](l, wire.TNudge); n.Head != "11" || n.ID == "" || time.Since(began) != 0 {
			t.Errorf("%+v after %v", n, time.Since(began))
		}
		if n := heard[wire.Nudge](l, wire.TNudge); n.Head != "1010" || time.Since(began) != 250*time.Millisecond {
			t.Errorf("%+v after %v", n, time.Since(began))
		}
		// What the device pulled over HTTP is not announced any more.
		w.nudge(1011)
		w.ask("POST", "/v1/ack", `{"cursor":"1011"}`)
		time.AfterFunc(10*time.Minute, func() { w.nudge(1012) })
		if n := heard[wire.Nudge](l, wire.TNudge); n.Head != "1012" {
			t.Errorf("%+v", n)
		}
		if l.comments < 19 || l.comments > 20 { // one in 30 s keeps what stands between from closing it
			t.Errorf("%d comments", l.comments)
		}
		if got := w.count("nudge_sessions"); got != 1 {
			t.Errorf("sessions: %v", got)
		}
		l.stop()
		synctest.Wait()
		if got, hub := w.count("nudge_sessions"), w.hub.Stats().Sessions; got != 0 || hub != 0 {
			t.Errorf("afterwards: %v, in the hub %d", got, hub)
		}
		if got := w.count("nudge_session_closes_total", "lost"); got != 1 {
			t.Errorf("closes: %v", got)
		}
	})
}

// An up-to-date device gets a fresh cursor, as the event's id; that is what it comes back with.
func TestEventCursor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := piped(t, noPings, func(c *api.Config) { c.Limits.QuietCursor = 10 * time.Minute })
		l := w.listen("phone", "?since=9", "Last-Event-ID", "12") // the newer one counts
		if r := heard[wire.Ready](l, wire.TReady); r.Behind {
			t.Errorf("%+v", r)
		}
		if c := heard[wire.Cursor](l, wire.TCursor); c.Cursor != "10" || l.id != "10" {
			t.Errorf("%+v, id %s", c, l.id)
		}
		synctest.Wait()
		time.Sleep(5 * time.Minute)
		w.ask("GET", "/v1/changes?since=10", "") // proves a cursor, so the quiet begins anew
		began := time.Now()
		if c := heard[wire.Cursor](l, wire.TCursor); c.Cursor != "10" {
			t.Errorf("%+v", c)
		}
		if took := time.Since(began); took < 10*time.Minute || took > 10*time.Minute+2*time.Second {
			t.Errorf("after %v", took)
		}
	})
}

func TestEventsRefused(t *testing.T) {
	w := tcp(t, func(c *api.Config) { c.Limits.MaxSockets = 1 })
	ask := func(path string, status int, code wire.Code, headers ...string) {
		t.Helper()
		res, body := w.ask("GET", path, "", headers...)
		wantProblem(t, res, body, status, code)
	}
	ask("/v1/events", 401, wire.TokenMissing, "Authorization", "")
	ask("/v1/events", 401, wire.TokenExpired, "Authorization", "Bearer "+w.tokenFor(-time.Minute))
	ask("/v1/events", 400, wire.RequestInvalid, wire.HeaderDevice, "")
	ask("/v1/events", 403, wire.DeviceMismatch, "Authorization", "Bearer "+w.token("did", "tablet"))
	ask("/v1/events", 403, wire.OriginForbidden, "Origin", "https://evil.example")
	ask("/v1/events?limit=3", 400, wire.RequestInvalid)
	ask("/v1/events?since=x", 400, wire.CursorMalformed)
	ask("/v1/events?since=foreign", 409, wire.CursorForeign)
	ask("/v1/events", 400, wire.CursorMalformed, "Last-Event-ID", "x")
	w.engine.compare = func(context.Context, string, string) (pull.Comparison, error) {
		return pull.Comparison{}, wire.NewProblem(wire.Starting, "")
	}
	ask("/v1/events", 503, wire.Starting)
	w.engine.compare = func(context.Context, string, string) (pull.Comparison, error) { panic("secret") }
	ask("/v1/events", 503, wire.Overloaded)
	w.engine.compare = nil
	l := w.listen("tablet", "")
	heard[wire.Ready](l, wire.TReady)
	ask("/v1/events", 503, wire.Overloaded)
	page := func() *http.Response {
		t.Helper()
		res, body := w.ask("GET", "/v1/changes?since=9&wait=10s", "")
		answer{res, body, 0}.page(t)
		return res
	}
	ask("/v1/changes?since=10&wait=10s", 503, wire.Overloaded)
	page() // what is there already needs no place to wait in
	drained := make(chan error, 1)
	go func() { drained <- w.api.Drain(context.Background()) }()
	if g := heard[wire.Goaway](l, wire.TGoaway); g.Reason != "drain" {
		t.Errorf("%+v", g)
	}
	l.wantEnd(wire.CloseDrain, "draining")
	if err := <-drained; err != nil {
		t.Error(err)
	}
	ask("/v1/events", 503, wire.Draining)
	ask("/v1/changes?since=10&wait=10s", 503, wire.Draining)
	if res := page(); !res.Close {
		t.Error("a page of a draining node keeps the connection")
	}
	if res, _ := w.ask("GET", "/v1/changes?since=10&wait=10s", ""); !res.Close {
		t.Error("a refusal of a draining node keeps the connection")
	}
	if got := w.count("nudge_sockets_refused_total", "overloaded"); got != 1 {
		t.Errorf("refused: %v", got)
	}
}

// A device has one session, whatever its road: the newest.
func TestOneSessionADevice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := piped(t, noPings)
		d := w.join("phone", "10")
		l := w.listen("phone", "")
		heard[wire.Ready](l, wire.TReady)
		d.wantClose(wire.CloseReplaced, "replaced")
		second := w.listen("phone", "")
		heard[wire.Ready](second, wire.TReady)
		l.wantEnd(wire.CloseReplaced, "replaced")
		w.join("phone", "10")
		second.wantEnd(wire.CloseReplaced, "replaced")
		synctest.Wait()
		if got := w.hub.Stats().Sessions; got != 1 {
			t.Errorf("in the hub: %d", got)
		}
	})
}

func TestEventsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := piped(t, func(c *api.Config) { c.Limits.MaxAge = 10 * time.Minute })
		l := w.listen("aged", "")
		ready := heard[wire.Ready](l, wire.TReady)
		began := time.Now()
		g := heard[wire.Goaway](l, wire.TGoaway)
		if at := time.Since(began); g.Reason != "max_age" || int(at.Seconds()) < ready.MaxAgeS || int(at.Seconds()) > ready.MaxAgeS+2 {
			t.Errorf("%+v after %v", g, at)
		}
		l.wantEnd(wire.CloseDrain, "max_age")

		l = w.listen("expiring", "", "Authorization", "Bearer "+w.tokenFor(5*time.Minute))
		heard[wire.Ready](l, wire.TReady)
		if e := heard[wire.TokenExpiring](l, wire.TTokenExpiring); e.InS > 60 || e.InS < 59 {
			t.Errorf("%+v", e)
		}
		l.wantEnd(wire.CloseTokenExpired, "token_expired")

		l = w.listen("last", "")
		heard[wire.Ready](l, wire.TReady)
		stopped := make(chan struct{})
		go func() { defer close(stopped); w.stop() }()
		l.wantEnd(wire.CloseDrain, "draining")
		<-stopped
	})
}

// I8: who does not read a stream is cut, and nobody waits for it.
func TestI8SlowListener(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := piped(t, noPings)
		slow, quick := w.listen("slow", ""), w.listen("quick", "")
		heard[wire.Ready](quick, wire.TReady)
		heard[wire.Ready](slow, wire.TReady)
		synctest.Wait()
		// The client's own buffers take some; a pipe takes nothing.
		began := time.Now()
		for n := 11; time.Since(began) < time.Minute; n++ {
			w.nudge(n)
			heard[wire.Nudge](quick, wire.TNudge)
			time.Sleep(250 * time.Millisecond)
		}
		synctest.Wait()
		if got := w.count("nudge_session_closes_total", "4003"); got != 1 {
			t.Errorf("closes: %v", got)
		}
		if got := w.hub.Stats().Sessions; got != 1 {
			t.Errorf("in the hub: %d", got)
		}
	})
}

// A stream at rest is its handler, and what net/http has for a connection.
func TestStreamAtRest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := piped(t, noPings)
		const n = 20
		for i := range n {
			heard[wire.Ready](w.listen(fmt.Sprint("d", i), ""), wire.TReady)
		}
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if got := len(goroutinesOf("/server/api.")); got != n+1 {
			t.Errorf("%d goroutines for %d streams and Run", got, n)
		}
	})
}

// Over HTTP/2 without TLS, as some proxies speak it, and outlasting every deadline of a write.
func TestEventsOverHTTP2(t *testing.T) {
	w := tcp(t, func(c *api.Config) {
		c.Limits.Ping, c.Limits.SlowWrite = time.Second, 500*time.Millisecond
	})
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	server := httptest.NewUnstartedServer(w.api.Public())
	server.Config.Protocols = &protocols
	server.Start()
	transport := &http.Transport{Protocols: &protocols}
	w.client, w.url = &http.Client{Transport: recording{transport, t}}, server.URL
	t.Cleanup(server.Close)
	t.Cleanup(transport.CloseIdleConnections)
	l := w.listen("phone", "?since=12")
	if l.res.ProtoMajor != 2 {
		t.Fatalf("over %s", l.res.Proto)
	}
	heard[wire.Ready](l, wire.TReady)
	heard[wire.Cursor](l, wire.TCursor)
	for l.comments < 3 { // one in a second
		if _, err := l.lines.ReadString(':'); err != nil {
			t.Fatal(err)
		}
		l.comments++
	}
	if _, err := l.lines.Discard(2); err != nil { // what is left of the comment
		t.Fatal(err)
	}
	for n := 11; n < 14; n++ {
		w.nudge(n)
		if got := heard[wire.Nudge](l, wire.TNudge); got.Head != fmt.Sprint(n) {
			t.Errorf("%+v, want %d", got, n)
		}
	}
	second := w.listen("phone", "")
	heard[wire.Ready](second, wire.TReady)
	l.wantEnd(wire.CloseReplaced, "replaced")
	second.stop()
}
