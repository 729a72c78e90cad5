package pull

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"

	"github.com/nudgesync/nudge/changefeed/change"
	"github.com/nudgesync/nudge/changefeed/changelog"
	"github.com/nudgesync/nudge/changefeed/route"
	"github.com/nudgesync/nudge/changefeed/snapshot"
	"github.com/nudgesync/nudge/changefeed/tail"
	"github.com/nudgesync/nudge/server/admit"
	"github.com/nudgesync/nudge/server/wire"
)

// Tail is the memory window, *tail.Tail.
type Tail interface {
	Head() (change.Frame, bool)
	Since(ctx context.Context, scopes []change.Scope, after change.Position, maxRows, maxBytes int) (tail.Stretch, error)
	Wait(ctx context.Context, past change.Position) error
}

// Log is the durable log, *changelog.Log.
type Log interface {
	Feed(ctx context.Context) (changelog.State, error)
	Read(ctx context.Context, scopes []change.Scope, after change.Position, maxRows, maxBytes int) (changelog.Page, error)
	Resets(ctx context.Context, after, upto change.Position) (map[string]change.Position, error)
}

// Rows reads live tables, *snapshot.Reader.
type Rows interface {
	Page(ctx context.Context, table, user string, after []string, log snapshot.Standing, maxRows, maxBytes int) (snapshot.Page, error)
	Beat(ctx context.Context) error
}

// Config is what an Engine needs. Every field is required but the ceilings.
type Config struct {
	Tail    Tail
	Log     Log
	Rows    Rows
	Queue   *admit.Queue // before Log and Rows: whatever touches them takes a place first (I11)
	Routing *route.Config
	Key     []byte // 32 bytes, the same on every node; seals cursors
	Logger  *slog.Logger

	PageRows  int // ceiling of a page, and its default. Default: 500
	PageBytes int // likewise. Default: 1 MiB
	// Patience is how long a pull waits for the log to pass a floor. Default: 2 s.
	Patience time.Duration
}

// Engine answers pulls. It is safe for concurrent use.
type Engine struct {
	cfg    Config
	seal   *sealer
	tables []string // configured, in name order
	hash   uint64
	beats  *beats
	start  atomic.Pointer[change.Position] // where the log was last seen to begin; nil: not seen
}

// New returns an engine.
func New(cfg Config) (*Engine, error) {
	if cfg.Tail == nil || cfg.Log == nil || cfg.Rows == nil || cfg.Queue == nil || cfg.Routing == nil || cfg.Logger == nil {
		return nil, errors.New("pull: a required field of Config is nil")
	}
	seal, err := newSealer(cfg.Key)
	if err != nil {
		return nil, fmt.Errorf("pull: cursor key: %w", err)
	}
	cfg.PageRows = orDefault(cfg.PageRows, 500)
	cfg.PageBytes = orDefault(cfg.PageBytes, 1<<20)
	cfg.Patience = orDefault(cfg.Patience, 2*time.Second)
	return &Engine{cfg: cfg, seal: seal, tables: cfg.Routing.Names(), hash: cfg.Routing.Hash(), beats: newBeats()}, nil
}

func orDefault[T int | time.Duration](v, def T) T {
	if v <= 0 {
		return def
	}
	return v
}

// Pull answers one request. Its errors are *wire.Problem, or ctx's.
func (e *Engine) Pull(ctx context.Context, r Request) (*Answer, error) {
	asked, err := e.askedTables(r.Tables)
	if err != nil {
		return nil, err
	}
	var c *cursor
	var since cursor // as the device sent it
	if r.Since != "" {
		if c, err = e.openSaved(r.User, r.Since); err != nil {
			return nil, err
		}
		since = *c
		if asked == nil {
			asked = c.tables // the cursor remembers
		}
	}
	head, err := e.head()
	if err != nil {
		return nil, err
	}
	p := &page{
		engine: e, user: r.User, scopes: Scopes(r.User), class: admit.Foreground,
		rows: min(orDefault(r.Limit, e.cfg.PageRows), e.cfg.PageRows), bytes: min(orDefault(r.Bytes, e.cfg.PageBytes), e.cfg.PageBytes),
	}
	if r.Woken {
		p.class = admit.Woken
	}
	a := &Answer{}
	if c == nil {
		c = e.begin(head, asked, change.ReasonNew)
	} else {
		if c.snap == nil {
			a.Acked = c.pos
		}
		switch {
		case !slices.Equal(asked, c.tables):
			c = e.begin(head, asked, change.ReasonNew)
		case c.config != e.hash:
			e.carryOver(c)
		}
	}
	if err := p.fill(ctx, c); err != nil {
		return nil, e.problem(ctx, err)
	}
	a.Cursor = r.Since
	if r.Since == "" || !c.equal(&since) {
		a.Cursor = e.seal.seal(r.User, c)
	}
	a.HasMore, a.Source = p.more, p.source
	a.Changes, a.Rows = p.encode()
	a.NothingNew = a.Rows == 0 && !a.HasMore
	if !a.HasMore {
		a.Upto = c.pos
	}
	return a, nil
}

// head is where this node stands; a problem while it can't serve.
func (e *Engine) head() (change.Frame, error) {
	head, ok := e.cfg.Tail.Head()
	if !ok {
		return head, wire.NewProblem(wire.Starting, "").AfterAbout(time.Second)
	}
	return head, e.routed(head.Config)
}

