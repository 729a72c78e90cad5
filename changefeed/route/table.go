package route

import (
	"errors"
	"fmt"
	"hash/fnv"
	"strconv"

	"github.com/nudgesync/nudge/changefeed/change"
	"github.com/nudgesync/nudge/changefeed/pgoutput"
	"github.com/nudgesync/nudge/changefeed/value"
)

// Table routes the row events of one relation, as it was last streamed. It is not safe for concurrent
// use.
type Table struct {
	name    string
	owner   int   // column index
	key     []int // column indices, in key order
	columns []column
	full    bool // every update and delete carries the whole old row
	uneven  bool // though those of some partitions may not
	buf     []byte
}

type column struct {
	member []byte // `"name":`
	conv   value.Converter
	hidden bool
}

// ErrShape: a relation, or its replica identity, lacks a column that its rule needs.
var ErrShape = errors.New("the table does not have the configured columns")

// ErrUnknownType: a column's type is not known yet.
var ErrUnknownType = errors.New("a column is of a type that is not known yet")

// NewTable compiles a rule for a relation. types must know the relation's types. A streamed relation
// names its replica identity, which must have owner and key: without them an update or a delete would not say
// whose row is gone (P11). One that was made from the catalog has none.
func NewTable(rel *pgoutput.Rel, rule Rule, types *value.Types, opt value.Options) (*Table, error) {
	t := &Table{name: rel.Schema + "." + rel.Name, owner: -1, key: make([]int, len(rule.Key)), full: rel.Identity == 'f'}
	for i := range t.key {
		t.key[i] = -1
	}
	for i, c := range rel.Columns {
		if c.Name == rule.Owner {
			t.owner = i
		}
		for j, k := range rule.Key {
			if c.Name == k {
				t.key[j] = i
			}
		}
		t.columns = append(t.columns, column{
			member: append(value.AppendString(nil, []byte(c.Name)), ':'),
			conv:   types.Converter(c.Type, opt),
			hidden: rule.Hidden(c.Name),
		})
	}
	if t.owner < 0 {
		return nil, fmt.Errorf("%w: %s has no column %q", ErrShape, t.name, rule.Owner)
	}
	for j, k := range t.key {
		if k < 0 {
			return nil, fmt.Errorf("%w: %s has no column %q", ErrShape, t.name, rule.Key[j])
		}
	}
	for _, i := range append([]int{t.owner}, t.key...) {
		if c := rel.Columns[i]; rel.Identity != 0 && !t.full && !c.Identity {
			return nil, fmt.Errorf("%w: the replica identity of %s lacks %q", ErrShape, t.name, c.Name)
		}
	}
	return t, nil
}

// Signature tells one set of columns of a relation from another.
func Signature(rel *pgoutput.Rel) string {
	h := fnv.New64a()
	_, _ = fmt.Fprintf(h, "%d", rel.ID)
	for _, c := range rel.Columns {
		_, _ = fmt.Fprintf(h, "\x00%s\x00%d\x00%d", c.Name, c.Type, c.Modifier)
	}
	return strconv.FormatUint(h.Sum64(), 16)
}

// Name is "schema.name".
func (t *Table) Name() string { return t.name }

// Insert routes an inserted row.
func (t *Table) Insert(tx *Tx, row []pgoutput.Value) {
	if !t.wellFormed(tx, row) {
		return
	}
	if scope, ok := t.scope(row); ok {
		tx.add(event{change: t.upsert(scope, row), born: true})
	}
}

// Update routes an updated row. old is empty where the replica identity did not change.
func (t *Table) Update(tx *Tx, old, row []pgoutput.Value) {
	if !t.wellFormed(tx, row) || (t.full || len(old) > 0) && !t.identified(tx, old) {
		return
	}
	// A TOASTed value that did not change is taken from the old tuple, which has it under FULL (P11).
	hole := false // among the columns that travel
	for i := range row {
		if row[i].Kind != pgoutput.Unchanged {
			continue
		}
		if len(old) > 0 && old[i].Kind == pgoutput.Text {
			row[i] = old[i]
		} else if !t.columns[i].hidden {
			hole = true
		}
	}
	newScope, has := t.scope(row)
	oldScope, had := newScope, has
	moved := false
	if len(old) > 0 {
		oldScope, had = t.scope(old)
		moved = oldScope != newScope || had != has || !t.sameKey(old, row)
	}
	if moved && had {
		tx.add(event{change: t.delete(oldScope, old)})
	}
	switch {
	case !has:
	case !hole:
		tx.add(event{change: t.upsert(newScope, row), born: moved})
	case moved:
		// The new place would get a row with a hole in it.
		tx.add(event{change: change.Change{Scope: newScope, Table: t.name, Op: change.Reset, Reason: change.ReasonRepair}})
	default:
		c := t.upsert(newScope, row)
		c.Op = change.Patch
		tx.add(event{change: c})
	}
}

