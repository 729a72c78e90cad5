package api

import (
	"context"
	"fmt"
	"time"

	"github.com/nudgesync/nudge/server/wire"
)

// guest is who holds a place on this node: a session, or a waiting pull. Neither method blocks.
type guest interface {
	leave(after time.Duration)
	shut(code int, cause string)
}

// Drain sends the node's guests elsewhere: readiness fails, new ones are refused, and every session is
// told its own share of the window to wait, then closed in that order; a waiting pull is answered when
// its share is over. The window is as long as the other nodes need to admit them (Limits.DrainRate), or
// what ctx leaves of it. Drain returns when all guests are gone, or with ctx's error when its time is
// over. Pulls are served throughout, but do not wait any more.
func (a *API) Drain(ctx context.Context) error {
	a.startDraining()
	guests := a.guests()
	n := len(guests)
	window := time.Duration(n) * time.Second / time.Duration(a.limits.DrainRate)
	if deadline, ok := ctx.Deadline(); ok {
		// A fifth is left to the last close handshakes.
		window = min(window, max(0, time.Until(deadline))*4/5)
	}
	began := time.Now()
	after := func(i int) time.Duration { return window * time.Duration(i+1) / time.Duration(n) }
	for i, g := range guests {
		g.leave(after(i))
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for i, g := range guests {
		timer.Reset(time.Until(began.Add(after(i))))
		select {
		case <-timer.C:
		case <-ctx.Done(): // no time for the spread: all at once
		}
		g.shut(wire.CloseDrain, string(wire.Draining))
	}
	select {
	case <-a.empty:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("drain sessions: %w", context.Cause(ctx))
	}
}

// guests lists those of this moment.
func (a *API) guests() []guest {
	a.mu.Lock()
	defer a.mu.Unlock()
	out := make([]guest, 0, len(a.sessions)+len(a.waiters))
	for s := range a.sessions {
		out = append(out, s)
	}
	for _, p := range a.waiters {
		out = append(out, p)
	}
	return out
}

// leave notes a goaway.
func (s *session) leave(after time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.goaway = &wire.Goaway{T: wire.TGoaway, AfterMS: int(after.Milliseconds()), Reason: "drain"}
	s.kick(time.Now())
}

func (a *API) startDraining() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.draining {
		return
	}
	a.draining = true
	if a.open == 0 {
		close(a.empty)
	}
}

func (a *API) isDraining() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.draining
}
