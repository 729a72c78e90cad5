package changefeed

import (
	"errors"
	"slices"

	"github.com/nudgesync/nudge/changefeed/change"
	"github.com/nudgesync/nudge/changefeed/pgoutput"
	"github.com/nudgesync/nudge/changefeed/route"
	"github.com/nudgesync/nudge/changefeed/value"
)

// What follows is the session's: how it takes up what the WAL says of tables. All of it is a function of the
// WAL and of the shapes that are stored with the log (I3): the catalog is read by the watcher alone.

// decodeShapes reads the stored shapes. One that can't be read is as good as none: it is learned anew,
// with a reset.
func decodeShapes(stored map[string]string) map[string]route.Shape {
	out := make(map[string]route.Shape, len(stored))
	for name, text := range stored {
		if shape, err := route.DecodeShape(text); err == nil {
			out[name] = shape
		}
	}
	return out
}

// relation takes up a table's columns. Others than were known are a reset of the table (P14).
func (s *session) relation(rel *pgoutput.Rel) {
	r := &relation{rel: rel}
	s.streamed[rel.ID] = r
	name := rel.Schema + "." + rel.Name
	if _, configured := s.routing.Tables[name]; configured && !s.skip {
		shape := s.shapes[name]
		if signature := route.Signature(rel); shape.Columns != signature {
			s.tx.Reset(name, change.ReasonSchema)
			if shape.OID != rel.ID { // of this one the stream says nothing more
				shape.Places, shape.Key, shape.Parts, shape.Truncated = nil, nil, nil, 0
			}
			shape.OID, shape.Columns, shape.Unsent = rel.ID, signature, nil
			s.note(name, shape)
			s.feed.Look() // whatever else changed with them, so that devices start over once
		}
	}
	s.compile(r)
}

// renamed resets what a relation is beside its name: until the watcher has told what became of it, what is
// written to it under another name may be a configured table's that has its name back by now (P14).
func (s *session) renamed(r *relation) {
	for _, name := range r.known {
		s.tx.Reset(name, change.ReasonSchema)
	}
}

// truncated notes which transaction emptied a table, and so gave it, or its partitions, new files.
func (s *session) truncated(table string) {
	shape := s.shapes[table]
	shape.Truncated = s.xid
	s.note(table, shape)
}

// note keeps a table's shape, and has it stored with this transaction.
func (s *session) note(table string, shape route.Shape) {
	s.shapes[table] = shape
	if s.changed == nil {
		s.changed = make(map[string]string)
	}
	s.changed[table] = shape.Encode()
}

// compile makes the router of a relation under the configuration in force.
func (s *session) compile(r *relation) {
	r.table, r.name, r.known = nil, "", nil
	name := r.rel.Schema + "." + r.rel.Name
	for other, shape := range s.shapes {
		if _, configured := s.routing.Tables[other]; configured && other != name && shape.OID == r.rel.ID {
			r.known = append(r.known, other)
		}
	}
	slices.Sort(r.known) // for I3
	rule, configured := s.routing.Tables[name]
	shape := s.shapes[name]
	if !configured || shape.OID == 0 { // or gone, and the stream has not heard of it yet
		return
	}
	r.name = name
	var err error
	r.table, err = shape.Table(r.rel, rule, value.Options{WideNumbersAsStrings: s.routing.WideNumbersAsStrings})
	switch {
	case err == nil:
	case errors.Is(err, route.ErrUnknownType):
		s.feed.Look() // until it is told, a change of the table is a reset
	default:
		s.feed.cfg.Metrics.malformed.Inc()
		s.feed.cfg.Logger.Error("a table can't be routed; its changes become resets until it is mended",
			"table", name, "error", err, "hint", "run nudge check")
	}
}

// takeUp puts in force what the transaction told at its end: a configuration, and shapes of tables.
func (s *session) takeUp() {
	reset := map[string]bool{}
	if s.switching {
		changed, all := s.routing.Changed(s.feed.cfg.Routing)
		s.routing = s.feed.cfg.Routing
		for _, r := range s.streamed { // the server does not describe them again
			s.compile(r)
		}
		if all {
			s.tx.ResetAll(change.ReasonSchema)
		}
		for _, name := range changed {
			reset[name] = true
			if !all {
				s.tx.Reset(name, change.ReasonSchema)
			}
		}
		s.feed.cfg.Logger.Info("a new configuration is in force", "at", s.commit.String(), "tables_reset", changed, "all_reset", all)
	}
	for i := range s.learned {
		s.learn(&s.learned[i], reset)
	}
}

// learn takes up a table's shape from the watcher's message. reset are the tables that need none any more.
func (s *session) learn(sight *route.Sight, reset map[string]bool) {
	name := sight.Table
	rule, configured := s.routing.Tables[name]
	if !configured {
		return
	}
	old := s.shapes[name]
	shape := sight.Shape
	shape.Truncated = old.Truncated
	if shape.Encode() == old.Encode() {
		return
	}
	s.note(name, shape)
	s.fence = s.fence || sight.Joined(&old)
	s.outdated = s.outdated || s.forgetful && sight.Moved(&old)
	for _, r := range s.streamed {
		if r.rel.Schema+"."+r.rel.Name == name || slices.Contains(r.known, name) || r.rel.ID == shape.OID {
			s.compile(r)
		}
	}
	if why := sight.News(&old, rule); why != "" && !reset[name] {
		reset[name] = true
		s.tx.Reset(name, change.ReasonSchema)
		s.feed.cfg.Logger.Warn("a table is reset for every device", "table", name, "why", why, "at", s.commit.String())
	}
}
