package api_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/nudgesync/nudge/changefeed/change"
	"github.com/nudgesync/nudge/notify/hub"
	"github.com/nudgesync/nudge/server/api"
	"github.com/nudgesync/nudge/server/auth"
	"github.com/nudgesync/nudge/server/pull"
	"github.com/nudgesync/nudge/server/wire"
)

// engine answers by cursors that are numbers: "7" is position 7 of epoch 1. Its head is what the test
// says. The functions, where set, take over.
type engine struct {
	mu      sync.Mutex
	head    int
	pulls   []pull.Request
	pull    func(ctx context.Context, r pull.Request) (*pull.Answer, error)
	compare func(ctx context.Context, user, cursor string) (pull.Comparison, error)
	saved   func(cursor string) (change.Position, error)
}

func position(n int) change.Position {
	return change.Position{Epoch: 1 << 32, LSN: change.LSN(n), Seq: 1}
}

func (e *engine) number(cursor string) (int, error) {
	switch n, err := strconv.Atoi(cursor); {
	case cursor == "foreign":
		return 0, wire.NewProblem(wire.CursorForeign, "")
	case cursor != "" && err != nil:
		return 0, wire.NewProblem(wire.CursorMalformed, "")
	default:
		return n, nil
	}
}

func (e *engine) Pull(ctx context.Context, r pull.Request) (*pull.Answer, error) {
	e.mu.Lock()
	e.pulls = append(e.pulls, r)
	f, head := e.pull, e.head
	e.mu.Unlock()
	if f != nil {
		return f(ctx, r)
	}
	n, err := e.number(r.Since)
	if err != nil {
		return nil, err
	}
	a := &pull.Answer{Cursor: strconv.Itoa(head), NothingNew: n >= head, Source: "tail", Upto: position(head)}
	if n > 0 {
		a.Acked = position(n)
	}
	if n < head {
		a.Changes, a.Rows = []byte(`{"op":"delete","scope":"user:7","table":"public.t","key":{"id":"1"}}`), 1
	}
	return a, nil
}

func (e *engine) Compare(ctx context.Context, user, cursor string) (pull.Comparison, error) {
	e.mu.Lock()
	f, head := e.compare, e.head
	e.mu.Unlock()
	if f != nil {
		return f(ctx, user, cursor)
	}
	n, err := e.number(cursor)
	if err != nil {
		return pull.Comparison{}, err
	}
	c := pull.Comparison{Head: strconv.Itoa(head), Behind: cursor == "" || n < head}
	if !c.Behind {
		c.Fresh = c.Head
	}
	return c, nil
}

func (e *engine) Head(_ string, pos change.Position) string { return strconv.Itoa(int(pos.LSN)) }

func (e *engine) Saved(_, cursor string) (change.Position, error) {
	if e.saved != nil {
		return e.saved(cursor)
	}
	n, err := e.number(cursor)
	return position(n), err
}

func (e *engine) lastPull() pull.Request {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.pulls[len(e.pulls)-1]
}

// world is an API that runs, and what it stands on.
type world struct {
	t        testing.TB
	api      *api.API
	engine   *engine
	hub      *hub.Hub
	metrics  *prometheus.Registry
	client   *http.Client
	url      string // of the public listener
	key      auth.Key
	verifier *auth.Verifier
	dialRaw  func(context.Context, string, string) (net.Conn, error)
	stop     func() // ends Run and waits for it
}

// tcp starts a world on the loopback interface.
func tcp(t testing.TB, change ...func(*api.Config)) *world {
	t.Helper()
	ln, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return start(t, ln, nil, change...)
}

// piped starts a world over net.Pipe, where a write waits until it is read and synctest keeps the time.
func piped(t *testing.T, change ...func(*api.Config)) *world {
	t.Helper()
	ln := &pipes{conns: make(chan net.Conn), closed: make(chan struct{})}
	return start(t, ln, ln.dial, change...)
}

