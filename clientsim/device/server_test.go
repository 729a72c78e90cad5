package device_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
	"go.uber.org/goleak"

	"github.com/nudgesync/nudge/clientsim/device"
	"github.com/nudgesync/nudge/server/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds what should take a moment; it only shows when something hangs.
const patience = 20 * time.Second

// rig is a server whose part the test plays, and one device that runs against it.
type rig struct {
	t     *testing.T
	state *device.State
	dev   *device.Device
	ended chan error // what Run returned

	sockets chan *peer            // those that the device opened
	gets    chan *get             // requests for /v1/changes
	refuse  chan http.HandlerFunc // answers for upgrades; empty: accept
	nudged  chan wire.Nudge
	saved   chan *wire.Page
	lost    chan error
	waits   chan wait // what the device asked its clock
}

// wait is one call of the device's clock; the test fires it.
type wait struct {
	d    time.Duration
	fire chan time.Time
}

type get struct {
	req    *http.Request
	answer chan func(http.ResponseWriter)
}

// newRig starts a device. Its dice always show 0.5.
func newRig(t *testing.T) *rig {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	r := &rig{
		t: t, state: device.NewState(), ended: make(chan error, 1),
		sockets: make(chan *peer), gets: make(chan *get), refuse: make(chan http.HandlerFunc, 10),
		nudged: make(chan wire.Nudge, 100), saved: make(chan *wire.Page, 100), lost: make(chan error, 100),
		waits: make(chan wait, 100),
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/socket", func(w http.ResponseWriter, req *http.Request) { r.socket(ctx, w, req) })
	mux.HandleFunc("GET /v1/changes", func(w http.ResponseWriter, req *http.Request) {
		g := &get{req: req, answer: make(chan func(http.ResponseWriter))}
		select {
		case r.gets <- g:
		case <-ctx.Done():
			return
		}
		select {
		case answer := <-g.answer:
			answer(w)
		case <-ctx.Done():
		}
	})
	server := httptest.NewServer(mux)
	var err error
	r.dev, err = device.New(device.Config{
		URL: server.URL, ID: "phone", State: r.state, HTTP: server.Client(),
		Token: func(context.Context) (string, error) { return "secret", nil },
		After: func(d time.Duration) <-chan time.Time {
			w := wait{d: d, fire: make(chan time.Time, 1)}
			r.waits <- w
			return w.fire
		},
		Random: func() float64 { return 0.5 },
		Hooks: device.Hooks{
			Nudged: func(n wire.Nudge) { r.nudged <- n },
			Saved:  func(p *wire.Page, _ int) { r.saved <- p },
			Lost:   func(err error) { r.lost <- err },
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	running.Go(func() { r.ended <- r.dev.Run(ctx) })
	t.Cleanup(func() {
		cancel()
		running.Wait()
		server.Close()
	})
	return r
}

func (r *rig) socket(ctx context.Context, w http.ResponseWriter, req *http.Request) {
	select {
	case answer := <-r.refuse:
		answer(w, req)
		return
	default:
	}
	if req.Header.Get("Authorization") != "Bearer secret" || req.Header.Get("Nudge-Device") != "phone" {
		w.WriteHeader(http.StatusTeapot)
		return
	}
	conn, err := websocket.Accept(w, req, &websocket.AcceptOptions{Subprotocols: []string{wire.Subprotocol}})
	if err != nil {
		return
	}
	defer func() { _ = conn.CloseNow() }()
	p := &peer{t: r.t, conn: conn, gone: make(chan struct{})}
	select {
	case r.sockets <- p:
		select {
		case <-p.gone:
		case <-ctx.Done():
		}
	case <-ctx.Done():
	}
}

// take receives from a channel, or fails the test.
func take[T any](t *testing.T, what string, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(patience / 2):
		t.Fatalf("no %s came", what)
		panic("unreachable")
	}
}

// waited receives the clock's next call of another length than the patience with an answer.
func (r *rig) waited() wait {
	r.t.Helper()
	for {
		if w := take(r.t, "wait", r.waits); w.d != 30*time.Second {
			return w
		}
	}
}

// peer is the server's end of one socket.
type peer struct {
	t    *testing.T
	conn *websocket.Conn
	gone chan struct{}
}

// frame is any client frame.
type frame struct {
	T      string  `json:"t"`
	V      int     `json:"v"`
	ID     int64   `json:"id"`
	Device string  `json:"device"`
	Cursor *string `json:"cursor"`
	Nudge  string  `json:"nudge"`
	Token  string  `json:"token"`
}

// expect reads the next frame and checks its type, and its cursor if it has one: "" means null.
func (p *peer) expect(kind, cursor string) frame {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience/2)
	defer cancel()
	_, b, err := p.conn.Read(ctx)
	if err != nil {
		p.t.Fatalf("no %s frame came: %v", kind, err)
	}
	var f frame
	if err := json.Unmarshal(b, &f); err != nil {
		p.t.Fatal(err)
	}
	var got string
	if f.Cursor != nil {
		got = *f.Cursor
	}
	if f.T != kind || got != cursor || f.Cursor != nil && got == "" {
		p.t.Fatalf("frame %s, want %s with cursor %q", b, kind, cursor)
	}
	return f
}

func (p *peer) send(f any) {
	p.t.Helper()
	b, err := json.Marshal(f)
	if err != nil {
		p.t.Fatal(err)
	}
	if err := p.conn.Write(context.Background(), websocket.MessageText, b); err != nil {
		p.t.Fatal(err)
	}
}

func (p *peer) page(id int64, page *wire.Page) {
	p.t.Helper()
	p.send(wire.Changes{T: wire.TChanges, ID: id, Page: *page})
}

// close ends the socket with a code.
func (p *peer) close(code websocket.StatusCode) {
	_ = p.conn.Close(code, "by the test")
	close(p.gone)
}

// ready answers the hello.
func (p *peer) ready(cursor string, behind bool) {
	p.t.Helper()
	if f := p.expect(wire.THello, cursor); f.V != wire.Version || f.Device != "phone" {
		p.t.Fatalf("hello %+v", f)
	}
	p.send(wire.Ready{T: wire.TReady, Session: "s", Head: "h", Behind: behind})
}

func problem(code wire.Code, after time.Duration) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		p := wire.NewProblem(code, "").After(after)
		w.WriteHeader(p.Status)
		_ = json.NewEncoder(w).Encode(p)
	}
}

// first opens the first socket and brings the device to cursor 1.
func (r *rig) first() *peer {
	r.t.Helper()
	p := take(r.t, "socket", r.sockets)
	p.ready("", true)
	p.page(p.expect(wire.TPull, "").ID, page("1", false, `upsert a t 1 {"x":1}`))
	p.expect(wire.TAck, "1")
	take(r.t, "page", r.saved)
	return p
}

func stopCode(err error) int {
	if stop, ok := errors.AsType[*device.StopError](err); ok {
		return stop.Code
	}
	return 0
}
