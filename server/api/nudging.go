package api

import (
	"context"
	mathrand "math/rand/v2"
	"strconv"
	"time"

	"github.com/nudgesync/nudge/changefeed/change"
	"github.com/nudgesync/nudge/notify/hub"
	"github.com/nudgesync/nudge/server/wire"
)

// Nudge notes that the device's newest head is now head. It does not block: at most it starts a
// goroutine.
func (s *session) Nudge(head change.Position, with hub.Crowd) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if covers(s.head, head) {
		return
	}
	now := time.Now()
	s.head = head
	if !s.nudgeDue {
		s.crowd = hub.Crowd{}
	}
	s.nudgeDue = true
	s.crowd = larger(s.crowd, with)
	s.ring()
	s.kick(now)
}

// Own notes that the device's own changes up to head can be pulled. The pull that follows a write brings
// them; only if none has after a while is the device nudged (tend), so that it does not stay stale when
// that pull was too early or never came.
func (s *session) Own(head change.Position) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	switch {
	case covers(s.held, head): // its pull was quicker than the hub
		s.expects = time.Time{}
	case now.Before(s.expects) && !s.waiting: // its pull came back without it
		s.miss(head)
		s.kick(now)
	default:
		if s.own.IsZero() {
			s.ownAt = now
		}
		s.own = head
		s.ring()
	}
}

// covers reports whether whoever is at p needs not hear of q. Epochs are not ordered here: two that
// counted alike may come in either order (A2), and a nudge too many is harmless (I7).
func covers(p, q change.Position) bool { return p.Epoch == q.Epoch && !p.Before(q) }

// ring ends the wait of a pull. mu is held.
func (s *session) ring() {
	if s.news != nil {
		close(s.news)
		s.news = nil
	}
}

// expect notes, before a pull with wait_ms is answered, that the device expects its own write: until it is
// answered, nudges are left to that pull.
func (s *session) expect(wait time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.waiting = true
	s.expects = time.Now().Add(wait)
}

// await returns when something past pos is there to be pulled, or after the wait.
func (s *session) await(ctx context.Context, pos change.Position, wait time.Duration) {
	news := make(chan struct{})
	s.mu.Lock()
	if s.nudgeDue && !covers(pos, s.head) || !s.own.IsZero() && !covers(pos, s.own) {
		close(news)
	} else {
		s.news = news
	}
	s.mu.Unlock()
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-news:
	case <-timer.C:
	case <-ctx.Done():
	}
}

// served notes that the device was handed everything up to pos, over this socket or at its own request:
// it needs no nudge for that. If the answer is lost, the session is lost with it, or the device asks again.
func (s *session) served(pos change.Position) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.servedLocked(pos)
}

func (s *session) servedLocked(pos change.Position) {
	if !pos.IsZero() && !covers(s.held, pos) {
		s.held = pos
	}
	if covers(pos, s.own) {
		s.own, s.expects = change.Position{}, time.Time{}
	}
	if covers(pos, s.head) {
		s.nudgeDue = false
	}
}

// answered ends a pull of this socket, which was served up to pos.
func (s *session) answered(pos change.Position) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.servedLocked(pos)
	s.waiting, s.news = false, nil
	now := time.Now()
	if !s.own.IsZero() && now.Before(s.expects) {
		s.miss(s.own)
	}
	s.kick(now)
}

// miss has the device nudged for what it wrote itself: no pull of its own will bring that. mu is held.
func (s *session) miss(own change.Position) {
	s.own, s.expects = change.Position{}, time.Time{}
	if !covers(s.head, own) { // else a nudge went past it
		s.head, s.nudgeDue, s.crowd = own, true, hub.Crowd{}
	}
}

// settle drops the nudge that waits, if pos, which the device has saved, covers it.
func (s *session) settle(pos change.Position) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if covers(pos, s.head) {
		s.nudgeDue = false
	}
}

// kick calls for a writer if there is something to write and none is at it. mu is held.
func (s *session) kick(now time.Time) {
	if s.writing || s.over {
		return
	}
	if act := s.next(now); act != nil {
		s.writing = true
		s.running.Add(1)
		s.api.writers.add(flush{s, act})
	}
}

// flush writes what is noted until nothing is.
func (s *session) flush(act func() (more bool)) {
	defer s.running.Done()
	defer s.survive(s.cut) // shut would wait for the flush that broke
	for act != nil {
		if !act() {
			// Closed, or broken: either way the reader is to see the end of it. writing stays true,
			// so nobody calls for another flush.
			s.road.cut()
			return
		}
		s.mu.Lock()
		if act = s.next(time.Now()); act == nil {
			s.writing = false
		}
		s.mu.Unlock()
	}
}

// next takes the most urgent thing off the notes, as what is to be done about it without the lock;
// nil if there is nothing to do now. What is done reports whether the session goes on. mu is held.
func (s *session) next(now time.Time) func() (more bool) {
	switch {
	case s.goaway != nil: // before ending: the client learns how long to wait, then meets the close
		g := s.goaway
		s.goaway = nil
		return func() bool { return s.send(wire.TGoaway, g) }
	case s.ending.code != 0:
		e := s.ending
		return func() bool {
			s.road.close(e.code, e.cause)
			return false
		}
	case !s.ready:
		return nil
	case s.expiring:
		s.expiring = false
		in := int(max(0, s.who.Expires.Sub(now)).Seconds())
		return func() bool {
			return s.send(wire.TTokenExpiring, wire.TokenExpiring{T: wire.TTokenExpiring, InS: in})
		}
	case s.pingDue:
		s.pingDue = false
		return s.ping
	case !s.nudgeDue || s.waiting:
		return nil
	}
	// The first nudge of a burst goes at once, the last one when its time has come: a burst always
	// ends in a nudge with the burst's own head (I9).
	if wait := s.nudgedAt.Add(s.api.limits.NudgeEvery).Sub(now); wait > 0 {
		s.arm(wait)
		return nil
	}
	s.nudgeDue = false
	s.nudgedAt = now
	head, within := s.head, s.api.herd.within(now, s.crowd)
	return func() bool { return s.nudge(s.api.cfg.Engine.Head(s.user, head), within) }
}

// arm sets the timer that wakes the session for its trailing nudge. mu is held.
func (s *session) arm(wait time.Duration) {
	switch {
	case s.armed || s.over:
		return
	case s.timer == nil:
		s.timer = time.AfterFunc(wait, s.wake)
	default:
		s.timer.Reset(wait)
	}
	s.armed = true
}

func (s *session) wake() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.armed = false
	s.kick(time.Now())
}

// nudge writes a nudge. Its id is the device's to echo in the pull that follows.
func (s *session) nudge(head string, within time.Duration) bool {
	text := s.api.frames.get()
	defer s.api.frames.put(text)
	text.Write(appendNudge(text.AvailableBuffer(), head, within, mathrand.Uint64()))
	ok := s.write(wire.TNudge, text.Bytes())
	if ok {
		s.api.metrics.nudges.Inc()
	}
	return ok
}

// appendNudge writes a wire.Nudge: nothing is sent as often.
func appendNudge(dst []byte, head string, within time.Duration, id uint64) []byte {
	dst = append(dst, `{"t":"`+wire.TNudge+`","head":"`...)
	dst = append(dst, head...) // base64url needs no escaping
	dst = append(dst, `","within_ms":`...)
	dst = strconv.AppendInt(dst, within.Milliseconds(), 10)
	dst = append(dst, `,"id":"`...)
	dst = strconv.AppendUint(dst, id, 36)
	return append(dst, `"}`...)
}