func start(t testing.TB, ln net.Listener, dial func(context.Context, string, string) (net.Conn, error), change ...func(*api.Config)) *world {
	t.Helper()
	key, err := auth.ParseKey("", auth.HS256, []byte(strings.Repeat("k", 32)))
	if err != nil {
		t.Fatal(err)
	}
	verifier, err := auth.New(auth.Config{Keys: []auth.Key{key}, DeviceClaim: "did"})
	if err != nil {
		t.Fatal(err)
	}
	w := &world{
		t: t, engine: &engine{head: 10}, hub: hub.New(), key: key, verifier: verifier,
		metrics: prometheus.NewRegistry(), url: "http://" + ln.Addr().String(),
	}
	m, err := api.NewMetrics(w.metrics)
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	cfg := api.Config{
		Engine: w.engine, Verifier: verifier, Hub: w.hub,
		Origins: []string{"https://app.example"}, Metrics: m, Log: log,
	}
	for _, f := range change {
		f(&cfg)
	}
	w.api, err = api.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	w.dialRaw = dial
	transport := &http.Transport{DialContext: dial, DisableCompression: true}
	w.client = &http.Client{Transport: recording{transport, t}}

	server := api.NewServer(w.api.Public(), "", log)
	served := make(chan error, 1)
	go func() { served <- server.Serve(ln) }()
	ctx, cancel := context.WithCancel(context.Background())
	ran := make(chan error, 1)
	go func() { ran <- w.api.Run(ctx) }()
	w.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ran; err != nil {
			t.Errorf("Run: %v", err)
		}
		transport.CloseIdleConnections()
		if err := server.Shutdown(context.Background()); err != nil {
			t.Errorf("Shutdown: %v", err)
		}
		if err := <-served; !errors.Is(err, http.ErrServerClosed) {
			t.Errorf("Serve: %v", err)
		}
	})
	t.Cleanup(w.stop)
	return w
}

// token signs in user 7 for an hour; named claims come on top.
func (w *world) token(claims ...string) string {
	return w.tokenFor(time.Hour, claims...)
}

func (w *world) tokenFor(d time.Duration, claims ...string) string {
	w.t.Helper()
	named := map[string]string{"sub": "7"}
	for i := 0; i < len(claims); i += 2 {
		named[claims[i]] = claims[i+1]
	}
	token, err := auth.Mint(w.key, auth.Claims{Issued: time.Now(), Expires: time.Now().Add(d), Named: named})
	if err != nil {
		w.t.Fatal(err)
	}
	return token
}

