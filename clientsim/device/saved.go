package device

import (
	"encoding/json"
	"fmt"
	"slices"
)

// Saved is a State at rest, for a restart of the app. It holds the marks too: a reset that was under
// way goes on where it stood.
type Saved struct {
	Cursor string     `json:"cursor"`
	Rows   []SavedRow `json:"rows"`
	// MidPull says that the last page said has_more; Shown is then what the app showed.
	MidPull bool       `json:"mid_pull"`
	Shown   []SavedRow `json:"shown,omitempty"`
}

// SavedRow is one stored row.
type SavedRow struct {
	Scope   string          `json:"scope"`
	Table   string          `json:"table"`
	Key     json.RawMessage `json:"key"`
	Columns json.RawMessage `json:"columns"`
	Mark    string          `json:"mark,omitempty"`
}

// Save is a copy of the state, in a fixed order.
func (s *State) Save() Saved {
	s.mu.Lock()
	defer s.mu.Unlock()
	return Saved{Cursor: s.cursor, Rows: save(s.rows), MidPull: s.shown != nil, Shown: save(s.shown)}
}

// Restore is the state that was saved. It fails if a row is none.
func Restore(saved Saved) (*State, error) {
	rows, err := restore(saved.Rows)
	if err != nil {
		return nil, err
	}
	s := &State{cursor: saved.Cursor, rows: rows}
	if saved.MidPull {
		if s.shown, err = restore(saved.Shown); err != nil {
			return nil, err
		}
	}
	return s, nil
}

func save(rows map[ID]held) []SavedRow {
	ids := make([]ID, 0, len(rows))
	for id := range rows {
		ids = append(ids, id)
	}
	slices.SortFunc(ids, compareIDs)
	out := make([]SavedRow, len(ids))
	for i, id := range ids {
		r := rows[id]
		out[i] = SavedRow{Scope: id.Scope, Table: id.Table, Key: json.RawMessage(id.Key), Columns: r.columns, Mark: r.mark}
	}
	return out
}

func restore(saved []SavedRow) (map[ID]held, error) {
	rows := make(map[ID]held, len(saved))
	for i, r := range saved {
		if !isObject(r.Key) || !isObject(r.Columns) {
			return nil, fmt.Errorf("saved row %d: key or columns are no JSON object", i)
		}
		key, err := Canonical(r.Key)
		if err != nil {
			return nil, fmt.Errorf("saved row %d: %w", i, err)
		}
		rows[ID{Scope: r.Scope, Table: r.Table, Key: key}] = held{columns: r.Columns, mark: r.Mark}
	}
	return rows, nil
}
