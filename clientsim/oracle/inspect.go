package oracle

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/nudgesync/nudge/clientsim/device"
)

// Stock is an invariant that the source keeps in every transaction: for each row of Medications,
// stock = supplied − the rows of Intakes that name it and are taken. A device that shows it broken
// shows a part of a transaction.
type Stock struct {
	Medications string // the table with id, supplied and stock
	Intakes     string // the table with medication_id and taken_at
}

// Inspect judges what a device shows by itself, without the source: rows of other users or foreign
// scopes (Leaked), and medications whose stock does not fit the intakes beside them (Torn).
func (t *Truth) Inspect(h Held, stock Stock) []Difference {
	var out []Difference
	for _, row := range h.Rows {
		if leak := t.leak(h, row); leak != "" {
			out = append(out, h.difference(Leaked, row.Table, row.Key, leak))
		}
	}
	return append(out, stock.torn(h)...)
}

// leak says why the row is not the device's user's, "" if it is.
func (t *Truth) leak(h Held, row device.Row) string {
	if own := "user:" + h.User; row.Scope != own {
		return fmt.Sprintf("its scope is %s, not %s", row.Scope, own)
	}
	table, ok := t.tables[row.Table]
	if !ok {
		return ""
	}
	has := columns{}
	if err := json.Unmarshal(row.Columns, &has); err != nil {
		return "its columns are unreadable"
	}
	if owner := strings.Trim(string(has[table.Owner]), `"`); owner != h.User {
		return fmt.Sprintf("its %s is %q", table.Owner, owner)
	}
	return ""
}

func (s Stock) torn(h Held) []Difference {
	taken := map[string]int{}
	for _, row := range h.Rows {
		if row.Table != s.Intakes {
			continue
		}
		var intake struct {
			Medication string  `json:"medication_id"`
			TakenAt    *string `json:"taken_at"`
		}
		if err := json.Unmarshal(row.Columns, &intake); err != nil {
			return []Difference{h.difference(Torn, row.Table, row.Key, "unreadable: "+err.Error())}
		}
		if intake.TakenAt != nil {
			taken[intake.Medication]++
		}
	}
	var out []Difference
	for _, row := range h.Rows {
		if row.Table != s.Medications {
			continue
		}
		var m struct {
			ID       string `json:"id"`
			Supplied int    `json:"supplied"`
			Stock    int    `json:"stock"`
		}
		if err := json.Unmarshal(row.Columns, &m); err != nil {
			return []Difference{h.difference(Torn, row.Table, row.Key, "unreadable: "+err.Error())}
		}
		if m.Stock != m.Supplied-taken[m.ID] {
			out = append(out, h.difference(Torn, row.Table, row.Key,
				fmt.Sprintf("stock %d, but %d supplied and %d taken", m.Stock, m.Supplied, taken[m.ID])))
		}
	}
	slices.SortFunc(out, compareDifferences)
	return out
}
