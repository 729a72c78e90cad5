package device

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"

	"github.com/nudgesync/nudge/server/wire"
)

// What a server may send, and how long it may take to answer what it owes.
const (
	maxFrame     = 4 << 20  // bytes: a changes frame keeps below 256 KiB unless one row alone is larger
	maxBody      = 64 << 20 // bytes: the HTTP road carries the rows that no frame can
	answerWithin = 30 * time.Second
	comesRound   = 2 * time.Second // an own write, usually in a few milliseconds
)

// Config is what a Device needs. The optional fields have a zero value that works.
type Config struct {
	URL   string // of the server, http or https, without a path
	ID    string // this installation's, the same over all its sessions
	State *State // the device's rows and cursor
	// Token hands out the user's token, fresh enough to be accepted. It is asked on every connect and
	// when the server says that the present one expires.
	Token func(context.Context) (string, error)

	HTTP      *http.Client // optional; dials the socket too
	PageLimit int          // rows a page at most; 0 leaves it to the server
	Hooks     Hooks        // optional
	Log       *slog.Logger // optional

	// After and Random are the clock and the dice, for tests: time.After and rand.Float64 if nil.
	After  func(time.Duration) <-chan time.Time
	Random func() float64
}

// Validate names the first field that is missing.
func (c Config) Validate() error {
	switch {
	case !strings.HasPrefix(c.URL, "http://") && !strings.HasPrefix(c.URL, "https://"):
		return fmt.Errorf("device: URL %q: want http:// or https://", c.URL)
	case c.ID == "":
		return errors.New("device: ID is empty")
	case c.State == nil:
		return errors.New("device: State is nil")
	case c.Token == nil:
		return errors.New("device: Token is nil")
	}
	return nil
}

// Hooks tell the app what happens. Any may be nil. They are called by the goroutine in Run or
// PullHTTP, in order, and must not block.
type Hooks struct {
	Ready  func(wire.Ready)                    // the session is registered
	Nudged func(wire.Nudge)                    // a nudge came, before its pull
	Saved  func(page *wire.Page, received int) // a page is stored; received is its size in bytes
	Lost   func(error)                         // a session ended, or none came about
}

// StopError says that the server wants no more sessions until the app or its user did something: a
// close code of 4500–4999, or its like over HTTP. 4504 means that the same device opened another socket.
type StopError struct {
	Code   int // the close code
	Reason string
}

func (e *StopError) Error() string {
	return fmt.Sprintf("the server stopped this device: %d %s", e.Code, e.Reason)
}

// Device keeps one installation in touch: a socket for nudges, and the pull loop.
type Device struct {
	cfg Config

	want chan struct{} // a pull is wanted; one waiting slot, like a bell
	wake chan struct{} // the network is back, or a push came: connect now
	idle atomic.Bool

	wrote atomic.Bool // the next pull waits for an own write

	// Owned by the goroutine in Run.
	backoff backoff
}

// New makes a device. Nothing happens before Run.
func New(cfg Config) (*Device, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cfg.URL = strings.TrimRight(cfg.URL, "/")
	if cfg.HTTP == nil {
		cfg.HTTP = http.DefaultClient
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.After == nil {
		cfg.After = time.After
	}
	if cfg.Random == nil {
		cfg.Random = rand.Float64
	}
	return &Device{
		cfg:     cfg,
		want:    make(chan struct{}, 1),
		wake:    make(chan struct{}, 1),
		backoff: backoff{random: cfg.Random},
	}, nil
}

// Pull asks for a pull: the app came to the foreground. It returns at once; without a socket the next
// connect does it.
func (d *Device) Pull() { ring(d.want) }

// Wrote asks for the pull that follows an own write, which the server may have accepted before its
// change has come round: nobody nudges the writer, so the pull waits for it.
func (d *Device) Wrote() {
	d.wrote.Store(true)
	ring(d.want)
}

// Wake says that the network is back or that a push came. It pulls, and if no socket is open it
// connects now and forgets the backoff, unless the server has said when to come back.
func (d *Device) Wake() { ring(d.wake) }

// Idle reports whether the device is connected and nothing is under way or due.
func (d *Device) Idle() bool { return d.idle.Load() }

// Run keeps a session open until ctx ends, and reconnects when one is lost. It returns nil when ctx
// ended, and a *StopError when the server wants no more of this device.
func (d *Device) Run(ctx context.Context) error {
	for {
		err := d.session(ctx)
		d.idle.Store(false)
		if ctx.Err() != nil {
			return nil
		}
		if d.cfg.Hooks.Lost != nil {
			d.cfg.Hooks.Lost(err)
		}
		if stop, ok := errors.AsType[*StopError](err); ok {
			return stop
		}
		d.cfg.Log.DebugContext(ctx, "session lost", "error", err)
		for due, hinted := d.reconnect(err); due != nil; {
			select {
			case <-due:
				due = nil
			case <-d.wake:
				d.backoff.reset()
				d.Pull()
				if !hinted {
					due = nil
				}
			case <-ctx.Done():
				return nil
			}
		}
	}
}

// reconnect fires when the next session may be tried. hinted: it was the server who said when.
func (d *Device) reconnect(err error) (due <-chan time.Time, hinted bool) {
	l, ok := errors.AsType[*lost](err)
	switch {
	case !ok:
		return d.cfg.After(d.backoff.next(0)), false
	case l.until != nil:
		return l.until, true
	}
	return d.cfg.After(d.backoff.next(l.after)), l.after > 0
}

// lost is a session's end with what the server said about coming back.
type lost struct {
	err   error
	after time.Duration    // the server's hint; 0: none
	until <-chan time.Time // fires at the time that a goaway set; nil: none did
}

func (l *lost) Error() string { return l.err.Error() }
func (l *lost) Unwrap() error { return l.err }

// verdict reads the end of a connection by the range of its close code, so that codes of later
// servers are understood.
func verdict(err error) error {
	closed, ok := errors.AsType[websocket.CloseError](err)
	if ok && closed.Code >= 4500 && closed.Code <= 4999 {
		return &StopError{Code: int(closed.Code), Reason: closed.Reason}
	}
	return err
}

// stops maps the problems that no new attempt can heal to their close codes.
func stops(code wire.Code) (int, bool) {
	switch code {
	case wire.TokenBad, wire.TokenMissing, wire.DeviceMismatch, wire.OriginForbidden:
		return wire.CloseBadToken, true
	case wire.TokenRevoked:
		return wire.CloseRevoked, true
	case wire.ProtocolOld:
		return wire.CloseProtocolOld, true
	}
	return 0, false
}

// amend does to the state what a problem asks for. It reports whether the pull can be repeated now.
func amend(s *State, code wire.Code) bool {
	switch code {
	case wire.CursorForeign:
		s.Erase()
	case wire.CursorMalformed:
		s.Forget()
	default:
		return false
	}
	return true
}

func ring(bell chan struct{}) {
	select {
	case bell <- struct{}{}:
	default: // it rings already
	}
}