// ask makes a request as user 7's phone; headers come in pairs, an empty value removes one.
func (w *world) ask(method, path, body string, headers ...string) (*http.Response, string) {
	w.t.Helper()
	r, err := http.NewRequestWithContext(context.Background(), method, w.url+path, strings.NewReader(body))
	if err != nil {
		w.t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+w.token())
	r.Header.Set(wire.HeaderDevice, "phone")
	for i := 0; i < len(headers); i += 2 {
		r.Header.Del(headers[i])
		if headers[i+1] != "" {
			r.Header.Set(headers[i], headers[i+1])
		}
		if headers[i] == "Host" {
			r.Host = headers[i+1]
		}
	}
	res, err := w.client.Do(r)
	if err != nil {
		w.t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	return res, string(b)
}

// wantProblem holds an answer against the problem it should be.
func wantProblem(t testing.TB, res *http.Response, body string, status int, code wire.Code) wire.Problem {
	t.Helper()
	var p wire.Problem
	if err := json.Unmarshal([]byte(body), &p); err != nil {
		t.Fatalf("body %q: %v", body, err)
	}
	if res.StatusCode != status || p.Status != status || p.Code != code {
		t.Errorf("got %d %+v, want %d %s", res.StatusCode, p, status, code)
	}
	if got := res.Header.Get("Content-Type"); got != "application/problem+json" {
		t.Errorf("Content-Type %q", got)
	}
	if got := res.Header.Get("Cache-Control"); got != "private, no-store" {
		t.Errorf("Cache-Control %q", got)
	}
	return p
}

// count is the value of a counter or gauge under these label values.
func (w *world) count(name string, labels ...string) float64 {
	w.t.Helper()
	families, err := w.metrics.Gather()
	if err != nil {
		w.t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			var have []string
			for _, l := range m.GetLabel() {
				have = append(have, l.GetValue())
			}
			if fmt.Sprint(have) == fmt.Sprint(labels) {
				return m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return 0
}

// device is a socket's client side.
type device struct {
	t    testing.TB
	conn *websocket.Conn
}

func (w *world) dial(opts ...func(*websocket.DialOptions)) *device {
	w.t.Helper()
	o := &websocket.DialOptions{HTTPClient: w.client, Subprotocols: []string{wire.Subprotocol}}
	for _, f := range opts {
		f(o)
	}
	conn, res, err := websocket.Dial(context.Background(), w.url+"/v1/socket", o)
	if err != nil {
		w.t.Fatal(err)
	}
	if res.Body != nil {
		_ = res.Body.Close()
	}
	conn.SetReadLimit(-1)
	w.t.Cleanup(func() { _ = conn.CloseNow() })
	return &device{w.t, conn}
}

// join dials and says hello; the device holds cursor, and expects to be behind unless it is "10".
func (w *world) join(name, cursor string) *device {
	w.t.Helper()
	d := w.dial()
	d.say(wire.Hello{T: wire.THello, V: 1, Token: w.token(), Device: name, Cursor: &cursor})
	if r := hear[wire.Ready](d, wire.TReady); r.Session == "" || r.Head == "" || r.MaxAgeS <= 0 {
		w.t.Errorf("ready %+v", r)
	}
	return d
}

func (d *device) say(frame any) {
	d.t.Helper()
	b, err := json.Marshal(frame)
	if err != nil {
		d.t.Fatal(err)
	}
	d.sayText(string(b))
}

func (d *device) sayText(s string) {
	d.t.Helper()
	if err := d.conn.Write(context.Background(), websocket.MessageText, []byte(s)); err != nil {
		d.t.Fatal(err)
	}
}

// hear reads the next frame, which has to be of this type.
func hear[F any](d *device, typ string) F {
	d.t.Helper()
	_, b, err := d.conn.Read(context.Background())
	if err != nil {
		d.t.Fatalf("wanted %s: %v", typ, err)
	}
	var head struct{ T string }
	var f F
	if err := errors.Join(json.Unmarshal(b, &head), json.Unmarshal(b, &f)); err != nil || head.T != typ {
		d.t.Fatalf("heard %s (%v), wanted %s", b, err, typ)
	}
	theContract().frame(d.t, "socket", typ, b)
	return f
}

// wantError reads an error frame.
func (d *device) wantError(code wire.Code) wire.Error {
	d.t.Helper()
	e := hear[wire.Error](d, wire.TError)
	if e.Code != code || e.Hint == "" {
		d.t.Errorf("error %+v, want %s and a hint", e, code)
	}
	return e
}

// wantClose reads on to the close, which has to be of this code and cause, and to carry a hint.
func (d *device) wantClose(code int, cause string) {
	d.t.Helper()
	for {
		_, b, err := d.conn.Read(context.Background())
		if err == nil {
			d.t.Errorf("heard %s, wanted close %d", b, code)
			continue
		}
		var c websocket.CloseError
		if !errors.As(err, &c) || int(c.Code) != code || !strings.HasPrefix(c.Reason, cause+": ") {
			d.t.Fatalf("ended with %v, wanted close %d %s", err, code, cause)
		}
		theContract().closed(d.t, "socket", code, cause)
		return
	}
}

// nudge tells the sessions of user 7's scope.
func (w *world) nudge(n int) {
	w.hub.Announce([]change.Scope{change.User("7")}, position(n))
}
