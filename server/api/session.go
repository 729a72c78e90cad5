package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"strconv"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/coder/websocket"
	"golang.org/x/time/rate"

	"github.com/nudgesync/nudge/changefeed/change"
	"github.com/nudgesync/nudge/notify/device"
	"github.com/nudgesync/nudge/notify/hub"
	"github.com/nudgesync/nudge/server/auth"
	"github.com/nudgesync/nudge/server/wire"
)

// closeWait bounds a close handshake with a client that does not take part in it.
const closeWait = 5 * time.Second

// session is one device's socket or event stream. It implements hub.Session.
type session struct {
	api    *API
	road   road
	id     string
	opened time.Time
	maxAge time.Duration

	// Owned by the reader.
	headerToken string
	limiter     *rate.Limiter // of a socket's frames; nil on a stream
	unregister  func()        // from the hub; nil before hello

	// user and device are written by the reader once, before the session is entered anywhere.
	user, device string

	placed bool // counted as the user's; guarded by api.mu

	// serving is held while a pull is answered, and while a fresh cursor is made for a quiet device:
	// a cursor must not overtake a page.
	serving sync.Mutex

	// running counts the goroutines beside the reader, and a flush; it only grows under mu while over is false.
	running sync.WaitGroup

	mu       sync.Mutex
	over     bool // the reader is gone: nothing starts any more
	writing  bool // a writer is at it, or called for
	greeted  bool // hello came
	ready    bool // ready is written: nudges may follow
	ending   ending
	goaway   *wire.Goaway  // to be written
	closeAt  time.Time     // after a goaway that the sweeper sees to; zero before
	closeFor string        // the cause of that
	frameAt  time.Time     // when the frame began that is being read; zero between frames
	who      auth.Identity // of the token, and on this device; zero before hello
	warned   bool          // token_expiring was noted for this token
	expiring bool          // token_expiring is to be written
	nextPing time.Time
	cursor   string    // the newest one that the device proved to hold, "" for none
	cursorAt time.Time // when a cursor last went either way

	// The newest head (I8): one, not a queue.
	head     change.Position
	nudgeDue bool      // head is to be written
	crowd    hub.Crowd // who else hears of it
	nudgedAt time.Time

	// What the device wrote itself: it comes for that by its own pull, and is nudged if it does not.
	own   change.Position // newest; zero once it has come round
	held  change.Position // what it was handed; its own change may be there before we hear of it
	ownAt time.Time       // when the oldest of it was heard of
	// The device has asked to wait for an own write, until then. An answer that something else was
	// quicker with leaves it expecting: then nobody else will pull for it.
	expects time.Time

	waiting bool          // a pull waits for something new, or is about to be answered
	news    chan struct{} // closed when it comes; nil: it came, or none waits

	armed bool        // timer will wake the session
	timer *time.Timer // for the trailing nudge; nil until first needed
}

// ending is how a session ends: a close code, and the cause's name.
type ending struct {
	code  int
	cause string
}

// Device is the device's id, as it said in hello.
func (s *session) Device() string { return s.device }

// run is the reader: it serves what the client says until the road ends, and then waits for everything
// else that the session started. serve reports whether it was the client who closed.
func (s *session) run(serve func() (clientClosed bool)) {
	s.end(func() bool {
		defer s.survive(s.shut)
		return serve()
	}())
}

// frames serves a socket's frames. It reports whether it was the client who closed.
func (s *session) frames(conn *websocket.Conn, in *inlet) (clientClosed bool) {
	for more := true; more && in.wait() == nil; {
		more, clientClosed = s.apart(conn, in)
	}
	return clientClosed
}

// apart serves what has begun to come in, in a goroutine of its own: the stack that this takes is gone with
// it.
func (s *session) apart(conn *websocket.Conn, in *inlet) (more, clientClosed bool) {
	var served sync.WaitGroup
	served.Go(func() {
		defer s.survive(s.shut)
		more, clientClosed = s.frame(conn, in)
	})
	served.Wait()
	return more, clientClosed
}

// frame reads a frame and serves it. It reports whether the session goes on, and if not whether it was the
// client who closed.
func (s *session) frame(conn *websocket.Conn, in *inlet) (more, clientClosed bool) {
	text, err := s.read(conn, in)
	if err != nil {
		return errors.Is(err, errBetweenFrames), websocket.CloseStatus(err) != -1
	}
	more = text != nil && s.dispatch(text.Bytes())
	s.api.frames.put(text)
	return more, false
}

// survive makes a panic the end of one session, by shut or cut, instead of the process.
func (s *session) survive(end func(code int, cause string)) {
	if v := recover(); v != nil {
		s.api.logPanic("session", v, "session", s.id)
		end(wire.CloseInternal, string(wire.Internal))
	}
}

