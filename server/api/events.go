package api

import (
	"context"
	"encoding/json"
	"errors"
	mathrand "math/rand/v2"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/nudgesync/nudge/server/auth"
	"github.com/nudgesync/nudge/server/wire"
)

// How long a client waits before it opens a stream again that ended without a word, at random.
const (
	minStreamRetry = time.Second
	maxStreamRetry = 5 * time.Second
)

// events serves GET /v1/events: a session whose frames leave as server-sent events, for networks that let
// no socket through. The client pulls and acknowledges by HTTP requests of their own.
//
// It is a session like any other: one of the device's, which takes the place of an older one whatever its
// road; counted, nudged, drained and aged in the same way. The handler is its reader: it waits for the
// client to go.
func (a *API) events(w http.ResponseWriter, r *http.Request) {
	id, device, err := a.identify(r)
	if err != nil {
		a.fail(w, r, err)
		return
	}
	cursor, err := a.lastEvent(r, id)
	if err != nil {
		a.fail(w, r, err)
		return
	}
	if p := a.reserve(); p != nil {
		a.metrics.refused.WithLabelValues(string(p.Code)).Inc()
		a.fail(w, r, p)
		return
	}
	defer a.release()
	st := newStream(w)
	s := a.newSession(st)
	s.greeted = true // the request said who it is
	a.begin(s)
	var refused error
	s.run(func() (clientClosed bool) {
		refused = s.stream(r.Context(), st, id, device, cursor)
		return false
	})
	if !st.opened() {
		if errors.Is(refused, errStreamOver) {
			refused = s.check()
		}
		if refused == nil { // told to go before it began, as by a drain or by a newer session
			refused = busy("the session ended before it began")
		}
		a.fail(w, r, refused)
	}
}

// lastEvent is the cursor that the client holds: Last-Event-ID, which a client that reconnects by itself
// sends, or else since.
func (a *API) lastEvent(r *http.Request, id auth.Identity) (string, error) {
	query, err := readQuery(r, "since")
	if err != nil {
		return "", err
	}
	cursor := r.Header.Get("Last-Event-ID")
	if cursor == "" {
		cursor = query["since"]
	}
	if cursor == "" {
		return "", nil
	}
	_, err = a.cfg.Engine.Saved(id.User, cursor)
	return cursor, err
}

// stream joins, and returns when the client is gone or the road at its end. An error says why the session
// could not begin.
func (s *session) stream(ctx context.Context, st *stream, id auth.Identity, device, cursor string) error {
	joining, cancel := context.WithTimeout(ctx, s.api.limits.Pull)
	defer cancel()
	at, err := s.join(joining, id, device, cursor)
	if err != nil {
		return err
	}
	if err := st.open(); err != nil || !s.begin(at, cursor) {
		return err
	}
	select {
	case <-ctx.Done():
	case <-st.over:
	}
	return nil
}

// errStreamOver refuses writes to a stream that ended.
var errStreamOver = errors.New("the stream is over")

// stream is the road of server-sent events (the HTML standard, "Server-sent events"). It belongs to a
// request whose handler stays until over is closed.
type stream struct {
	w       http.ResponseWriter
	control *http.ResponseController
	over    chan struct{} // closed by cut

	writing sync.Mutex // held for the writing of one event

	mu    sync.Mutex
	begun bool // the answer's header is out
	ended bool // over is closed
}

func newStream(w http.ResponseWriter) *stream {
	return &stream{w: w, control: http.NewResponseController(w), over: make(chan struct{})}
}

func (st *stream) opened() bool {
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.begun
}

// open begins the answer, so that proxies hand it on at once. The server's own deadline is for requests
// that are answered at once; every write of a stream has its own.
func (st *stream) open() error {
	st.writing.Lock()
	defer st.writing.Unlock()
	st.mu.Lock()
	if st.ended {
		st.mu.Unlock()
		return errStreamOver
	}
	st.begun = true
	st.mu.Unlock()
	h := st.w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("Cache-Control", "no-store, no-transform") // no proxy may compress, and so gather, it
	h.Set("X-Accel-Buffering", "no")
	st.w.WriteHeader(http.StatusOK)
	retry := minStreamRetry + time.Duration(mathrand.Int64N(int64(maxStreamRetry-minStreamRetry)))
	return st.put(time.Now().Add(closeWait), "retry: "+strconv.FormatInt(retry.Milliseconds(), 10)+"\n\n")
}

// write sends a frame as an event of its type. A cursor becomes the event's id, which is what a client
// that reconnects by itself sends as Last-Event-ID.
func (st *stream) write(deadline time.Time, typ string, frame []byte) error {
	text := "event: " + typ + "\n"
	if typ == wire.TCursor {
		var c wire.Cursor
		if err := json.Unmarshal(frame, &c); err != nil {
			return err
		}
		text += "id: " + c.Cursor + "\n"
	}
	st.writing.Lock()
	defer st.writing.Unlock()
	return st.put(deadline, text+"data: "+string(frame)+"\n\n") // a frame holds no line break
}

// ping is a comment: it keeps what stands between from closing a quiet stream, and a client that is gone
// is noticed when it can't be written.
func (st *stream) ping(deadline time.Time) error {
	st.writing.Lock()
	defer st.writing.Unlock()
	return st.put(deadline, ":\n\n")
}

// put writes and flushes until the deadline. writing is held.
func (st *stream) put(deadline time.Time, text string) error {
	if err := st.until(deadline); err != nil {
		return err
	}
	if _, err := st.w.Write([]byte(text)); err != nil {
		return err
	}
	if err := st.control.Flush(); err != nil {
		return err
	}
	return st.until(time.Time{}) // over HTTP/2 a deadline ends the stream, whether anything is written or not
}

// until sets the deadline of writes.
func (st *stream) until(t time.Time) error {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.ended || !st.begun {
		return errStreamOver
	}
	return st.control.SetWriteDeadline(t)
}

// close says why in a last event, as a close frame does on a socket, and ends the stream.
func (st *stream) close(code int, cause string) {
	b, err := json.Marshal(wire.Close{T: wire.TClose, Code: code, Reason: wire.CloseReason(cause)})
	if err != nil { // a plain struct
		panic(err)
	}
	_ = st.write(time.Now().Add(closeWait), wire.TClose, b) // a client that is gone needs no word
	st.cut()
}

// cut has the handler return. A write under way fails; else net/http may still end the answer properly.
func (st *stream) cut() {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.ended {
		return
	}
	st.ended = true
	close(st.over)
	deadline := time.Now()
	if st.writing.TryLock() {
		st.writing.Unlock()
		deadline = deadline.Add(closeWait)
	}
	if st.begun {
		_ = st.control.SetWriteDeadline(deadline)
	}
}