// Delete routes a deleted row.
func (t *Table) Delete(tx *Tx, old []pgoutput.Value) {
	if !t.identified(tx, old) {
		return
	}
	if scope, ok := t.scope(old); ok {
		tx.add(event{change: t.delete(scope, old)})
	}
}

// wellFormed guards against a tuple that does not match its relation: the table is reset, so that
// nothing is silently lost.
func (t *Table) wellFormed(tx *Tx, row []pgoutput.Value) bool {
	return len(row) == len(t.columns) || t.malformed(tx)
}

// identified guards likewise against an old tuple that does not say whose row it was, and which: that of
// a partition whose replica identity is not the partitioned table's (P12).
func (t *Table) identified(tx *Tx, old []pgoutput.Value) bool {
	if len(old) != len(t.columns) || old[t.owner].Kind == pgoutput.Unchanged || t.uneven && old[t.owner].Kind == pgoutput.Null {
		return t.malformed(tx)
	}
	for _, i := range t.key {
		if old[i].Kind == pgoutput.Unchanged {
			return t.malformed(tx)
		}
	}
	return true
}

func (t *Table) malformed(tx *Tx) bool {
	tx.Malformed++
	tx.Reset(t.name, change.ReasonRepair)
	return false
}

// scope is the row's owner; false if it has none (a null owner, or what can be no user).
func (t *Table) scope(row []pgoutput.Value) (change.Scope, bool) {
	v := row[t.owner]
	if v.Kind != pgoutput.Text || !change.ValidUser(string(v.Text)) {
		return "", false
	}
	return change.User(string(v.Text)), true
}

func (t *Table) sameKey(a, b []pgoutput.Value) bool {
	for _, k := range t.key {
		if a[k].Kind != b[k].Kind || string(a[k].Text) != string(b[k].Text) {
			return false
		}
	}
	return true
}

func (t *Table) upsert(scope change.Scope, row []pgoutput.Value) change.Change {
	return change.Change{Scope: scope, Table: t.name, Op: change.Upsert, Key: t.Key(row), Row: t.Row(row)}
}

func (t *Table) delete(scope change.Scope, old []pgoutput.Value) change.Change {
	return change.Change{Scope: scope, Table: t.name, Op: change.Delete, Key: t.Key(old)}
}

// Key is the JSON object of the row's key, in key order.
func (t *Table) Key(row []pgoutput.Value) []byte {
	b := append(t.buf[:0], '{')
	for _, i := range t.key {
		b = t.member(b, i, row[i])
	}
	return t.finish(b)
}

// Row is the JSON object of the row's columns, in the relation's order. Values that were not sent are
// left out.
func (t *Table) Row(row []pgoutput.Value) []byte {
	b := append(t.buf[:0], '{')
	for i := range row {
		if !t.columns[i].hidden {
			b = t.member(b, i, row[i])
		}
	}
	return t.finish(b)
}

// finish closes the object and copies it out of the shared buffer, at its size.
func (t *Table) finish(b []byte) []byte {
	t.buf = append(b, '}')
	return append([]byte(nil), t.buf...)
}

func (t *Table) member(b []byte, i int, v pgoutput.Value) []byte {
	if v.Kind == pgoutput.Unchanged {
		return b
	}
	if b[len(b)-1] != '{' {
		b = append(b, ',')
	}
	b = append(b, t.columns[i].member...)
	if v.Kind == pgoutput.Null {
		return append(b, "null"...)
	}
	out, err := t.columns[i].conv(b, v.Text)
	if err != nil {
		// A value that can't be represented is tagged; it never stops the feed (P19).
		return value.AppendPoison(b, v.Text)
	}
	return out
}
