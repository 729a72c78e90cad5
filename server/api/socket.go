package api

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	mathrand "math/rand/v2"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/coder/websocket"

	"github.com/nudgesync/nudge/server/wire"
)

// socketBuffer is the size of a session's read and write buffer, in bytes. Most frames are smaller;
// larger ones pass through. net/http's own take 8 KB a connection.
const socketBuffer = 256

// How long a client that was refused a socket waits.
const (
	minBusyWait = time.Second
	maxBusyWait = 5 * time.Second
)

// socket serves GET /v1/socket up to the upgrade. The handler returns then, which frees what net/http
// holds for a connection; the session's reader lives on. Origins were checked on the way here.
func (a *API) socket(w http.ResponseWriter, r *http.Request) {
	if !names(r.Header, "Upgrade", "websocket") || !names(r.Header, "Sec-WebSocket-Protocol", wire.Subprotocol) {
		w.Header().Set("Upgrade", "websocket")
		w.Header().Set("Connection", "Upgrade")
		p := wire.NewProblem(wire.ProtocolOld, "this is a WebSocket of subprotocol "+wire.Subprotocol)
		p.Hint = "Open a WebSocket that asks for subprotocol " + wire.Subprotocol + "; update an app that can't."
		writeProblem(w, p)
		return
	}
	token, err := bearer(r.Header)
	if err != nil {
		a.fail(w, r, err)
		return
	}
	if p := a.reserve(); p != nil {
		a.metrics.refused.WithLabelValues(string(p.Code)).Inc()
		a.fail(w, r, p)
		return
	}
	up := &upgrade{ResponseWriter: w}
	var in *inlet // all are made before anything is read
	var out *socketRoad
	var s *session
	conn, err := websocket.Accept(up, r, &websocket.AcceptOptions{
		Subprotocols:       []string{wire.Subprotocol},
		InsecureSkipVerify: true, // our own rule is exact about scheme and port
		CompressionMode:    websocket.CompressionDisabled,
		// Control frames pass dispatch by: a ping that is one too many gets no pong.
		OnPingReceived: func(context.Context, []byte) bool {
			in.control()
			return s.allow()
		},
		OnPongReceived: func(context.Context, []byte) {
			in.control()
			out.lives()
			s.allow()
		},
	})
	if err != nil {
		a.release()
		if up.in == nil {
			a.fail(w, r, invalid(err.Error(), "Follow RFC 6455 §4.1."))
		}
		return
	}
	conn.SetReadLimit(-1) // read enforces ours, and closes in an order that lets the client see it
	in = up.in
	in.buffer.Reset(in) // the library has put a reader in between
	out = &socketRoad{conn: conn, in: in}
	s = a.newSession(out)
	s.headerToken = token
	a.begin(s)
	go func() {
		defer a.release()
		s.run(func() bool { return s.frames(conn, in) })
	}()
}

// newSession makes a session in a reserved place.
func (a *API) newSession(r road) *session {
	return &session{
		api: a, road: r, id: rand.Text(), opened: time.Now(),
		maxAge: time.Duration(float64(a.limits.MaxAge) * (0.8 + 0.4*mathrand.Float64())),
		// The first ping comes anywhere in the period, so that a herd that connected at once does
		// not answer at once for ever.
		nextPing: time.Now().Add(time.Duration(mathrand.Int64N(int64(a.limits.Ping)) + 1)),
	}
}

// names reports whether a header's comma-separated list holds the value.
func names(h http.Header, key, value string) bool {
	for _, line := range h.Values(key) {
		for part := range strings.SplitSeq(line, ",") {
			if strings.EqualFold(strings.TrimSpace(part), value) {
				return true
			}
		}
	}
	return false
}

// reserve takes a session's place, or says why there is none. release gives it back.
func (a *API) reserve() *wire.Problem {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case a.draining:
		return wire.NewProblem(wire.Draining, "")
	case a.polling() > 0:
		return pollInstead(a.polling())
	case a.open >= a.limits.MaxSockets:
		return busy("this node holds as many sockets as it may")
	case !a.handshakes.Allow():
		return busy("too many sockets are being opened")
	}
	a.open++
	return nil
}

