package api

import (
	"context"
	"fmt"
	"time"

	"github.com/nudgesync/nudge/server/wire"
)

// Drain sends the node's sessions elsewhere: readiness fails, new sockets are refused, and every
// session is told its own share of the window to wait, then closed in that order. The window is as
// long as the other nodes need to admit them (Limits.DrainRate), or what ctx leaves of it. Drain
// returns when all sessions have ended, or with ctx's error when its time is over. Pulls are served
// throughout.
func (a *API) Drain(ctx context.Context) error {
	a.startDraining()
	sessions := a.live()
	n := len(sessions)
	window := time.Duration(n) * time.Second / time.Duration(a.limits.DrainRate)
	if deadline, ok := ctx.Deadline(); ok {
		// A fifth is left to the last close handshakes.
		window = min(window, max(0, time.Until(deadline))*4/5)
	}
	began := time.Now()
	after := func(i int) time.Duration { return window * time.Duration(i+1) / time.Duration(n) }
	for i, s := range sessions {
		s.leave(after(i))
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for i, s := range sessions {
		timer.Reset(time.Until(began.Add(after(i))))
		select {
		case <-timer.C:
		case <-ctx.Done(): // no time for the spread: all at once
		}
		s.shut(wire.CloseDrain, string(wire.Draining))
	}
	select {
	case <-a.empty:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("drain sessions: %w", context.Cause(ctx))
	}
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
