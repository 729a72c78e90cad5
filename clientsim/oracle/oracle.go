// Package oracle judges what devices hold, knowing nothing of how it came to them: against the
// source tables as Postgres's own to_jsonb renders them (Read, Compare), and against what must hold
// at any moment (Inspect: I5 whole transactions, I10 isolation).
package oracle

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/nudgesync/nudge/clientsim/device"
)

// Table is one table as the devices see it.
type Table struct {
	Name  string   // "public.intakes"
	Owner string   // the column that names the user
	Key   []string // the key's columns
}

// Held is what one device shows.
type Held struct {
	Device string
	User   string
	Rows   []device.Row
}

// Kind says what is wrong with a row.
type Kind string

// What can be wrong.
const (
	Missing Kind = "missing" // the source has it, the device does not
	Extra   Kind = "extra"   // the device has it, the source does not
	Changed Kind = "changed" // both have it, with different columns
	Leaked  Kind = "leaked"  // the device has it, and it is another user's (I10)
	Torn    Kind = "torn"    // rows of one transaction were shown in part (I5)
)

// Difference is one row of one device that is wrong.
type Difference struct {
	Kind   Kind   `json:"kind"`
	Device string `json:"device"`
	User   string `json:"user"`
	Table  string `json:"table"`
	Key    string `json:"key"`
	Detail string `json:"detail,omitempty"`
}

// String names the row and what is wrong with it.
func (d Difference) String() string {
	s := fmt.Sprintf("%s: device %s of user %s, %s %s", d.Kind, d.Device, d.User, d.Table, d.Key)
	if d.Detail != "" {
		s += ": " + d.Detail
	}
	return s
}

// rowID names a row of the source.
type rowID struct{ table, key string }

// columns is a row as Postgres rendered it.
type columns map[string]json.RawMessage

// Truth is the source's rows of some users, at one moment.
type Truth struct {
	tables map[string]Table
	byUser map[string]map[rowID]columns
	owner  map[rowID]string
}

// NewTruth is an empty truth over the tables. Read fills one from a database.
func NewTruth(tables []Table) *Truth {
	t := &Truth{tables: map[string]Table{}, byUser: map[string]map[rowID]columns{}, owner: map[rowID]string{}}
	for _, table := range tables {
		t.tables[table.Name] = table
	}
	return t
}

// Read takes every row of the users in one REPEATABLE READ snapshot, each rendered by to_jsonb with
// TimeZone UTC: never by nudge's own converter.
func Read(ctx context.Context, conn *pgx.Conn, tables []Table, users []string) (*Truth, error) {
	truth := NewTruth(tables)
	opts := pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}
	err := pgx.BeginTxFunc(ctx, conn, opts, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "set local timezone to 'UTC'"); err != nil {
			return err
		}
		for _, table := range tables {
			if err := truth.read(ctx, tx, table, users); err != nil {
				return fmt.Errorf("table %s: %w", table.Name, err)
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the truth: %w", err)
	}
	return truth, nil
}

func (t *Truth) read(ctx context.Context, tx pgx.Tx, table Table, users []string) error {
	name := pgx.Identifier(strings.Split(table.Name, ".")).Sanitize()
	owner := pgx.Identifier{table.Owner}.Sanitize()
	rows, err := tx.Query(ctx, fmt.Sprintf(
		`select t.%[1]s::text, to_jsonb(t)::text from %[2]s t where t.%[1]s::text = any ($1)`, owner, name), users)
	if err != nil {
		return err
	}
	var user, doc string
	_, err = pgx.ForEachRow(rows, []any{&user, &doc}, func() error { return t.Add(table.Name, user, doc) })
	return err
}

// Add puts in one row of the source: its table, its owner, and the row as to_jsonb wrote it.
func (t *Truth) Add(table, user, doc string) error {
	row := columns{}
	if err := json.Unmarshal([]byte(doc), &row); err != nil {
		return fmt.Errorf("row of %s: %w", table, err)
	}
	key := columns{}
	for _, c := range t.tables[table].Key {
		key[c] = row[c]
	}
	raw, err := json.Marshal(key)
	if err != nil {
		return fmt.Errorf("key in %s: %w", table, err)
	}
	canonical, err := device.Canonical(raw)
	if err != nil {
		return fmt.Errorf("key in %s: %w", table, err)
	}
	id := rowID{table, canonical}
	if t.byUser[user] == nil {
		t.byUser[user] = map[rowID]columns{}
	}
	t.byUser[user][id] = row
	t.owner[id] = user
	return nil
}

// Rows is how many rows the truth has.
func (t *Truth) Rows() int { return len(t.owner) }

// Compare lists every row of the device that is not as the source has it, ordered by table and key.
func (t *Truth) Compare(h Held) []Difference {
	var out []Difference
	found := map[rowID]bool{}
	for _, row := range h.Rows {
		id := rowID{row.Table, row.Key}
		want, ok := t.byUser[h.User][id]
		switch {
		case ok:
			found[id] = true
			if detail := differ(want, row.Columns); detail != "" {
				out = append(out, h.difference(Changed, row.Table, row.Key, detail))
			}
		case t.owner[id] != "":
			out = append(out, h.difference(Leaked, row.Table, row.Key, "it belongs to user "+t.owner[id]))
		default:
			if leak := t.leak(h, row); leak != "" {
				out = append(out, h.difference(Leaked, row.Table, row.Key, leak))
			} else {
				out = append(out, h.difference(Extra, row.Table, row.Key, ""))
			}
		}
	}
	for id := range t.byUser[h.User] {
		if !found[id] {
			out = append(out, h.difference(Missing, id.table, id.key, ""))
		}
	}
	slices.SortFunc(out, compareDifferences)
	return out
}

func (h Held) difference(kind Kind, table, key, detail string) Difference {
	return Difference{Kind: kind, Device: h.Device, User: h.User, Table: table, Key: key, Detail: detail}
}

func compareDifferences(a, b Difference) int {
	if c := strings.Compare(a.Table, b.Table); c != 0 {
		return c
	}
	return strings.Compare(a.Key, b.Key)
}

// differ names the columns whose values do not mean the same, numbers compared as exact decimals.
func differ(want columns, got json.RawMessage) string {
	has := columns{}
	if err := json.Unmarshal(got, &has); err != nil {
		return "no JSON object: " + err.Error()
	}
	names := make([]string, 0, len(want))
	for name := range want {
		names = append(names, name)
	}
	for name := range has {
		if _, ok := want[name]; !ok {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	var parts []string
	for _, name := range names {
		if !same(want[name], has[name]) {
			parts = append(parts, fmt.Sprintf("%s is %s, not %s", name, show(has[name]), show(want[name])))
		}
	}
	return strings.Join(parts, "; ")
}

func same(a, b json.RawMessage) bool {
	if a == nil || b == nil {
		return a == nil && b == nil
	}
	x, errX := device.Canonical(a)
	y, errY := device.Canonical(b)
	return errX == nil && errY == nil && x == y
}

// show is a value for a report: a person's note need not be there in full.
func show(v json.RawMessage) string {
	const most = 60
	if v == nil {
		return "absent"
	}
	if r := []rune(string(v)); len(r) > most {
		return string(r[:most]) + "…"
	}
	return string(v)
}