// routed is a problem where the log is written under another configuration than this node's: still, or
// already.
func (e *Engine) routed(config uint64) error {
	if config != e.hash {
		return wire.NewProblem(wire.Starting, "").AfterAbout(time.Second)
	}
	return nil
}

// carryOver has a cursor of another configuration go on under this one: the log has a reset, where the
// configuration changed, for each table that is not as it was. The order of tables in a snapshot that is not
// complete, and what keys it has seen, are the old one's: it begins anew, at its own place.
func (e *Engine) carryOver(c *cursor) {
	c.config = e.hash
	if s := c.snap; s != nil {
		c.snap = &progress{scope: s.scope, table: s.table, reason: s.reason, gen: newGen()}
	}
}

// begin is the cursor of a device that must receive everything, from the node's head on.
func (e *Engine) begin(head change.Frame, tables []string, why change.Reason) *cursor {
	return &cursor{
		pos: head.Next, config: e.hash, tables: tables,
		snap: &progress{scope: change.All, table: "*", reason: why, gen: newGen()},
	}
}

// askedTables checks and sorts the tables of a request; nil means all.
func (e *Engine) askedTables(names []string) ([]string, error) {
	if len(names) == 0 {
		return nil, nil
	}
	names = slices.Clone(names)
	slices.Sort(names)
	names = slices.Compact(names)
	for _, n := range names {
		if _, ok := slices.BinarySearch(e.tables, n); !ok {
			return nil, wire.NewProblem(wire.TableUnknown, fmt.Sprintf("table %q is not configured", n))
		}
	}
	return names, nil
}

// openSaved opens a cursor that a device saved.
func (e *Engine) openSaved(user, text string) (*cursor, error) {
	c, err := e.seal.open(user, text)
	switch {
	case errors.Is(err, errForeign):
		return nil, wire.NewProblem(wire.CursorForeign, "")
	case err != nil:
		return nil, wire.NewProblem(wire.CursorMalformed, "")
	case c.head:
		return nil, wire.NewProblem(wire.CursorMalformed, "the head of a nudge is not a cursor to pull from")
	}
	return c, nil
}

// Compare says where a device's cursor ("" for none) stands against the head.
func (e *Engine) Compare(ctx context.Context, user, text string) (Comparison, error) {
	head, err := e.head()
	if err != nil {
		return Comparison{}, err
	}
	out := Comparison{Head: e.Head(user, head.Next), Behind: true}
	if text == "" {
		return out, nil
	}
	c, err := e.openSaved(user, text)
	if err != nil {
		return Comparison{}, err
	}
	if c.snap != nil || c.floor > head.Next.LSN {
		return out, nil
	}
	s, err := e.cfg.Tail.Since(ctx, Scopes(user), c.pos, 1, 0)
	if errors.Is(err, tail.ErrBefore) || errors.Is(err, tail.ErrAhead) || errors.Is(err, tail.ErrEpoch) {
		return out, nil // the pull will tell
	}
	if err != nil {
		return Comparison{}, e.problem(ctx, err)
	}
	out.Head = e.Head(user, s.Head)
	if len(s.Changes) == 0 {
		out.Behind = false
		c.pos, c.config = s.Head, e.hash
		out.Fresh = e.seal.seal(user, c)
	}
	return out, nil
}

// learn notes where the log begins.
func (e *Engine) learn(s *changelog.State) {
	start := s.Start()
	e.start.Store(&start)
}

// gone reports whether a position is known to be dropped from the log, which only ever loses more of an epoch. Then
// a herd of expired cursors need not ask for it.
func (e *Engine) gone(pos change.Position) bool {
	start := e.start.Load()
	return start != nil && start.Epoch == pos.Epoch && pos.Before(*start)
}

// Head is a position as the head of a nudge: a cursor that may be compared, not pulled from.
func (e *Engine) Head(user string, pos change.Position) string {
	return e.seal.seal(user, &cursor{pos: pos, config: e.hash, head: true})
}

// Saved is the position that a saved cursor proves to be on the device; zero in mid-snapshot. Its errors
// are *wire.Problem.
func (e *Engine) Saved(user, text string) (change.Position, error) {
	c, err := e.openSaved(user, text)
	if err != nil || c.snap != nil {
		return change.Position{}, err
	}
	return c.pos, nil
}

// problem is what a device hears of an internal error.
func (e *Engine) problem(ctx context.Context, err error) error {
	var p *wire.Problem
	var refused *admit.Refusal
	switch {
	case errors.As(err, &p):
		return p
	case errors.As(err, &refused) && refused.Reason == admit.UserFull:
		return wire.NewProblem(wire.RateLimited, "this user has as many pulls under way as one may").AfterAbout(refused.After)
	case errors.As(err, &refused):
		return wire.NewProblem(wire.Overloaded, "too many devices need the database at once").AfterAbout(refused.After)
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, tail.ErrNotReady), errors.Is(err, changelog.ErrNoEpoch), errors.Is(err, snapshot.ErrFenced),
		errors.Is(err, snapshot.ErrUnknown):
		return wire.NewProblem(wire.Starting, "").AfterAbout(time.Second)
	case errors.Is(err, snapshot.ErrBehind):
		return wire.NewProblem(wire.Overloaded, "the replica that rows are read from is behind").AfterAbout(2 * time.Second)
	case !errors.Is(err, snapshot.ErrForeign): // of that the reader tells, once and not with each device
		e.cfg.Logger.Error("pull failed", "error", err)
	}
	return wire.NewProblem(wire.DatabaseAway, "").AfterAbout(2 * time.Second)
}
