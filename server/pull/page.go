package pull

import (
	"context"
	"crypto/rand"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/nudgesync/nudge/changefeed/change"
	"github.com/nudgesync/nudge/changefeed/changelog"
	"github.com/nudgesync/nudge/changefeed/snapshot"
	"github.com/nudgesync/nudge/changefeed/tail"
	"github.com/nudgesync/nudge/server/admit"
	"github.com/nudgesync/nudge/server/wire"
)

// page gathers one answer.
type page struct {
	engine *Engine
	user   string
	scopes []change.Scope
	class  admit.Class // of its reads of the log
	rows   int         // what may still go in
	bytes  int
	items  []item
	source string
	more   bool
}

// fill moves a cursor as far as one page takes it: a snapshot's next rows, and, once that is complete,
// what the log holds after its start. A reset met on the way begins the next snapshot.
func (p *page) fill(ctx context.Context, c *cursor) error {
	for range maxResets {
		if c.snap != nil {
			if err := p.snapshot(ctx, c); p.enough(err) {
				break
			} else if err != nil {
				return err
			}
		}
		if c.snap == nil {
			if err := p.follow(ctx, c); p.enough(err) {
				p.more = true // what was read so far is a page; the rest is the next one's
				break
			} else if err != nil {
				return err
			}
		}
		if c.snap == nil || p.rows <= 0 || p.bytes <= 0 {
			break
		}
	}
	p.more = p.more || c.snap != nil
	return nil
}

// enough reports whether a page is to go out as it is: it has rows that cost a place before the database, and was
// refused a second one for the rest.
func (p *page) enough(err error) bool {
	if err == nil {
		return false
	}
	var refused *admit.Refusal
	return len(p.items) > 0 && errors.As(err, &refused)
}

// enter takes a place before the database.
func (p *page) enter(ctx context.Context, class admit.Class) (leave func(), err error) {
	return p.engine.cfg.Queue.Enter(ctx, class, p.user)
}

// maxResets is how many resets one page may go through.
const maxResets = 8

// hopeless says whether a position's error means that the device must start over, and why.
func (p *page) hopeless(err error) (change.Reason, bool) {
	switch {
	case errors.Is(err, tail.ErrEpoch):
		return change.ReasonEpoch, true
	case errors.Is(err, changelog.ErrGone):
		return change.ReasonExpired, true
	case errors.Is(err, tail.ErrAhead):
		// Nobody hands out such a cursor: the log must have lost its end (A13).
		p.engine.cfg.Logger.Error("a cursor is ahead of the log: the device is reset", "user_hash", userHash(p.user))
		return change.ReasonRepair, true
	}
	return "", false
}

// follow adds what the log holds after the cursor, and moves it there. The device is complete only once
// that is past all that the snapshot's pages may have shown (A5).
func (p *page) follow(ctx context.Context, c *cursor) error {
	if err := p.awaitFloor(ctx, c); err != nil {
		return err
	}
	changes, head, more, err := p.read(ctx, c.pos)
	var resets map[string]change.Position
	if err == nil {
		resets, err = p.resets(ctx, changes, head, more)
	}
	if why, ok := p.hopeless(err); ok {
		now, err := p.engine.head()
		if err != nil {
			return err
		}
		*c = *p.engine.begin(now, c.tables, why)
		return nil
	}
	if err != nil {
		return err
	}
	p.items = slices.Grow(p.items, len(changes))
	for i := range changes {
		ch := &changes[i]
		if r := latest(resets[ch.Table], resets["*"]); ch.Pos.Before(r) {
			// The node that is asked next may not have come to the reset: it must not call the device complete (A13).
			if p.concerns(ch, c.tables) {
				c.floor = max(c.floor, r.LSN+1)
			}
			continue
		}
		if ch.Op != change.Reset {
			if len(c.tables) > 0 && !slices.Contains(c.tables, ch.Table) {
				continue
			}
			p.add(item{change: *ch})
			continue
		}
		if ch.Reason == change.ReasonTruncate && ch.Table != "*" {
			// The table was empty at that commit: nothing is to be received before the sweep.
			gen := newGen()
			p.addReset(ch.Scope, []string{ch.Table}, gen, ch.Reason, c.tables)
			p.addSweep(ch.Scope, []string{ch.Table}, gen, c.tables)
			continue
		}
		// The replay stands at the reset, its snapshot comes first (A20).
		c.pos = ch.Pos
		if p.concerns(ch, c.tables) {
			c.snap = &progress{scope: ch.Scope, table: ch.Table, reason: ch.Reason, gen: newGen()}
			return nil
		}
	}
	c.pos = head
	if more {
		c.pos = changes[len(changes)-1].Pos
	}
	if c.floor <= c.pos.LSN {
		c.floor = 0
	}
	p.more = more || c.floor > 0
	return nil
}

