package pull

import (
	"slices"

	"github.com/nudgesync/nudge/changefeed/change"
	"github.com/nudgesync/nudge/changefeed/value"
	"github.com/nudgesync/nudge/server/wire"
)

// item is one element of a page: a row's change, or a control (reset, sweep), which nothing folds across.
type item struct {
	change  change.Change
	control string // wire.OpReset, wire.OpSweep, or ""
	gen     string
}

func (p *page) add(it item) {
	p.items = append(p.items, it)
	p.rows--
	p.bytes -= len(it.change.Key) + len(it.change.Row) + 64
}

// addReset and addSweep add the control for each of the tables; "*" becomes the asked tables if the
// device asked for some, and a table it did not ask for is left out.
func (p *page) addReset(scope change.Scope, tables []string, gen string, why change.Reason, asked []string) {
	for _, t := range p.named(tables, asked) {
		p.items = append(p.items, item{control: wire.OpReset, gen: gen, change: change.Change{Scope: scope, Table: t, Reason: why}})
	}
}

func (p *page) addSweep(scope change.Scope, tables []string, gen string, asked []string) {
	for _, t := range p.named(tables, asked) {
		p.items = append(p.items, item{control: wire.OpSweep, gen: gen, change: change.Change{Scope: scope, Table: t}})
	}
}

func (p *page) named(tables, asked []string) []string {
	if len(asked) == 0 {
		return tables
	}
	if len(tables) == 1 && tables[0] == "*" {
		return asked
	}
	var out []string
	for _, t := range tables {
		if slices.Contains(asked, t) {
			out = append(out, t)
		}
	}
	return out
}

type rowID struct {
	scope change.Scope
	table string
	key   string
}

// fold leaves one change a row between two controls: patches merge, and whatever is followed by a delete
// is that delete, never nothing: the device may hold the row from a snapshot (A1). Entries name their
// scope, so a row deleted in one scope stays in another (A16).
func (p *page) fold() []item {
	last := make(map[rowID]int, len(p.items))
	out := p.items[:0]
	for _, it := range p.items {
		if it.control != "" {
			clear(last)
			out = append(out, it)
			continue
		}
		id := rowID{it.change.Scope, it.change.Table, string(it.change.Key)}
		i, seen := last[id]
		if !seen {
			last[id] = len(out)
			out = append(out, it)
			continue
		}
		prev := &out[i].change
		if it.change.Op == change.Patch {
			if prev.Op == change.Delete {
				continue // a patch of an absent row
			}
			it.change.Op = prev.Op
			it.change.Row = change.MergeRow(prev.Row, it.change.Row)
		}
		*prev = it.change
	}
	return out
}

// encode folds the page and joins its elements, from the bytes as they are stored.
func (p *page) encode() ([]byte, int) {
	items := p.items
	if len(items) > 1 {
		items = p.fold()
	}
	size := 0
	for i := range items {
		size += items[i].change.Bytes()
	}
	b := make([]byte, 0, size)
	for i := range items {
		if i > 0 {
			b = append(b, ',')
		}
		b = items[i].append(b)
	}
	return b, len(items)
}

func (it *item) append(b []byte) []byte {
	c := &it.change
	op := it.control
	if op == "" {
		op = c.Op.String()
	}
	b = append(append(b, `{"op":"`...), op...)
	b = value.AppendString(append(b, `","scope":`...), []byte(c.Scope))
	b = value.AppendString(append(b, `,"table":`...), []byte(c.Table))
	if c.Key != nil {
		b = append(append(b, `,"key":`...), c.Key...)
	}
	if c.Row != nil {
		b = append(append(b, `,"row":`...), c.Row...)
	}
	if it.control != "" {
		b = value.AppendString(append(b, `,"gen":`...), []byte(it.gen))
	}
	if it.control == wire.OpReset {
		b = value.AppendString(append(b, `,"reason":`...), []byte(c.Reason))
	}
	return append(b, '}')
}
