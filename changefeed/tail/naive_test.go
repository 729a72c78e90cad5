package tail_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/nudgesync/nudge/changefeed/change"
	"github.com/nudgesync/nudge/changefeed/tail"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var errAway = errors.New("the log is away")

// naiveLog is the log as the model has it: everything ever appended, in one slice.
type naiveLog struct {
	mu       sync.Mutex
	changes  []change.Change
	heads    []change.Frame // every commit boundary, Prev and Next, with the configuration from there on
	horizon  change.Position
	away     bool
	generous bool // Newest reaches back to the horizon
	calls    int
	onState  func() // called by State once it has read, before it answers
	stretchd int    // changes handed out
}

func newLog(epoch change.Epoch) *naiveLog {
	l := &naiveLog{}
	l.begin(epoch)
	return l
}

// begin starts an epoch at a round position.
func (l *naiveLog) begin(epoch change.Epoch) {
	l.mu.Lock()
	defer l.mu.Unlock()
	at := change.Position{Epoch: epoch, LSN: 1000}
	l.horizon = at
	l.heads = append(l.heads, change.Frame{Epoch: epoch, Config: 1, Prev: at, Next: at})
}

func (l *naiveLog) last() change.Frame { return l.heads[len(l.heads)-1] }

func (l *naiveLog) state() change.Frame {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.last()
}

// commit appends one transaction and returns its frame. The next one may commit at its very end (A3).
func (l *naiveLog) commit(changes ...change.Change) change.Frame {
	l.mu.Lock()
	defer l.mu.Unlock()
	was := l.last()
	lsn := was.Next.LSN
	for i := range changes {
		changes[i].Pos = change.Position{Epoch: was.Epoch, LSN: lsn, Seq: uint32(i + 1)}
	}
	l.changes = append(l.changes, changes...)
	next := change.Position{Epoch: was.Epoch, LSN: lsn + 10}
	l.heads = append(l.heads, change.Frame{Epoch: was.Epoch, Config: was.Config, Prev: next, Next: next})
	return change.Frame{Epoch: was.Epoch, Config: was.Config, Prev: was.Next, Next: next, Changes: changes}
}

// since is the naive answer.
func (l *naiveLog) since(scopes []change.Scope, after, upto change.Position) []change.Change {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []change.Change
	for _, c := range l.changes {
		mine := scopes == nil || c.Scope == change.All || slices.Contains(scopes, c.Scope)
		if mine && c.Pos.Epoch == upto.Epoch && after.Before(c.Pos) && !upto.Before(c.Pos) {
			out = append(out, c)
		}
	}
	return out
}

func (l *naiveLog) State(ctx context.Context) (change.Frame, error) {
	l.mu.Lock()
	l.calls++
	f, away, hook := l.last(), l.away, l.onState
	l.mu.Unlock()
	if hook != nil {
		hook()
	}
	if away {
		return change.Frame{}, errAway
	}
	return f, ctx.Err()
}

func (l *naiveLog) Stretch(_ context.Context, after, upto change.Position, fn func(change.Change) error) error {
	l.mu.Lock()
	l.calls++
	away, gone := l.away, after.Before(l.horizon)
	l.mu.Unlock()
	switch {
	case away:
		return errAway
	case gone:
		return tail.ErrGone
	}
	for _, c := range l.since(nil, after, upto) {
		l.mu.Lock()
		l.stretchd++
		l.mu.Unlock()
		if err := fn(c); err != nil {
			return err
		}
	}
	return nil
}

func (l *naiveLog) Newest(_ context.Context, maxBytes int64) (change.Position, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.calls++
	if l.away {
		return change.Position{}, errAway
	}
	if l.generous {
		return l.horizon, nil
	}
	at := l.last().Next
	for _, c := range slices.Backward(l.changes) {
		if maxBytes -= int64(c.Bytes()); maxBytes < 0 || c.Pos.Epoch != at.Epoch || !l.horizon.Before(c.Pos) {
			return max2(c.Pos, l.horizon), nil
		}
	}
	return l.horizon, nil
}

func max2(a, b change.Position) change.Position {
	if a.Before(b) {
		return b
	}
	return a
}

func (l *naiveLog) set(fn func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	fn()
}

func (l *naiveLog) called() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.calls
}

// up is an upsert in the scope, by the size of its row.
func up(scope change.Scope, size int) change.Change {
	return change.Change{Scope: scope, Table: "public.t", Op: change.Upsert, Key: []byte(`{"id":1}`), Row: make([]byte, size)}
}
