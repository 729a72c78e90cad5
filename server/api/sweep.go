package api

import (
	"context"
	mathrand "math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/nudgesync/nudge/server/wire"
)

// sweepEvery is how exactly the sessions' deadlines are kept.
const sweepEvery = time.Second

// stopGrace is how long Run lets close handshakes take before it cuts.
const stopGrace = 2 * time.Second

// Run looks after the sessions until ctx ends. Then it closes those that are left and returns once
// the last of their goroutines has ended. It is called once; its error is always nil.
func (a *API) Run(ctx context.Context) error {
	var watching sync.WaitGroup
	defer watching.Wait()
	defer a.writers.running.Wait() // behind empty: no session calls for one any more
	if a.cfg.Polling != nil {
		watching.Go(func() { a.watchPolling(ctx) })
	}
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	var live []*session // kept from one time to the next
	var storm storm
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case now := <-tick.C:
			live = a.appendLive(live[:0])
			window := time.Duration(len(live)) * time.Second / time.Duration(a.limits.DrainRate)
			for _, s := range live {
				s.tend(now, window)
			}
			a.rates.forget(now)
			a.registry.forget(now)
			clear(live) // those that end are not kept
			if storm.over(a.turnover(), len(live)) && a.cfg.Calm != nil {
				a.cfg.Calm()
			}
		}
	}
	a.startDraining()
	for _, g := range a.guests() {
		g.shut(wire.CloseDrain, string(wire.Draining))
	}
	a.stopBase() // ends pulls
	grace := time.NewTimer(stopGrace)
	defer grace.Stop()
	select {
	case <-a.empty:
	case <-grace.C:
		for _, s := range a.live() {
			s.cut(wire.CloseDrain, string(wire.Draining))
		}
		<-a.empty
	}
	return nil
}

// Recheck asks the Verifier again about everybody who has a session here, and ends the sessions of those
// who may not stay. It is called when somebody was revoked, or when a key went out of force; it does not
// block on any of them.
func (a *API) Recheck() {
	for _, s := range a.live() {
		s.recheck()
	}
}

// live lists the sessions of this moment.
func (a *API) live() []*session { return a.appendLive(nil) }

func (a *API) appendLive(to []*session) []*session {
	a.mu.Lock()
	defer a.mu.Unlock()
	to = slices.Grow(to, len(a.sessions))
	for s := range a.sessions {
		to = append(to, s)
	}
	return to
}

// tend does what is due for the session. Sessions that leave together do so within the window. It does
// not block.
func (s *session) tend(now time.Time, window time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := &s.api.limits
	if s.over || s.ending.code != 0 {
		return
	}
	if !s.greeted && now.Sub(s.opened) >= l.Hello {
		s.shutLocked(wire.CloseHelloTimeout, wire.CauseHelloTimeout)
		return
	}
	if !s.frameAt.IsZero() && now.Sub(s.frameAt) >= l.SlowFrame {
		s.shutLocked(wire.CloseTooSlow, wire.CauseTooSlow)
		return
	}
	if !s.ready {
		return
	}
	if !now.Before(s.nextPing) {
		s.nextPing = now.Add(l.Ping)
		s.pingDue = true
	}
	switch {
	case !now.Before(s.who.Expires):
		s.shutLocked(wire.CloseTokenExpired, string(wire.TokenExpired))
		return
	case !s.warned && !now.Before(s.who.Expires.Add(-l.TokenNotice)):
		s.warned, s.expiring = true, true
	}
	switch {
	case s.closeAt.IsZero() && now.Sub(s.opened) >= s.maxAge:
		s.sendAway(now, time.Duration(mathrand.Int64N(int64(l.Goaway))), wire.CauseMaxAge)
	case s.closeAt.IsZero() && s.api.polling() > 0:
		s.sendAway(now, time.Duration(mathrand.Int64N(int64(window)+1)), string(wire.Polling))
	case !s.closeAt.IsZero() && !now.Before(s.closeAt):
		s.shutLocked(wire.CloseDrain, s.closeFor)
		return
	}
	if !s.own.IsZero() && now.Sub(s.ownAt) >= l.OwnGrace {
		s.miss(s.own)
	}
	if now.Sub(s.cursorAt) >= l.QuietCursor && s.cursor != "" {
		s.cursorAt = now
		s.start(func() { s.refresh(now) })
	}
	s.kick(now)
}

// sendAway notes a goaway, and the close that the sweeper follows it with. mu is held.
func (s *session) sendAway(now time.Time, after time.Duration, cause string) {
	s.closeAt, s.closeFor = now.Add(after), cause
	s.goaway = &wire.Goaway{T: wire.TGoaway, AfterMS: int(after.Milliseconds()), Reason: cause}
}

// refresh gives a quiet device a fresh cursor, so that it never expires (A23), or, if it turns out to
// be behind, the nudge that it must have missed (I7). since is when it was found quiet.
func (s *session) refresh(since time.Time) {
	s.serving.Lock()
	defer s.serving.Unlock()
	s.mu.Lock()
	cursor, quiet := s.cursor, s.cursorAt.Equal(since)
	s.mu.Unlock()
	if !quiet { // it pulled or acknowledged meanwhile
		return
	}
	ctx, cancel := context.WithTimeout(s.api.base, s.api.limits.Pull)
	defer cancel()
	at, err := s.api.cfg.Engine.Compare(ctx, s.user, cursor)
	switch {
	case err != nil:
		s.api.log.Debug("no fresh cursor for a quiet session", "session", s.id, "error", err)
	case at.Behind:
		s.nudge(at.Head, 0)
	case at.Fresh != "":
		s.send(wire.TCursor, wire.Cursor{T: wire.TCursor, Cursor: at.Fresh})
	}
}
