package tail

import (
	"context"
	"fmt"
	"time"

	"github.com/nudgesync/nudge/changefeed/change"
)

// Stretch is the answer to Since.
type Stretch struct {
	// Changes are those of the scopes and of change.All after the cursor, in commit order. Their
	// bytes are shared: read only.
	Changes []change.Change
	// Head is the commit boundary that the answer is exact up to, unless More. It is never before the cursor.
	Head   change.Position
	Epoch  change.Epoch
	Config uint64 // hash of the routing configuration in force at Head
	// More: a ceiling cut the answer, maybe within a transaction. It goes on after the last change.
	More bool
}

// Since returns the changes of the scopes after the cursor, from memory. maxRows and maxBytes (by
// change.Change.Bytes) are ceilings, none if not positive; one change is always returned if there is one.
//
// It asks the log, once and together with all that ask at the same time, only if the node is stale,
// has a hole to repair, or the cursor is ahead of it. It fails with ErrBefore, ErrAhead, ErrEpoch (an
// *EpochError), ErrNotReady, the log's error, or ctx's.
func (t *Tail) Since(ctx context.Context, scopes []change.Scope, after change.Position, maxRows, maxBytes int) (Stretch, error) {
	asked := false
	for {
		t.mu.RLock()
		ask, err := t.judge(after, asked)
		if err == nil && !ask {
			s := Stretch{Head: t.window.head, Epoch: t.window.head.Epoch, Config: t.config}
			s.Changes, s.More = t.window.since(scopes, after, maxRows, maxBytes)
			t.mu.RUnlock()
			return s, nil
		}
		t.mu.RUnlock()
		if err != nil {
			return Stretch{}, err
		}
		if err := t.ask(ctx); err != nil {
			return Stretch{}, err
		}
		asked = true
	}
}

// judge says whether the window answers for the cursor, the log must be asked first, or neither will do.
// Once the log was asked, on this cursor's behalf, what the window holds is new enough. Called with mu held.
func (t *Tail) judge(after change.Position, asked bool) (ask bool, err error) {
	if !t.warm || t.stopped {
		return false, ErrNotReady
	}
	node := t.window.head.Epoch
	if after.Epoch == node && after.Before(t.window.start) {
		return false, ErrBefore
	}
	if !asked && (t.gap || time.Since(t.heard) >= t.cfg.Stale) {
		return true, nil
	}
	switch {
	case after.Epoch == node:
		if !t.window.head.Before(after) {
			return false, nil
		}
		err = ErrAhead
	case counter(after.Epoch) < counter(node):
		return false, &EpochError{Asked: after.Epoch, Node: node}
	default:
		err = &EpochError{Asked: after.Epoch, Node: node}
	}
	if asked {
		return false, err
	}
	return true, nil
}

// counter is the part of an epoch that orders it. Two epochs that count alike are of two histories,
// and only the log knows which one stands (A2).
func counter(e change.Epoch) uint32 { return uint32(e >> 32) }

// ask waits for a round of the worker that starts from now on. While the log is known to be away it fails at once.
func (t *Tail) ask(ctx context.Context) error {
	t.mu.Lock()
	if t.failure != nil && t.started == t.ended {
		err := t.failure
		t.mu.Unlock()
		return err
	}
	seen, round := t.ended, t.request()
	for t.done < round {
		var err error
		switch {
		case t.stopped:
			err = ErrNotReady
		case t.ended > seen && t.failure != nil:
			err = t.failure
		}
		if err != nil {
			t.mu.Unlock()
			return err
		}
		moved := t.moved()
		t.mu.Unlock()
		select {
		case <-moved:
		case <-ctx.Done():
			return fmt.Errorf("tail: wait for the log: %w", context.Cause(ctx))
		}
		t.mu.Lock()
	}
	t.mu.Unlock()
	return nil
}

// Head returns a frame without changes that names the window's head, epoch and configuration. It is
// not ok before the warm-up.
func (t *Tail) Head() (_ change.Frame, ok bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	head := t.window.head
	return change.Frame{Epoch: head.Epoch, Config: t.config, Prev: head, Next: head}, t.warm
}

// HeadOf returns the newest position within the window that concerns the scope, change.All
// included (A15). If there is none, nothing concerned it since the window's start.
func (t *Tail) HeadOf(scope change.Scope) (_ change.Position, ok bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.window.newest(scope)
}

// Wait returns once the head is at or past the position. It fails with ErrEpoch (an *EpochError) when
// the node is, or comes to be, on another epoch, with ErrNotReady when Run ends, or with ctx's error.
func (t *Tail) Wait(ctx context.Context, past change.Position) error {
	for {
		t.mu.Lock()
		head := t.window.head
		switch {
		case t.stopped:
			t.mu.Unlock()
			return ErrNotReady
		case t.warm && head.Epoch != past.Epoch:
			t.mu.Unlock()
			return &EpochError{Asked: past.Epoch, Node: head.Epoch}
		case t.warm && !head.Before(past):
			t.mu.Unlock()
			return nil
		}
		moved := t.moved()
		t.mu.Unlock()
		select {
		case <-moved:
		case <-ctx.Done():
			return fmt.Errorf("tail: wait for %s at %s: %w", past, head, context.Cause(ctx))
		}
	}
}