// busy is the problem of a socket that there is no room for now. The times to wait differ, so that those
// who were refused together do not come back together.
func busy(detail string) *wire.Problem {
	wait := minBusyWait + time.Duration(mathrand.Int64N(int64(maxBusyWait-minBusyWait)))
	return wire.NewProblem(wire.Overloaded, detail).After(wait)
}

func (a *API) release() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.open--
	if a.draining && a.open == 0 {
		close(a.empty)
	}
}

// begin enters a session that is about to run.
func (a *API) begin(s *session) {
	a.mu.Lock()
	a.sessions[s] = struct{}{}
	a.turned++
	draining := a.draining
	a.mu.Unlock()
	a.metrics.sessions.Inc()
	if draining { // it began during the upgrade
		s.shut(wire.CloseDrain, string(wire.Draining))
	}
}

// greet enters a session under its user and device, or says why it may not be. An older one of the same
// device gives way: phones leave half-open sockets behind.
func (a *API) greet(s *session) error {
	key := deviceKey{s.user, s.device}
	a.mu.Lock()
	older := a.byDevice[key]
	if older != nil && older.placed { // its place, too: a user with no other left could not come back
		older.placed = false
	} else if err := a.occupy(s.user); err != nil {
		a.mu.Unlock()
		a.metrics.refused.WithLabelValues(string(wire.RateLimited)).Inc()
		return err
	}
	s.placed = true
	a.byDevice[key] = s
	a.mu.Unlock()
	if older != nil {
		older.shut(wire.CloseReplaced, wire.CauseReplaced)
	}
	return nil
}

// occupy counts a place as the user's: the node's places must not all be one user's. vacate is its
// opposite. a.mu is held.
func (a *API) occupy(user string) error {
	if a.byUser[user] >= a.limits.MaxUserSockets {
		return wire.NewProblem(wire.RateLimited, "this user has as many sockets and waiting pulls as one may")
	}
	a.byUser[user]++
	return nil
}

func (a *API) vacate(user string) {
	if a.byUser[user]--; a.byUser[user] == 0 {
		delete(a.byUser, user)
	}
}

// forget takes an ended session out.
func (a *API) forget(s *session) {
	key := deviceKey{s.user, s.device}
	a.mu.Lock()
	delete(a.sessions, s)
	a.turned++
	if a.byDevice[key] == s {
		delete(a.byDevice, key)
	}
	if s.placed {
		a.vacate(s.user)
	}
	a.mu.Unlock()
	a.metrics.sessions.Dec()
}

// upgrade is the ResponseWriter of an upgrade. It hands out a connection with small buffers, and keeps
// the library's plain text refusals back, so that ours can be written instead.
type upgrade struct {
	http.ResponseWriter
	in *inlet // set by Hijack
}

func (u *upgrade) WriteHeader(status int) {
	if status == http.StatusSwitchingProtocols {
		u.ResponseWriter.WriteHeader(status)
	}
}

func (u *upgrade) Write(p []byte) (int, error) { return len(p), nil }

func (u *upgrade) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := http.NewResponseController(u.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	u.in = &inlet{Conn: conn}
	// The 101 still stands in net/http's writer.
	if err := rw.Flush(); err != nil {
		_ = conn.Close()
		return nil, nil, err
	}
	early, err := rw.Reader.Peek(rw.Reader.Buffered()) // frames that came along with the request
	if err != nil {
		_ = conn.Close()
		return nil, nil, err
	}
	u.in.early = bytes.Clone(early)
	u.in.buffer = bufio.NewReaderSize(u.in, socketBuffer)
	return u.in, bufio.NewReadWriter(u.in.buffer, bufio.NewWriterSize(conn, socketBuffer)), nil
}
