package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/nudgesync/nudge/changefeed/change"
	"github.com/nudgesync/nudge/server/auth"
	"github.com/nudgesync/nudge/server/pull"
	"github.com/nudgesync/nudge/server/wire"
)

var errUnknownFrame = errors.New("unknown frame type")

// decode reads a client's frame: *wire.Hello, *wire.Pull, *wire.Ack or *wire.Token.
func decode(b []byte) (any, error) {
	var head struct {
		T string `json:"t"`
	}
	if err := json.Unmarshal(b, &head); err != nil {
		return nil, fmt.Errorf("decode frame: %w", err)
	}
	var frame any
	switch head.T {
	case wire.THello:
		frame = new(wire.Hello)
	case wire.TPull:
		frame = new(wire.Pull)
	case wire.TAck:
		frame = new(wire.Ack)
	case wire.TToken:
		frame = new(wire.Token)
	default:
		return nil, errUnknownFrame
	}
	if err := json.Unmarshal(b, frame); err != nil {
		return nil, fmt.Errorf("decode %s: %w", head.T, err)
	}
	return frame, nil
}

// dispatch serves one frame and reports whether the session goes on.
func (s *session) dispatch(b []byte) (more bool) {
	frame, err := decode(b)
	// An accepted ack is free: counting what ends escalation would punish the diligent.
	var refused error
	if ack, ok := frame.(*wire.Ack); ok && s.unregister != nil {
		s.api.metrics.received(wire.TAck)
		if refused = s.ack(ack); refused == nil {
			return true
		}
	}
	if !s.allow() {
		return false
	}
	if err != nil {
		s.api.metrics.received("invalid")
		return s.refuse(nil, invalid(err.Error(), "Send one JSON object; its t is hello, pull, ack or token."))
	}
	hello, isHello := frame.(*wire.Hello)
	if isHello == (s.unregister != nil) { // a second hello, or something else before the first
		s.api.metrics.received("invalid")
		return s.refuse(nil, invalid("hello out of order", "Send hello first, and once."))
	}
	switch f := frame.(type) {
	case *wire.Pull:
		s.api.metrics.received(wire.TPull)
		return s.pull(f)
	case *wire.Ack:
		return s.refuse(nil, s.problem(refused))
	case *wire.Token:
		s.api.metrics.received(wire.TToken)
		return s.renew(f)
	}
	s.api.metrics.received(wire.THello)
	return s.hello(hello)
}

// allow counts a frame, and ends the session if it is one too many.
func (s *session) allow() bool {
	if s.limiter.Allow() {
		return true
	}
	s.shut(wire.CloseRate, string(wire.RateLimited))
	return false
}

// refuse answers a frame that could not be served. It reports whether the session goes on.
func (s *session) refuse(id *int64, p *wire.Problem) bool {
	return s.send(wire.TError, wire.Error{T: wire.TError, ID: id, Code: p.Code, Hint: p.Hint, RetryAfterMS: int(p.RetryAfterMS)})
}

// hello opens the session.
func (s *session) hello(f *wire.Hello) (more bool) {
	if f.V != wire.Version {
		s.shut(wire.CloseProtocolOld, string(wire.ProtocolOld))
		return false
	}
	if p := checkDeviceID(f.Device); p != nil {
		return s.refuse(nil, p)
	}
	s.mu.Lock()
	s.greeted = true // from here on, what takes time is ours
	s.mu.Unlock()
	token := f.Token
	if token == "" {
		token = s.headerToken
	}
	s.headerToken = ""
	ctx, cancel := context.WithTimeout(s.api.base, s.api.limits.Pull)
	defer cancel()
	id, err := s.api.verify(ctx, token)
	if err == nil {
		id, err = s.api.admit(id, f.Device)
	}
	if err != nil {
		s.shutProblem(s.problem(err))
		return false
	}
	var cursor string
	if f.Cursor != nil {
		cursor = *f.Cursor
	}
	at, err := s.join(ctx, id, f.Device, cursor)
	var p *wire.Problem
	if errors.As(err, &p) && (p.Code == wire.CursorMalformed || p.Code == wire.CursorForeign) {
		if !s.refuse(nil, p) {
			return false
		}
		cursor = ""
		at, err = s.api.cfg.Engine.Compare(ctx, s.user, "")
	}
	if err != nil {
		s.shutProblem(s.problem(err))
		return false
	}
	return s.begin(at, cursor)
}

