package device

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/nudgesync/nudge/server/wire"
)

// ErrMoved says that a page answers a cursor that the state does not hold any more. Nothing was
// changed; pull again from the cursor it holds now.
var ErrMoved = errors.New("the cursor has moved since this pull began")

// all is the scope or table of a reset or sweep that names every one.
const all = "*"

// ID names a held row. The scope is part of it: a row stays while any scope holds it (A16).
type ID struct {
	Scope string
	Table string
	Key   string // canonical JSON
}

// Row is a row as the app sees it.
type Row struct {
	ID
	Columns json.RawMessage // a JSON object; read only
}

// held is a row in store. mark is the gen of the newest reset that named the row, "" once it was
// received anew.
type held struct {
	columns json.RawMessage // never changed in place
	mark    string
}

// State is what a device keeps on disk: rows, marks and the cursor that belongs to them. An SDK
// keeps the same in SQLite, and the mutex is its transaction. Safe for concurrent use.
type State struct {
	mu     sync.Mutex
	cursor string
	rows   map[ID]held
	// shown is what the app sees while a pull is under way that takes more than one page: the rows
	// as of the last has_more=false. Nil otherwise: then rows are what it sees.
	shown map[ID]held
}

// NewState is the state of a freshly installed app: no cursor, no rows.
func NewState() *State { return &State{rows: map[ID]held{}} }

// Cursor is where the next pull starts, "" for a device that has none.
func (s *State) Cursor() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cursor
}

// MidPull reports whether the last page said has_more: a pull must go on before new data may show.
func (s *State) MidPull() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.shown != nil
}

// Snapshot is what the app shows: the rows as of the last has_more=false, ordered by table, key and
// scope. A row that several scopes hold comes once for each.
func (s *State) Snapshot() []Row {
	s.mu.Lock()
	defer s.mu.Unlock()
	rows := s.rows
	if s.shown != nil {
		rows = s.shown
	}
	out := make([]Row, 0, len(rows))
	for id, r := range rows {
		out = append(out, Row{ID: id, Columns: r.columns})
	}
	slices.SortFunc(out, func(a, b Row) int { return compareIDs(a.ID, b.ID) })
	return out
}

// Apply stores a page and its cursor together, or neither. since is the cursor that the page's pull
// was made with; if the state holds another one, Apply returns ErrMoved. A page that breaks the
// protocol is refused whole.
func (s *State) Apply(since string, page *wire.Page) error {
	if page.Cursor == "" {
		return errors.New("page without a cursor")
	}
	steps := make([]step, len(page.Changes))
	for i := range page.Changes {
		var err error
		if steps[i], err = newStep(&page.Changes[i]); err != nil {
			return fmt.Errorf("change %d of the page: %w", i, err)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cursor != since {
		return ErrMoved
	}
	// From here on nothing can fail.
	if page.HasMore && s.shown == nil {
		s.shown = maps.Clone(s.rows)
	}
	for _, st := range steps {
		s.take(st)
	}
	if !page.HasMore {
		s.shown = nil
	}
	s.cursor = page.Cursor
	return nil
}

// Refresh takes the fresh cursor that the server hands to a device that is up to date at since, so
// that it does not expire. It is ignored if since is not the cursor any more, or in the middle of a
// pull: it would skip the pages that are still to come.
func (s *State) Refresh(since, cursor string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cursor != "" && s.cursor == since && s.shown == nil && cursor != "" {
		s.cursor = cursor
	}
}

// Forget drops the cursor and keeps the rows: the next pull starts with a reset of everything. It is
// the answer to cursor_malformed.
func (s *State) Forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cursor = ""
}

// Erase drops everything. It is the answer to cursor_foreign: the rows are another user's.
func (s *State) Erase() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cursor, s.rows, s.shown = "", map[ID]held{}, nil
}

// step is a change that was checked and can no longer fail.
type step struct {
	op      string
	id      ID
	gen     string
	columns json.RawMessage
}

// newStep checks a change. An op of a later protocol is an error: to skip it would lose data.
func newStep(c *wire.Change) (step, error) {
	st := step{op: c.Op, id: ID{Scope: c.Scope, Table: c.Table}, gen: c.Gen, columns: c.Row}
	if c.Scope == "" {
		return step{}, fmt.Errorf("%s without a scope", c.Op)
	}
	switch c.Op {
	case wire.OpForget:
		return st, nil
	case wire.OpReset, wire.OpSweep:
		if c.Table == "" || c.Gen == "" {
			return step{}, fmt.Errorf("%s without table or gen", c.Op)
		}
		return st, nil
	case wire.OpUpsert, wire.OpPatch:
		if !isObject(c.Row) {
			return step{}, fmt.Errorf("%s whose row is no JSON object", c.Op)
		}
	case wire.OpDelete:
	default:
		return step{}, fmt.Errorf("unknown op %q", c.Op)
	}
	if c.Table == "" || !isObject(c.Key) {
		return step{}, fmt.Errorf("%s without table or key", c.Op)
	}
	key, err := Canonical(c.Key)
	st.id.Key = key
	return st, err
}

// take does one change. The caller holds mu.
func (s *State) take(st step) {
	switch st.op {
	case wire.OpUpsert:
		s.rows[st.id] = held{columns: st.columns} // received anew: no mark
	case wire.OpPatch:
		// A patch of an absent row is nothing: the row went, or comes whole later. It does not lift
		// a mark either: only a whole row was received anew.
		if r, ok := s.rows[st.id]; ok {
			s.rows[st.id] = held{columns: merge(r.columns, st.columns), mark: r.mark}
		}
	case wire.OpDelete:
		delete(s.rows, st.id)
	case wire.OpReset:
		for id, r := range s.rows {
			if st.names(id) {
				s.rows[id] = held{columns: r.columns, mark: st.gen}
			}
		}
	case wire.OpSweep:
		maps.DeleteFunc(s.rows, func(id ID, r held) bool { return st.names(id) && r.mark == st.gen })
	case wire.OpForget:
		maps.DeleteFunc(s.rows, func(id ID, _ held) bool { return id.Scope == st.id.Scope })
	}
}

// names reports whether a reset or sweep means the row.
func (st step) names(id ID) bool {
	return (st.id.Scope == all || st.id.Scope == id.Scope) && (st.id.Table == all || st.id.Table == id.Table)
}

// merge is the row with the patch's columns put over it.
func merge(row, patch json.RawMessage) json.RawMessage {
	columns := map[string]json.RawMessage{}
	// Both were checked to be JSON objects when they came in, so none of the three can fail.
	_ = json.Unmarshal(row, &columns)
	_ = json.Unmarshal(patch, &columns)
	out, _ := json.Marshal(columns)
	return out
}

func isObject(doc json.RawMessage) bool {
	return bytes.HasPrefix(bytes.TrimLeft(doc, " \t\r\n"), []byte("{")) && json.Valid(doc)
}

func compareIDs(a, b ID) int {
	return cmp.Or(cmp.Compare(a.Table, b.Table), cmp.Compare(a.Key, b.Key), cmp.Compare(a.Scope, b.Scope))
}