func latest(a, b change.Position) change.Position {
	if a.Before(b) {
		return b
	}
	return a
}

// concerns reports whether a reset touches the tables that the device asked for.
func (p *page) concerns(ch *change.Change, tables []string) bool {
	return len(tables) == 0 || ch.Table == "*" || slices.Contains(tables, ch.Table)
}

// read returns the changes after a position: from memory, or, if the window does not reach back to it,
// from the log. more: the ceilings cut them.
func (p *page) read(ctx context.Context, after change.Position) (_ []change.Change, head change.Position, more bool, err error) {
	e := p.engine
	rows, bytes := max(p.rows, 1), max(p.bytes, 1)
	s, err := e.cfg.Tail.Since(ctx, p.scopes, after, rows, bytes)
	if err == nil {
		p.from("tail")
		return s.Changes, s.Head, s.More, e.routed(s.Config)
	}
	if !errors.Is(err, tail.ErrBefore) {
		return nil, head, false, err
	}
	if e.gone(after) {
		return nil, head, false, changelog.ErrGone
	}
	leave, err := p.enter(ctx, p.class)
	if err != nil {
		return nil, head, false, err
	}
	defer leave()
	l, err := e.cfg.Log.Read(ctx, p.scopes, after, rows, bytes)
	if err != nil {
		return nil, head, false, err
	}
	p.from("log")
	e.learn(&l.State)
	return l.Changes, l.State.Head(), l.More, e.routed(l.State.ConfigHash)
}

// resets are the newest resets for everybody up to head, by table, of the tables of a stretch that begins
// with changes. What they follow is not to be served: it will come anew, and may be what the configuration
// hides by now (I10).
func (p *page) resets(ctx context.Context, changes []change.Change, head change.Position, more bool) (map[string]change.Position, error) {
	var out map[string]change.Position // made for the first: most pages have none
	note := func(changes []change.Change) {
		for i := range changes {
			if c := &changes[i]; c.Op == change.Reset && c.Scope == change.All && !head.Before(c.Pos) {
				if out == nil {
					out = map[string]change.Position{}
				}
				out[c.Table] = c.Pos
			}
		}
	}
	note(changes)
	if !more {
		return out, nil
	}
	last := changes[len(changes)-1].Pos
	s, err := p.engine.cfg.Tail.Since(ctx, nil, last, 0, 0)
	if err == nil {
		note(s.Changes)
		return out, nil
	}
	if !errors.Is(err, tail.ErrBefore) {
		return nil, err
	}
	leave, err := p.enter(ctx, p.class)
	if err != nil {
		return nil, err
	}
	defer leave()
	later, err := p.engine.cfg.Log.Resets(ctx, last, head)
	if err != nil {
		return nil, err
	}
	if out == nil {
		return later, nil
	}
	maps.Copy(out, later)
	return out, nil
}

// awaitFloor has the log pass the cursor's floor, or waits for the engine's patience: the device asks again.
func (p *page) awaitFloor(ctx context.Context, c *cursor) error {
	e := p.engine
	floor := change.Position{Epoch: c.pos.Epoch, LSN: c.floor}
	head, err := e.head()
	if err != nil {
		return err
	}
	if c.floor == 0 || head.Next.Epoch != floor.Epoch || !head.Next.Before(floor) {
		return nil
	}
	p.from("log") // no answer from memory: it takes a heartbeat, and what time the log takes
	sent := false
	err = e.beats.after(ctx, func(ctx context.Context) error {
		sent = true
		return e.beat(ctx)
	})
	if refused, ok := errors.AsType[*admit.Refusal](err); ok && !sent {
		return e.cfg.Queue.Again(refused) // those who waited for one heartbeat are not to come back at one time
	}
	if err != nil {
		return err
	}
	waiting, cancel := context.WithTimeout(ctx, e.cfg.Patience)
	defer cancel()
	err = e.cfg.Tail.Wait(waiting, floor)
	if errors.Is(err, tail.ErrEpoch) || errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		return nil
	}
	return err
}