// join enters the session under its device and in the hub, and then compares its cursor: what is
// committed in between nudges it, and waits in the session until ready is out.
func (s *session) join(ctx context.Context, id auth.Identity, device, cursor string) (pull.Comparison, error) {
	s.user, s.device = id.User, device
	s.adopt(id)
	if err := s.check(); err != nil { // Recheck could not find it before
		return pull.Comparison{}, err
	}
	if err := s.api.greet(s); err != nil {
		return pull.Comparison{}, err
	}
	s.unregister = s.api.cfg.Hub.Register(pull.Scopes(s.user), s)
	return s.api.cfg.Engine.Compare(ctx, s.user, cursor)
}

// begin tells a device that has joined where it stands. From here on it is nudged.
func (s *session) begin(at pull.Comparison, cursor string) (more bool) {
	s.hearHello(cursor)
	if !s.send(wire.TReady, wire.Ready{
		T: wire.TReady, Session: s.id, Head: at.Head, Behind: at.Behind, MaxAgeS: int(s.maxAge.Seconds()),
	}) {
		return false
	}
	if fresh := at.Fresh; !at.Behind && fresh != "" && fresh != cursor {
		if !s.send(wire.TCursor, wire.Cursor{T: wire.TCursor, Cursor: fresh}) {
			return false
		}
	}
	s.mu.Lock()
	s.cursor, s.cursorAt = cursor, time.Now()
	s.ready = true
	s.kick(time.Now())
	s.mu.Unlock()
	return true
}

// problem is problemOf, logging what only we may know.
func (s *session) problem(err error) *wire.Problem {
	p := s.api.explain(problemOf(err))
	if p.Code == wire.Internal {
		s.api.log.Error("frame failed", "session", s.id, "error", err)
	}
	return p
}

// shutProblem closes with the code that tells the client what to do about p.
func (s *session) shutProblem(p *wire.Problem) {
	code := wire.CloseBadToken
	switch {
	case p.Code == wire.TokenExpired:
		code = wire.CloseTokenExpired
	case p.Code == wire.TokenRevoked:
		code = wire.CloseRevoked
	case p.Code == wire.RateLimited:
		code = wire.CloseRate
	case p.Status == http.StatusServiceUnavailable:
		code = wire.CloseOverload
	case p.Code == wire.Internal:
		code = wire.CloseInternal
	}
	s.shut(code, string(p.Code))
}

// adopt makes the session live as long as the token does.
func (s *session) adopt(id auth.Identity) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.who, s.warned, s.expiring = id, false, false
}

// recheck ends the session if who it is has lost the right to it, and reports whether it goes on. Not
// to know is no loss: a nudge says nothing, and pulls are refused.
func (s *session) recheck() (more bool) {
	if err := s.check(); err != nil && !errors.Is(err, auth.ErrBlind) {
		s.shutProblem(s.problem(err))
		return false
	}
	return true
}

// check is the problem of a session whose token is no longer good.
func (s *session) check() error {
	s.mu.Lock()
	who := s.who
	s.mu.Unlock()
	if who.User == "" { // before hello
		return nil
	}
	return s.api.cfg.Verifier.Check(who)
}

// pull serves a page. The reader serves one at a time, so a device never has two under way.
func (s *session) pull(f *wire.Pull) (more bool) {
	if err := s.check(); err != nil {
		p := s.problem(err)
		if p.Status >= http.StatusInternalServerError { // ours: the session may get over it
			return s.refuse(&f.ID, p)
		}
		s.shutProblem(p)
		return false
	}
	began := time.Now()
	source, code, more := s.answer(f)
	s.api.metrics.pulled(source, code, time.Since(began))
	return more
}

