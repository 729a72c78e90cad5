// Package hub knows the sessions of this node by scope, and nudges those that a change concerns.
//
// A nudge is a hint (I7): it says how far the scope has come and carries nothing. The hub never waits
// for a session (I8), and never tells one of a scope that it did not register for (I10).
package hub

import (
	"sync"

	"github.com/nudgesync/nudge/changefeed/change"
)

// Session is one live connection of a device.
type Session interface {
	// Device names the device. It is constant, and "" if the device is not known.
	Device() string

	// Nudge tells the session that changes up to head are there to be pulled. It is called with the
	// hub locked: it must neither block nor call the hub. Calls may come from several goroutines,
	// may repeat a head, and within one frame heads of several scopes come in any order: keep the newest.
	// with is who else hears, so that all of them need not pull at once.
	Nudge(head change.Position, with Crowd)

	// Own tells the session that its own device's changes up to head are there to be pulled. The device
	// is not nudged for them as long as it comes for them by itself. Called as Nudge is.
	Own(head change.Position)
}

// Crowd is whom one frame nudges together.
type Crowd struct {
	Sessions int // at most so many; a session of two of the frame's scopes counts twice
	Source   Source
}

// Source is where a crowd finds what it will pull. A dearer one is greater.
type Source int

// The sources.
const (
	Memory Source = iota // the newest stretch of the log
	Log                  // the log in its database: the frame was too large to be carried, or was skipped
	Tables               // the live rows: a reset, or a new epoch
)

// Hub is the sessions of this node. Its methods may be called from any goroutine.
//
// One lock serves: at 15,000 sessions a frame of a hundred changes shares it for at most 0.1 ms, and
// registering owns it for a few microseconds (see the benchmarks), so shards would buy little.
type Hub struct {
	mu sync.RWMutex
	// scopes holds only scopes that have a session. Every session also stands under change.All.
	scopes map[change.Scope]*members
}

// members are the sessions of one scope, in no order.
type members struct {
	list []member
}

// member is a place in a list, and knows which of its session's places it is.
type member struct {
	*registration
	slot int
}

// registration is a session with its places. It has none any more once it is unregistered.
type registration struct {
	session Session
	device  string
	places  []place
}

// place is where a registration stands: in.list[at] is it.
type place struct {
	scope change.Scope
	in    *members
	at    int
}

// New returns a hub without sessions.
func New() *Hub {
	return &Hub{scopes: make(map[change.Scope]*members)}
}

// Register has the session nudged for the scopes, and for what concerns every scope, until unregister is
// called. Compare the session's cursor with the head after it returns, so that no change falls between.
// Once unregister has returned the session is not called any more; further calls of it do nothing.
func (h *Hub) Register(scopes []change.Scope, s Session) (unregister func()) {
	r := &registration{session: s, device: s.Device(), places: make([]place, 0, 1+len(scopes))}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.join(r, change.All)
	for _, scope := range scopes {
		h.join(r, scope)
	}
	return func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		for _, p := range r.places {
			h.leave(p)
		}
		r.places = nil
	}
}

// join gives the registration a place under the scope, unless it has one. Called with mu held.
func (h *Hub) join(r *registration, scope change.Scope) {
	m := h.scopes[scope]
	if m == nil {
		m = &members{}
		h.scopes[scope] = m
	}
	if n := len(m.list); n > 0 && m.list[n-1].registration == r {
		return // the scope was named twice; nobody else joins meanwhile
	}
	m.list = append(m.list, member{registration: r, slot: len(r.places)})
	r.places = append(r.places, place{scope: scope, in: m, at: len(m.list) - 1})
}

// leave frees a place: the last of the list moves into it. Called with mu held.
func (h *Hub) leave(p place) {
	m, last := p.in, len(p.in.list)-1
	moved := m.list[last]
	m.list[p.at] = moved
	moved.places[moved.slot].at = p.at
	m.list[last] = member{}
	m.list = m.list[:last]
	switch {
	case last == 0:
		delete(h.scopes, p.scope)
	case cap(m.list) >= 64 && last < cap(m.list)/4:
		m.list = append(make([]member, 0, cap(m.list)/2), m.list...)
	}
}

// heads are what a frame says about one scope.
type heads struct {
	newest  change.Position            // of the scope
	writer  string                     // the origin of the newest change, "" if it did not say
	foreign change.Position            // newest that is not the writer's; zero if all are
	own     map[string]change.Position // newest of each device that is an origin
	reset   bool                       // there is a reset among the changes
}