// beat sends a heartbeat, which many pulls wait for: it is nobody's, and as urgent as any of them.
func (e *Engine) beat(ctx context.Context) error {
	leave, err := e.cfg.Queue.Enter(ctx, admit.Foreground, "")
	if err != nil {
		return err
	}
	defer leave()
	return e.cfg.Rows.Beat(ctx)
}

// snapshot adds the next rows of the cursor's snapshot; c.snap is nil once it is complete.
func (p *page) snapshot(ctx context.Context, c *cursor) error {
	e := p.engine
	leave, err := p.enter(ctx, admit.Snapshot)
	if err != nil {
		return err
	}
	defer leave()
	state, err := e.cfg.Log.Feed(ctx)
	if err != nil {
		return err
	}
	e.learn(&state)
	// A snapshot whose replay is bound to fail starts again at once (A20).
	if why := lost(c.pos, &state); why != "" {
		head, err := e.head()
		if err != nil {
			return err
		}
		if lost(head.Next, &state) != "" {
			return wire.NewProblem(wire.Starting, "").AfterAbout(time.Second) // this node is behind the log
		}
		*c = *e.begin(head, c.tables, why)
	}
	if err := e.routed(state.ConfigHash); err != nil {
		return err
	}
	p.from("snapshot")
	s := c.snap
	if s.index == 0 && s.after == nil {
		p.addReset(s.scope, []string{s.table}, s.gen, s.reason, c.tables)
	}
	tables := e.snapshotTables(s.table, c.tables)
	for s.index < len(tables) {
		if p.rows <= 0 || p.bytes <= 0 {
			return nil
		}
		table := tables[s.index]
		log := snapshot.Standing{
			Past: c.pos.LSN, Fence: state.SnapshotFence, Shape: state.Relations[table],
			SystemID: state.SystemID, Timeline: state.Timeline, Database: state.Database,
		}
		rows, err := e.cfg.Rows.Page(ctx, table, p.user, s.after, log, p.rows, p.bytes)
		switch {
		case errors.Is(err, snapshot.ErrNoSuchOwner):
			rows, err = snapshot.Page{Done: true}, nil
		case errors.Is(err, snapshot.ErrUnreadable):
			e.cfg.Logger.Error("a table is served as empty until it is mended", "table", table, "error", err, "hint", "run nudge check")
			rows, err = snapshot.Page{Done: true}, nil
		case errors.Is(err, snapshot.ErrNoSuchPlace):
			head, err := e.head()
			if err != nil {
				return err
			}
			*c = *e.begin(head, c.tables, change.ReasonSchema)
			return nil
		}
		if err != nil {
			return err
		}
		for _, r := range rows.Rows {
			p.add(item{change: change.Change{Scope: change.User(p.user), Table: table, Op: change.Upsert, Key: r.Key, Row: r.Row}})
		}
		c.floor = max(c.floor, rows.Floor)
		s.after = rows.Last
		if rows.Done {
			s.index, s.after = s.index+1, nil
		}
	}
	p.addSweep(s.scope, []string{s.table}, s.gen, c.tables)
	c.snap = nil
	return nil
}

// lost says why the log can't be replayed from a position, "" if it can.
func lost(pos change.Position, s *changelog.State) change.Reason {
	switch {
	case s.Epoch != pos.Epoch:
		return change.ReasonEpoch
	case pos.Before(s.Start()):
		return change.ReasonExpired
	}
	return ""
}

// snapshotTables are the tables to read after a reset of table, for a device that asked for some. One that
// has left the configuration is reset and swept, not read.
func (e *Engine) snapshotTables(table string, asked []string) []string {
	switch {
	case table != "*":
		asked = []string{table}
	case len(asked) == 0:
		return e.tables
	}
	return slices.DeleteFunc(slices.Clone(asked), func(t string) bool { return !slices.Contains(e.tables, t) })
}

func (p *page) from(source string) {
	// The dearest source names the page.
	if p.source == "" || p.source == "tail" || source == "snapshot" {
		p.source = source
	}
}

func newGen() string { return rand.Text()[:12] }