// read returns the next frame's text; nil with no error if the session was told to close instead.
func (s *session) read(conn *websocket.Conn, in *inlet) (*bytes.Buffer, error) {
	s.reading(time.Now())
	defer s.reading(time.Time{})
	typ, r, err := conn.Reader(context.Background())
	if err != nil {
		return nil, err
	}
	in.begun()
	buf := s.api.frames.get()
	if _, err := buf.ReadFrom(io.LimitReader(r, wire.MaxClientFrame+1)); err != nil {
		s.api.frames.put(buf)
		return nil, err
	}
	switch {
	case buf.Len() > wire.MaxClientFrame:
		s.shut(wire.CloseTooBig, string(wire.TooLarge))
	case typ != websocket.MessageText:
		s.shut(wire.CloseNotText, wire.CauseNotText)
	case !utf8.Valid(buf.Bytes()): // the library does not check
		s.shut(wire.CloseNotUTF8, wire.CauseNotUTF8)
	default:
		return buf, nil
	}
	s.api.frames.put(buf)
	return nil, nil
}

// reading notes when the frame began that is being read; zero when it is read.
func (s *session) reading(at time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.frameAt = at
}

// end takes the session out everywhere and waits for its goroutines.
func (s *session) end(clientClosed bool) {
	if s.unregister != nil {
		s.unregister()
	}
	s.mu.Lock()
	s.over = true
	if s.timer != nil {
		s.timer.Stop()
	}
	ours := s.ending.code != 0
	s.mu.Unlock()
	if !ours || clientClosed {
		s.road.cut() // ends writes that are under way
	}
	s.running.Wait()
	s.road.cut()
	s.api.forget(s)
	if s.unregister != nil { // it had said hello; behind forget, so that nobody takes it for alive
		s.api.hear(deviceKey{s.user, s.device}, device.Event{Session: s.id, Ended: true})
	}

	s.mu.Lock()
	end := s.ending // a write that timed out may have said why only now
	s.mu.Unlock()
	label := strconv.Itoa(end.code)
	if end.code == 0 {
		label = "lost"
		if clientClosed {
			label = "client"
		}
	}
	s.api.metrics.closes.WithLabelValues(label).Inc()
	s.api.log.Debug("session ended", "session", s.id, "device", s.device, "close", label,
		"cause", end.cause, "age", time.Since(s.opened))
}

// shut closes the session with a code, behind what is being written now. The first cause wins. It
// does not block.
func (s *session) shut(code int, cause string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.shutLocked(code, cause)
}

func (s *session) shutLocked(code int, cause string) {
	if s.ending.code != 0 || s.over {
		return
	}
	s.ending = ending{code, cause}
	s.kick(time.Now())
}

// cut ends the connection under the session's feet: for a peer that is gone or stuck in mid-frame.
// code is for the record; 0 for none.
func (s *session) cut(code int, cause string) {
	s.mu.Lock()
	if s.ending.code == 0 {
		s.ending = ending{code, cause}
	}
	s.mu.Unlock()
	s.road.cut()
}

// start runs f in a goroutine that end waits for. mu is held.
func (s *session) start(f func()) {
	if s.over {
		return
	}
	s.running.Go(func() {
		defer s.survive(s.cut) // shut would wait for a flush that may have been what broke
		f()
	})
}

// send writes a frame that is a Go value.
func (s *session) send(typ string, frame any) bool {
	b, err := json.Marshal(frame)
	if err != nil { // frames are plain structs
		panic(err)
	}
	return s.write(typ, b)
}

// write writes a frame and reports whether it went out. A device that takes too long for it is shut
// out, or cut off if there is no end to it.
func (s *session) write(typ string, frame []byte) bool {
	slow := s.api.limits.SlowWrite
	began := time.Now()
	if err := s.road.write(began.Add(2*slow), typ, frame); err != nil {
		if time.Since(began) >= 2*slow {
			s.cut(wire.CloseTooSlow, wire.CauseTooSlow)
		}
		return false
	}
	s.api.metrics.sent(typ)
	if time.Since(began) > slow {
		s.shut(wire.CloseTooSlow, wire.CauseTooSlow)
	}
	return true
}

// frameBuffers are what frames are read into, and nudges written. A session holds one only for that long.
type frameBuffers struct{ pool sync.Pool }

func (f *frameBuffers) get() *bytes.Buffer {
	if b, ok := f.pool.Get().(*bytes.Buffer); ok {
		b.Reset()
		return b
	}
	return new(bytes.Buffer)
}

func (f *frameBuffers) put(b *bytes.Buffer) {
	if b != nil {
		f.pool.Put(b)
	}
}
