package device

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/coder/websocket"

	"github.com/nudgesync/nudge/server/wire"
)

// session is one socket's life: a loop that owns everything here, fed by one reading goroutine.
type session struct {
	d    *Device
	conn *websocket.Conn

	ready   bool
	pulling bool   // a pull frame is out
	again   bool   // something new was announced while one was out
	id      int64  // of the newest pull frame
	since   string // its cursor
	nudge   string // the newest nudge's id, until a pull names it

	due   <-chan time.Time // when a pull may start that the server asked to wait with
	held  bool             // no other pull may start before: the server refused the last one until then
	owed  <-chan time.Time // the end of our patience with an answer
	leave <-chan time.Time // when a goaway wants us gone, and back
	after time.Duration    // the server's newest hint for the next connect
}

// session dials, serves and ends one socket. It never returns nil.
func (d *Device) session(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	conn, err := d.dial(ctx)
	if err != nil {
		cancel()
		return err
	}
	s := &session{d: d, conn: conn}
	frames := make(chan []byte)
	var readErr error // written before frames closes
	var reader sync.WaitGroup
	reader.Go(func() {
		defer close(frames)
		readErr = read(ctx, conn, frames)
	})
	// The old socket is gone before the next is dialled.
	defer reader.Wait()
	defer func() { _ = conn.CloseNow() }()
	defer cancel()

	err = s.serve(ctx, frames)
	if errors.Is(err, errReadEnded) {
		err = verdict(readErr)
	}
	if errors.Is(err, websocket.ErrMessageTooBig) {
		// No frame can carry this page; the other road can.
		err = errors.Join(err, d.PullHTTP(ctx))
	}
	return &lost{err: err, after: s.after, until: s.leave}
}

func (d *Device) dial(ctx context.Context) (*websocket.Conn, error) {
	token, err := d.cfg.Token(ctx)
	if err != nil {
		return nil, fmt.Errorf("token: %w", err)
	}
	handshake, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	conn, resp, err := websocket.Dial(handshake, d.cfg.URL+"/v1/socket", &websocket.DialOptions{
		HTTPClient:   d.cfg.HTTP,
		HTTPHeader:   http.Header{"Authorization": {"Bearer " + token}, wire.HeaderDevice: {d.cfg.ID}},
		Subprotocols: []string{wire.Subprotocol},
	})
	if err != nil {
		if resp == nil {
			return nil, fmt.Errorf("dial: %w", err)
		}
		refused := d.refusal(resp)
		if refused.problem != nil && refused.problem.Code == wire.Polling {
			return nil, d.poll(ctx)
		}
		if refused.problem == nil && refused.after == 0 && refused.status < http.StatusInternalServerError {
			// Not one of our server's answers: something between lets no socket through.
			return nil, errors.Join(fmt.Errorf("dial: %w", err), d.PullHTTP(ctx))
		}
		return nil, refused.verdict(d.cfg.State)
	}
	conn.SetReadLimit(maxFrame)
	return conn, nil
}

var errReadEnded = errors.New("the socket ended")

func read(ctx context.Context, conn *websocket.Conn, frames chan<- []byte) error {
	for {
		_, frame, err := conn.Read(ctx)
		if err != nil {
			return err
		}
		select {
		case frames <- frame:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (s *session) serve(ctx context.Context, frames <-chan []byte) error {
	cfg := &s.d.cfg
	hello := wire.Hello{T: wire.THello, V: wire.Version, Device: cfg.ID, Cursor: cursor(cfg.State.Cursor())}
	if err := s.send(ctx, hello); err != nil {
		return err
	}
	s.owed = cfg.After(answerWithin)
	for {
		s.d.idle.Store(s.ready && !s.pulling && s.due == nil && len(s.d.want) == 0)
		var err error
		select {
		case frame, ok := <-frames:
			if !ok {
				return errReadEnded
			}
			s.d.idle.Store(false)
			err = s.handle(ctx, frame)
		case <-s.d.want:
			err = s.pull(ctx)
		case <-s.d.wake:
			s.d.backoff.reset()
			err = s.pull(ctx)
		case <-s.due:
			s.held = false
			err = s.pull(ctx)
		case <-s.owed:
			err = errors.New("the server owes an answer for too long")
		case <-s.leave:
			now := make(chan time.Time)
			close(now)
			s.leave = now
			err = errors.New("goaway")
		case <-ctx.Done():
			err = ctx.Err()
		}
		if err != nil {
			return err
		}
	}
}

// pull sends a pull frame, unless one is out: then another follows it.
func (s *session) pull(ctx context.Context) error {
	if !s.ready || s.pulling {
		s.again = true
		return nil
	}
	if s.held { // whatever asks for it: a nudge is no reason to come back to a server that is overloaded
		return nil
	}
	s.pulling, s.again, s.due = true, false, nil
	s.id++
	s.since = s.d.cfg.State.Cursor()
	s.owed = s.d.cfg.After(answerWithin)
	nudge := s.nudge
	s.nudge = ""
	wait := time.Duration(0)
	if s.d.wrote.Swap(false) {
		wait = comesRound
	}
	return s.send(ctx, wire.Pull{
		T: wire.TPull, ID: s.id, Cursor: cursor(s.since), Limit: s.d.cfg.PageLimit, Nudge: nudge,
		WaitMS: int(wait.Milliseconds()),
	})
}

// pullIn starts a pull after a wait. One that is due already keeps its time.
func (s *session) pullIn(wait time.Duration) {
	if s.due == nil {
		s.due = s.d.cfg.After(wait)
	}
}

func (s *session) send(ctx context.Context, frame any) error {
	b, err := json.Marshal(frame)
	if err != nil {
		return err
	}
	return s.conn.Write(ctx, websocket.MessageText, b)
}

// cursor is a cursor on the wire: null where there is none.
func cursor(c string) *string {
	if c == "" {
		return nil
	}
	return &c
}
