package tail

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/nudgesync/nudge/changefeed/change"
)

// Log is the durable change log, as the tail reads it. Its methods are called by one goroutine.
type Log interface {
	// State is where the log stands: a frame without changes whose Prev and Next are the flushed
	// head, with epoch and configuration hash, all read at one instant.
	State(ctx context.Context) (change.Frame, error)

	// Stretch calls fn for every change in (after, upto], of all scopes, in commit order. The bytes of a
	// change stay as they are after fn has returned. It fails with fn's error, or with ErrGone when
	// after stands before the log's horizon.
	Stretch(ctx context.Context, after, upto change.Position, fn func(change.Change) error) error

	// Newest returns the position after which at most maxBytes of changes stand, near enough, in the
	// log's present epoch.
	Newest(ctx context.Context, maxBytes int64) (change.Position, error)
}

// The errors of Log and of Since.
var (
	// ErrGone is the log's answer when a stretch begins before its horizon.
	ErrGone = errors.New("tail: before the log's horizon")
	// ErrBefore: the cursor stands before the window's start. The log has the answer.
	ErrBefore = errors.New("tail: before the window")
	// ErrAhead: the cursor stands past the log's head, which was asked for (A13).
	ErrAhead = errors.New("tail: past the log's head")
	// ErrEpoch: the cursor is of another epoch. Such an error is an *EpochError.
	ErrEpoch = errors.New("tail: another epoch")
	// ErrNotReady: the tail has not warmed up yet, or its Run has ended.
	ErrNotReady = errors.New("tail: not ready")
)

// EpochError says that a position is not of the node's epoch. It is ErrEpoch.
type EpochError struct {
	Asked change.Epoch
	Node  change.Epoch
}

func (e *EpochError) Error() string {
	return fmt.Sprintf("tail: position of epoch %s, the node is on %s", e.Asked, e.Node)
}

// Is makes errors.Is(err, ErrEpoch) hold.
func (e *EpochError) Is(target error) bool { return target == ErrEpoch }

// Config is what a Tail is made of.
type Config struct {
	Log      Log
	MaxBytes int64         // memory for the window's changes and indices; 0: 256 MiB
	Stale    time.Duration // without a frame for this long the log is asked; 0: 3 s
	Logger   *slog.Logger

	// OnAdvance, if not nil, is called once for every stretch that has become readable: one call at a time, in
	// order, from the goroutine of Apply or of Run. Stretches follow each other: Prev is the last
	// call's Next. HeadsOnly means that the stretch was skipped (warm-up, a new epoch, a hole too wide): it may
	// concern everybody. It must not block, nor call Apply or Since.
	OnAdvance func(change.Frame)
}

// Validate reports what is missing or out of range.
func (c *Config) Validate() error {
	switch {
	case c.Log == nil:
		return errors.New("tail: no log")
	case c.Logger == nil:
		return errors.New("tail: no logger")
	case c.MaxBytes < 0:
		return fmt.Errorf("tail: MaxBytes is %d", c.MaxBytes)
	case c.Stale < 0:
		return fmt.Errorf("tail: Stale is %s", c.Stale)
	}
	return nil
}

// Tail is the memory window of the log on this node. Its methods may be called from any goroutine.
type Tail struct {
	cfg  Config
	kick chan struct{} // wakes the worker; capacity 1

	// write is held while the window moves and OnAdvance hears of it. It is taken before mu.
	write sync.Mutex
	// pending are frames past a hole, oldest first by arrival; guarded by write.
	pending      []pendingFrame
	pendingBytes int

	mu      sync.RWMutex // guards the rest; window, config and warm are written under write as well
	window  window
	config  uint64
	warm    bool
	gap     bool      // there are pending frames
	heard   time.Time // when the head was last known to be the log's
	stopped bool      // Run has ended
	changed chan struct{}
	counts  Counts

	// Rounds of the worker are numbered from 1. One that starts after a question was asked answers it.
	wanted, started, ended, done uint64
	failure                      error // of round `ended`, nil if it succeeded
}

// pendingFrame waits for the hole before it to close. The round is the first that starts after its arrival:
// when that has ended, the log has passed the frame, or never held it.
type pendingFrame struct {
	change.Frame
	round uint64
}

// Counts are what has happened to a tail since it was made.
type Counts struct {
	Frames    uint64 // that moved the head
	Repeated  uint64 // at or below the head, without news
	Foreign   uint64 // of another epoch that is not later
	Malformed uint64
	Overflow  uint64 // past a hole, and too many to keep
	Gaps      uint64 // holes seen
	Rounds    uint64 // times that the log was asked
	Failures  uint64 // of those, without success
	Restarts  uint64 // of the window: warm-up, new epochs, skipped stretches
	LogBehind uint64 // the log stood before the window's head
	Evicted   uint64 // changes
}

// Stats is the state of a tail, for metrics.
type Stats struct {
	Counts
	Start, Head change.Position
	Entries     int
	Scopes      int
	Bytes       int64
	Heard       time.Time // when the head was last known to be the log's
}

// New returns a tail that serves once Run has warmed it up.
func New(cfg Config) (*Tail, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if cfg.MaxBytes == 0 {
		cfg.MaxBytes = 256 << 20
	}
	if cfg.Stale == 0 {
		cfg.Stale = 3 * time.Second
	}
	return &Tail{cfg: cfg, kick: make(chan struct{}, 1), window: newWindow(change.Position{})}, nil
}

// Stats returns counters and sizes.
func (t *Tail) Stats() Stats {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return Stats{
		Counts:  t.counts,
		Start:   t.window.start,
		Head:    t.window.head,
		Entries: int(t.window.next - t.window.first),
		Scopes:  len(t.window.scopes),
		Bytes:   t.window.bytes,
		Heard:   t.heard,
	}
}

// moved returns a channel that is closed when head, epoch or a round's end has moved. Called with mu held.
func (t *Tail) moved() <-chan struct{} {
	if t.changed == nil {
		t.changed = make(chan struct{})
	}
	return t.changed
}

// wake closes what moved returned. Called with mu held.
func (t *Tail) wake() {
	if t.changed != nil {
		close(t.changed)
		t.changed = nil
	}
}

// request asks for a round of the worker and returns its number. Called with mu held.
func (t *Tail) request() uint64 {
	t.wanted = t.started + 1
	select {
	case t.kick <- struct{}{}:
	default: // the worker has not looked yet
	}
	return t.wanted
}