// add takes the next change of the scope, in commit order.
func (p *heads) add(c *change.Change) {
	if !p.newest.IsZero() && c.Origin != p.writer {
		p.foreign = p.newest
	}
	p.newest, p.writer = c.Pos, c.Origin
	p.reset = p.reset || startsOver(c)
	if c.Origin != "" {
		if p.own == nil {
			p.own = make(map[string]change.Position, 1)
		}
		p.own[c.Origin] = c.Pos
	}
}

// startsOver reports whether a change has devices read rows anew. An emptied table has none.
func startsOver(c *change.Change) bool {
	return c.Op == change.Reset && (c.Reason != change.ReasonTruncate || c.Table == "*")
}

// of returns the newest position that the device did not write itself; zero if it wrote all.
func (p *heads) of(device string) change.Position {
	if device != "" && device == p.writer {
		return p.foreign
	}
	return p.newest
}

// Deliver nudges the sessions of every scope in the frame with the scope's newest position that is not their
// own device's writing (A17); who wrote all of it is not nudged, only told (Session.Own). What stands under change.All is for every
// session, its writer included (A15). A frame of heads only may concern anybody, so it is for every session too.
func (h *Hub) Deliver(f change.Frame) {
	h.mu.RLock()
	defer h.mu.RUnlock()
	if f.HeadsOnly {
		all := Crowd{Sessions: h.size(change.All), Source: Log}
		if !f.Prev.IsZero() && f.Prev.Epoch != f.Next.Epoch { // else whoever is up to date reads on from there
			all.Source = Tables
		}
		h.announce(change.All, f.Next, all)
		return
	}
	var toAll change.Position
	var all Crowd
	byScope := make(map[*members]heads)
	for i := range f.Changes {
		c := &f.Changes[i]
		if c.Scope == change.All {
			toAll = c.Pos
			if startsOver(c) {
				all.Source = Tables
			}
			continue
		}
		if m := h.scopes[c.Scope]; m != nil {
			p := byScope[m]
			p.add(c)
			byScope[m] = p
		}
	}
	if !toAll.IsZero() {
		all.Sessions = h.size(change.All)
		h.announce(change.All, toAll, all)
	}
	var fromMemory, fromTables int
	for m, p := range byScope {
		if p.reset {
			fromTables += len(m.list)
		} else {
			fromMemory += len(m.list)
		}
	}
	for m, p := range byScope {
		crowd := Crowd{Sessions: fromMemory}
		if p.reset {
			crowd = Crowd{Sessions: fromTables, Source: Tables}
		}
		for _, r := range m.list {
			if head := p.of(r.device); !head.IsZero() {
				r.session.Nudge(head, crowd)
			}
			if head, wrote := p.own[r.device]; wrote {
				r.session.Own(head)
			}
		}
	}
}

// Announce nudges every session of the scopes with the head, whoever wrote: for what is known by its
// position alone, such as a head read from the log or a scope that was granted.
func (h *Hub) Announce(scopes []change.Scope, head change.Position) {
	h.mu.RLock()
	defer h.mu.RUnlock()
	var crowd Crowd
	for _, s := range scopes {
		crowd.Sessions += h.size(s)
	}
	for _, s := range scopes {
		h.announce(s, head, crowd)
	}
}

// announce nudges the sessions of one scope. Called with mu held.
func (h *Hub) announce(s change.Scope, head change.Position, crowd Crowd) {
	m := h.scopes[s]
	if m == nil {
		return
	}
	for _, r := range m.list {
		r.session.Nudge(head, crowd)
	}
}

// size is how many sessions a scope has. Called with mu held.
func (h *Hub) size(s change.Scope) int {
	if m := h.scopes[s]; m != nil {
		return len(m.list)
	}
	return 0
}

// Stats is the size of a hub, for metrics.
type Stats struct {
	Sessions int
	Scopes   int // that have a session
}

// Stats returns the present size.
func (h *Hub) Stats() Stats {
	h.mu.RLock()
	defer h.mu.RUnlock()
	all := h.scopes[change.All]
	if all == nil {
		return Stats{}
	}
	return Stats{Sessions: len(all.list), Scopes: len(h.scopes) - 1}
}
