package device

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nudgesync/nudge/server/wire"
)

// handle does what a server's frame asks for. An error ends the session.
func (s *session) handle(ctx context.Context, raw []byte) error {
	var kind struct {
		T string `json:"t"`
	}
	if err := json.Unmarshal(raw, &kind); err != nil {
		return fmt.Errorf("frame: %w", err)
	}
	switch kind.T {
	case wire.TReady:
		return decoded(raw, func(f wire.Ready) error { return s.onReady(ctx, f) })
	case wire.TNudge:
		return decoded(raw, func(f wire.Nudge) error { return s.onNudge(ctx, f) })
	case wire.TChanges:
		return decoded(raw, func(f wire.Changes) error { return s.onChanges(ctx, f, len(raw)) })
	case wire.TCursor:
		return decoded(raw, s.onCursor)
	case wire.TTokenExpiring:
		return s.renew(ctx)
	case wire.TGoaway:
		return decoded(raw, s.onGoaway)
	case wire.TError:
		return decoded(raw, func(f wire.Error) error { return s.onError(ctx, f) })
	}
	return nil // a frame of a later protocol: not for us
}

func decoded[F any](raw []byte, handle func(F) error) error {
	var f F
	if err := json.Unmarshal(raw, &f); err != nil {
		return fmt.Errorf("frame: %w", err)
	}
	return handle(f)
}

func (s *session) onReady(ctx context.Context, f wire.Ready) error {
	s.ready, s.owed = true, nil
	// A session is proof that the server serves, so the next loss starts a backoff of its own.
	s.d.backoff.reset()
	if s.d.cfg.Hooks.Ready != nil {
		s.d.cfg.Hooks.Ready(f)
	}
	// The server compared our cursor. It cannot know that we stopped between two pages, or want one.
	state := s.d.cfg.State
	if f.Behind || s.again || state.MidPull() || state.Cursor() == "" {
		return s.pull(ctx)
	}
	return nil
}

func (s *session) onNudge(ctx context.Context, f wire.Nudge) error {
	s.d.backoff.reset()
	s.nudge = f.ID
	if s.d.cfg.Hooks.Nudged != nil {
		s.d.cfg.Hooks.Nudged(f)
	}
	if f.WithinMS <= 0 || s.pulling {
		return s.pull(ctx)
	}
	// Many devices heard at once; each takes its own moment of the time that the server gives.
	s.pullIn(time.Duration(s.d.cfg.Random() * float64(f.WithinMS) * float64(time.Millisecond)))
	return nil
}

func (s *session) onChanges(ctx context.Context, f wire.Changes, received int) error {
	if !s.pulling || f.ID != s.id {
		return nil // an answer to nothing that we still ask
	}
	s.pulling, s.owed = false, nil
	switch err := s.d.save(s.since, &f.Page, received); {
	case errors.Is(err, ErrMoved):
		return s.pull(ctx) // the HTTP road was faster
	case err != nil:
		return err
	case f.HasMore:
		again := s.again
		err := s.pull(ctx)
		s.again = again // a nudge during the loop outlasts its pages
		return err
	}
	// The loop is done and its last page is stored, so this cursor may settle what is pending.
	if err := s.send(ctx, wire.Ack{T: wire.TAck, Cursor: f.Page.Cursor}); err != nil {
		return err
	}
	if s.again {
		return s.pull(ctx)
	}
	if f.PollAfterS != nil {
		s.pullIn(time.Duration(*f.PollAfterS) * time.Second)
	}
	return nil
}

// save stores a page and tells the app.
func (d *Device) save(since string, page *wire.Page, received int) error {
	if err := d.cfg.State.Apply(since, page); err != nil {
		return err
	}
	if d.cfg.Hooks.Saved != nil {
		d.cfg.Hooks.Saved(page, received)
	}
	return nil
}

// onCursor takes a fresh cursor, but not while a pull is out: its answer belongs to the present one.
func (s *session) onCursor(f wire.Cursor) error {
	if !s.pulling {
		s.d.cfg.State.Refresh(s.d.cfg.State.Cursor(), f.Cursor)
	}
	return nil
}

// renew sends a fresh token, so that the session outlives the old one.
func (s *session) renew(ctx context.Context) error {
	token, err := s.d.cfg.Token(ctx)
	if err != nil {
		return fmt.Errorf("token: %w", err)
	}
	return s.send(ctx, wire.Token{T: wire.TToken, Token: token})
}

// onGoaway keeps the session until the time it was given. If the server closes it before, the
// reconnect still waits for that time.
func (s *session) onGoaway(f wire.Goaway) error {
	s.leave = s.d.cfg.After(time.Duration(f.AfterMS) * time.Millisecond)
	return nil
}

// onError reads the answer to a frame that could not be served.
func (s *session) onError(ctx context.Context, f wire.Error) error {
	if f.ID != nil && (!s.pulling || *f.ID != s.id) {
		return nil // of a pull that we gave up
	}
	wait := time.Duration(f.RetryAfterMS) * time.Millisecond
	if code, ok := stops(f.Code); ok {
		return &StopError{Code: code, Reason: string(f.Code)}
	}
	amended := amend(s.d.cfg.State, f.Code)
	if f.ID == nil {
		if !s.ready {
			return &lost{err: fmt.Errorf("hello: %s", f.Code), after: wait}
		}
		s.after = wait
		return nil // the session stays
	}
	s.pulling, s.owed = false, nil
	switch {
	case f.Code == wire.TokenExpired:
		return errors.New("the token expired") // connect anew with a fresh one
	case amended:
		return s.pull(ctx)
	}
	s.again, s.held = false, wait > 0
	s.pullIn(s.d.backoff.next(wait))
	return nil
}