func (s *session) answer(f *wire.Pull) (source, code string, more bool) {
	if f.Limit < 0 || f.WaitMS < 0 || len(f.Nudge) > maxNudgeID {
		return "none", string(wire.RequestInvalid), s.refuse(&f.ID, invalid("pull",
			"Limit and wait_ms are not negative; nudge is the id of a nudge, as it was received."))
	}
	if err := s.api.rates.allow(deviceKey{s.user, s.device}, time.Now()); err != nil {
		p := s.problem(err)
		return "none", string(p.Code), s.refuse(&f.ID, p)
	}
	req := pull.Request{
		User: s.user, Device: s.device,
		Limit: min(f.Limit, s.api.limits.PageRows), Bytes: wire.MaxChangesFrame - changesOverhead,
	}
	if f.Cursor != nil {
		req.Since = *f.Cursor
	}
	s.serving.Lock()
	defer s.serving.Unlock()
	ctx, cancel := context.WithTimeout(s.api.base, s.api.limits.Pull)
	defer cancel()
	wait := min(time.Duration(f.WaitMS)*time.Millisecond, s.api.limits.PullWait)
	if wait > 0 {
		s.expect(wait)
	}
	ans, err := s.api.enginePull(ctx, req)
	if err == nil && ans.NothingNew && wait > 0 {
		s.hear(ans.Acked)
		// The reader waits, so the client's other frames wait too: a moment, not a long poll.
		s.await(ctx, ans.Upto, wait)
		if err = s.check(); err == nil { // much can happen in a wait
			ans, err = s.api.enginePull(ctx, req)
		}
	}
	upto := change.Position{}
	var release func()
	if err == nil {
		if release, err = s.api.bodies.take(s.user, len(ans.Changes)); err == nil {
			defer release()
		}
	}
	if err == nil {
		upto = ans.Upto
	}
	defer func() { s.answered(upto) }() // once the answer is written
	if err != nil {
		p := s.problem(err)
		return "none", string(p.Code), s.refuse(&f.ID, p)
	}
	s.proved(req.Since)
	s.settle(ans.Acked)
	s.api.hear(deviceKey{s.user, s.device}, pulled(ans, f.Nudge, s.id))
	ans.PollAfterS = s.api.pollAfterS()

	frame := make([]byte, 0, len(ans.Changes)+changesOverhead)
	frame = append(frame, `{"t":"`+wire.TChanges+`","id":`...)
	frame = strconv.AppendInt(frame, f.ID, 10)
	frame = append(frame, ',')
	frame = ans.AppendMembers(frame)
	frame = append(frame, '}')
	ans.Changes = nil
	return ans.Source, "200", s.write(wire.TChanges, frame)
}

// changesOverhead is what a changes frame holds besides its changes, in bytes, near enough: mostly
// the cursor.
const changesOverhead = 1 << 10

// ack takes note of what the device has saved.
func (s *session) ack(f *wire.Ack) error {
	pos, err := s.api.cfg.Engine.Saved(s.user, f.Cursor)
	if err != nil {
		return err
	}
	s.proved(f.Cursor)
	s.settle(pos)
	s.hear(pos)
	return nil
}

// proved remembers the newest cursor that the device holds for certain.
func (s *session) proved(cursor string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cursor, s.cursorAt = cursor, time.Now()
}

// renew replaces the session's token.
func (s *session) renew(f *wire.Token) (more bool) {
	ctx, cancel := context.WithTimeout(s.api.base, s.api.limits.Pull)
	defer cancel()
	id, err := s.api.verify(ctx, f.Token)
	if err == nil {
		id, err = s.api.admit(id, s.device)
	}
	if err != nil {
		p := s.problem(err)
		if p.Status >= http.StatusInternalServerError { // ours: the old token still stands
			return s.refuse(nil, p)
		}
		s.shutProblem(p)
		return false
	}
	if id.User != s.user {
		s.shut(wire.CloseBadToken, string(wire.TokenBad))
		return false
	}
	s.adopt(id)
	return s.recheck()
}
