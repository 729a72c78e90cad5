package device_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/big"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nudgesync/nudge/clientsim/device"
	"github.com/nudgesync/nudge/server/wire"
)

// model is the device's rules once more, in the plainest way: what is marked stands beside the rows,
// and what is shown is a copy.
type model struct {
	rows, shown map[string]string // "scope table key" → columns
	marks       map[string]string // → gen
}

func (m *model) take(c wire.Change) {
	id := fmt.Sprintf("%s %s %s", c.Scope, c.Table, c.Key)
	each := func(do func(id string)) {
		for other := range maps.Clone(m.rows) {
			var scope, table, key string
			_, _ = fmt.Sscan(other, &scope, &table, &key)
			if (c.Scope == "*" || c.Scope == scope) && (c.Op == wire.OpForget || c.Table == "*" || c.Table == table) {
				do(other)
			}
		}
	}
	drop := func(id string) { delete(m.rows, id); delete(m.marks, id) }
	switch c.Op {
	case wire.OpUpsert:
		m.rows[id] = string(c.Row)
		delete(m.marks, id)
	case wire.OpPatch:
		if _, ok := m.rows[id]; ok {
			m.rows[id] = string(c.Row) // every row here has the same one column
		}
	case wire.OpDelete:
		drop(id)
	case wire.OpReset:
		each(func(id string) { m.marks[id] = c.Gen })
	case wire.OpSweep:
		each(func(id string) {
			if m.marks[id] == c.Gen {
				drop(id)
			}
		})
	case wire.OpForget:
		each(drop)
	}
}

// FuzzApply feeds random pages, three bytes a change, and holds the state against the model after
// each page, through a restart.
func FuzzApply(f *testing.F) {
	f.Add([]byte("\x00\x00\x01\x00\x01\x02\x03\x00\x00\x00\x01\x09\x04\x00\x00"))
	f.Add([]byte{0, 1, 1, 0, 2, 2, 3, 0x8f, 1, 3, 1, 2, 4, 0x0f, 1, 5, 1, 0})
	f.Fuzz(func(t *testing.T, data []byte) {
		ops := []string{wire.OpUpsert, wire.OpPatch, wire.OpDelete, wire.OpReset, wire.OpSweep, wire.OpForget}
		scopes, tables := []string{"a", "b", "*"}, []string{"t", "u", "*"}
		s := device.NewState()
		m := &model{rows: map[string]string{}, shown: map[string]string{}, marks: map[string]string{}}
		var p wire.Page
		for i := 0; i+3 <= len(data); i += 3 {
			op, where, what := ops[int(data[i])%len(ops)], int(data[i+1]), int(data[i+2])
			c := wire.Change{Op: op, Scope: scopes[where%2], Table: tables[where/2%2]}
			switch op {
			case wire.OpReset, wire.OpSweep:
				c.Scope, c.Table, c.Gen = scopes[where%3], tables[where/3%3], fmt.Sprint("g", what%3)
			case wire.OpForget:
				c.Table = ""
			default:
				c.Key = fmt.Appendf(nil, `{"id":%d}`, what%4)
				c.Row = fmt.Appendf(nil, `{"v":%d}`, what/4)
			}
			p.Changes = append(p.Changes, c)
			if data[i]&0x40 == 0 && i+6 <= len(data) {
				continue // the page goes on
			}
			p.Cursor, p.HasMore = fmt.Sprint(i), data[i]&0x80 != 0
			broken := p
			broken.Changes = append(broken.Changes[:len(broken.Changes):len(broken.Changes)], wire.Change{Op: "?"})
			before := s.Save()
			if s.Apply(s.Cursor(), &broken) == nil || s.Apply("elsewhere", &p) == nil {
				t.Fatal("took a page that it must refuse")
			}
			if diff := cmp.Diff(before, s.Save()); diff != "" {
				t.Fatalf("a refused page changed something:\n%s", diff)
			}
			if err := s.Apply(s.Cursor(), &p); err != nil {
				t.Fatal(err)
			}
			for _, c := range p.Changes {
				m.take(c)
			}
			if !p.HasMore {
				m.shown = maps.Clone(m.rows)
			}
			restored, err := device.Restore(s.Save())
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(s.Save(), restored.Save()); diff != "" {
				t.Fatalf("a restart changed something:\n%s", diff)
			}
			s = restored
			got := map[string]string{}
			for _, r := range s.Snapshot() {
				got[fmt.Sprintf("%s %s %s", r.Scope, r.Table, r.Key)] = string(r.Columns)
			}
			if diff := cmp.Diff(m.shown, got); diff != "" {
				t.Fatalf("shown (-want +got):\n%s", diff)
			}
			p = wire.Page{}
		}
	})
}

// FuzzCanonical holds the form to its promises: it is JSON, it is its own form, and numbers keep
// their exact value.
func FuzzCanonical(f *testing.F) {
	for _, s := range []string{`{"b":1.50,"a":[-0,1e3]}`, `12345678901234567890.000`, `-1e-7`, `"\u2028"`, `1e31`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, doc string) {
		c, err := device.Canonical([]byte(doc))
		if err != nil {
			return
		}
		if !json.Valid([]byte(c)) {
			t.Fatalf("%q became %q, which is no JSON", doc, c)
		}
		if again, err := device.Canonical([]byte(c)); err != nil || again != c {
			t.Fatalf("the form of %q is %q (%v)", c, again, err)
		}
		var n json.Number
		if len(doc) < 40 && json.Unmarshal([]byte(doc), &n) == nil && n != "" && doc[0] != '"' {
			var exp big.Float
			if v, _, err := exp.Parse(string(n), 10); err != nil || v.MantExp(nil) > 4000 || v.MantExp(nil) < -4000 {
				return // too long to write out
			}
			before, ok1 := new(big.Rat).SetString(string(n))
			after, ok2 := new(big.Rat).SetString(c)
			if !ok1 || !ok2 || before.Cmp(after) != 0 {
				t.Fatalf("%s became %s", n, c)
			}
		}
	})
}
