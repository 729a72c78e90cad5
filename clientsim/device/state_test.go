package device_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nudgesync/nudge/clientsim/device"
	"github.com/nudgesync/nudge/server/wire"
)

// ch reads a change in short: "upsert user:7 t 9 {\"a\":1}", "delete user:7 t 9",
// "reset user:7 t g", "sweep user:7 t g", "forget user:7".
func ch(short string) wire.Change {
	f := strings.SplitN(short, " ", 5)
	c := wire.Change{Op: f[0], Scope: f[1]}
	if len(f) > 2 {
		c.Table = f[2]
	}
	switch c.Op {
	case wire.OpReset, wire.OpSweep:
		c.Gen = f[3]
	case wire.OpForget:
	default:
		c.Key = json.RawMessage(`{"id":` + f[3] + `}`)
		if len(f) > 4 {
			c.Row = json.RawMessage(f[4])
		}
	}
	return c
}

func page(cursor string, more bool, shorts ...string) *wire.Page {
	p := &wire.Page{Cursor: cursor, HasMore: more}
	for _, s := range shorts {
		p.Changes = append(p.Changes, ch(s))
	}
	return p
}

// shows writes what the app sees, one "scope table key columns" a row.
func shows(s *device.State) []string {
	var out []string
	for _, r := range s.Snapshot() {
		out = append(out, fmt.Sprintf("%s %s %s %s", r.Scope, r.Table, r.Key, r.Columns))
	}
	return out
}

func apply(t *testing.T, s *device.State, pages ...*wire.Page) {
	t.Helper()
	for _, p := range pages {
		if err := s.Apply(s.Cursor(), p); err != nil {
			t.Fatal(err)
		}
	}
}

func TestApply(t *testing.T) {
	tests := []struct {
		name  string
		pages []*wire.Page
		want  []string
	}{
		{"upsert replaces", []*wire.Page{page("1", false, `upsert a t 1 {"x":1,"y":2}`, `upsert a t 1 {"x":3}`)}, []string{`a t {"id":1} {"x":3}`}},
		{"patch merges", []*wire.Page{page("1", false, `upsert a t 1 {"x":1,"y":2}`, `patch a t 1 {"x":3}`)}, []string{`a t {"id":1} {"x":3,"y":2}`}},
		{"patch sets null", []*wire.Page{page("1", false, `upsert a t 1 {"x":1}`, `patch a t 1 {"x":null}`)}, []string{`a t {"id":1} {"x":null}`}},
		{"A01 patch of an absent row", []*wire.Page{page("1", false, `patch a t 1 {"x":3}`)}, nil},
		{"A01 delete of an absent row", []*wire.Page{page("1", false, `delete a t 1`)}, nil},
		{"A01 patch after delete", []*wire.Page{page("1", false, `upsert a t 1 {}`, `delete a t 1`, `patch a t 1 {"x":3}`)}, nil},
		{"keys that mean the same", []*wire.Page{page("1", false, `upsert a t 10 {}`, `delete a t 1e1`)}, nil},
		{"keys beyond 2^53", []*wire.Page{page("1", false, `upsert a t 9007199254740993 {}`, `delete a t 9007199254740992`)}, []string{`a t {"id":9007199254740993} {}`}},
		{"A16 two scopes hold a row", []*wire.Page{page("1", false, `upsert a t 1 {}`, `upsert b t 1 {}`, `delete a t 1`)}, []string{`b t {"id":1} {}`}},
		{"forget drops one scope", []*wire.Page{page("1", false, `upsert a t 1 {}`, `upsert b t 1 {}`, `upsert a u 2 {}`, `forget a`)}, []string{`b t {"id":1} {}`}},
		{
			"reset and sweep",
			[]*wire.Page{
				page("1", false, `upsert a t 1 {}`, `upsert a t 2 {}`, `upsert a u 3 {}`),
				page("2", false, `reset a t g`, `upsert a t 2 {"x":1}`, `sweep a t g`),
			},
			[]string{`a t {"id":2} {"x":1}`, `a u {"id":3} {}`},
		},
		{
			"reset of everything",
			[]*wire.Page{page("1", false, `upsert a t 1 {}`, `upsert b u 2 {}`, `reset * * g`, `upsert b u 2 {}`, `sweep * * g`)},
			[]string{`b u {"id":2} {}`},
		},
		{
			"a patch does not lift a mark",
			[]*wire.Page{page("1", false, `upsert a t 1 {}`, `reset a t g`, `patch a t 1 {"x":1}`, `sweep a t g`)},
			nil,
		},
		{
			"a sweep in parts",
			[]*wire.Page{page("1", false, `upsert a t 1 {}`, `upsert a u 1 {}`, `reset * * g`, `sweep a t g`)},
			[]string{`a u {"id":1} {}`},
		},
		{
			"A20 a newer reset voids the older sweep",
			[]*wire.Page{page("1", false, `upsert a t 1 {}`, `upsert a u 1 {}`, `reset * * g1`, `reset a t g2`, `sweep * * g1`)},
			[]string{`a t {"id":1} {}`},
		},
		{
			"more to come shows the old",
			[]*wire.Page{page("1", false, `upsert a t 1 {"x":1}`), page("2", true, `upsert a t 1 {"x":2}`, `upsert a t 2 {}`)},
			[]string{`a t {"id":1} {"x":1}`},
		},
		{
			"no more shows all",
			[]*wire.Page{page("1", true, `upsert a t 1 {"x":1}`), page("2", true, `patch a t 1 {"x":2}`), page("3", false, `upsert a t 2 {}`)},
			[]string{`a t {"id":1} {"x":2}`, `a t {"id":2} {}`},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := device.NewState()
			for i, p := range tt.pages {
				apply(t, s, p)
				// A restart between any two pages changes nothing: marks and what is shown survive.
				b, err := json.Marshal(s.Save())
				if err != nil {
					t.Fatal(err)
				}
				var saved device.Saved
				if err := json.Unmarshal(b, &saved); err != nil {
					t.Fatal(err)
				}
				if s, err = device.Restore(saved); err != nil {
					t.Fatal(err)
				}
				if got := s.Cursor(); got != p.Cursor {
					t.Fatalf("page %d: cursor %q, want %q", i, got, p.Cursor)
				}
			}
			if diff := cmp.Diff(tt.want, shows(s)); diff != "" {
				t.Errorf("shown (-want +got):\n%s", diff)
			}
		})
	}
}

func TestMarksSurviveARestart(t *testing.T) {
	s := device.NewState()
	apply(t, s,
		page("1", false, `upsert a t 1 {}`, `upsert a t 2 {}`),
		page("2", true, `reset a t g`, `upsert a t 2 {}`))
	s, err := device.Restore(s.Save())
	if err != nil {
		t.Fatal(err)
	}
	if !s.MidPull() {
		t.Error("the restart forgot that a pull was under way")
	}
	apply(t, s, page("3", false, `sweep a t g`))
	if diff := cmp.Diff([]string{`a t {"id":2} {}`}, shows(s)); diff != "" {
		t.Errorf("shown (-want +got):\n%s", diff)
	}
}

func TestApplyIsAllOrNothing(t *testing.T) {
	bad := map[string]*wire.Page{
		"no cursor":        page("", false),
		"unknown op":       page("2", false, `upsert a t 2 {}`, `shout a t 3 {}`),
		"row no object":    page("2", false, `upsert a t 2 {}`, `upsert a t 3 [1]`),
		"row broken":       page("2", false, `upsert a t 2 {}`, `upsert a t 3 {"x":`),
		"row absent":       page("2", false, `delete a t 1`, `upsert a t 3`),
		"patch no object":  page("2", false, `delete a t 1`, `patch a t 1 7`),
		"key broken":       page("2", false, `delete a t 1`, `delete a t {`),
		"reset no gen":     page("2", false, `delete a t 1`, `reset a t `),
		"change no scope":  {Cursor: "2", Changes: []wire.Change{ch(`delete a t 1`), {Op: wire.OpForget}}},
		"upsert no table":  {Cursor: "2", Changes: []wire.Change{{Op: wire.OpUpsert, Scope: "a", Key: []byte(`{}`), Row: []byte(`{}`)}}},
		"delete no key":    {Cursor: "2", Changes: []wire.Change{{Op: wire.OpDelete, Scope: "a", Table: "t"}}},
		"more, and broken": {Cursor: "2", HasMore: true, Changes: []wire.Change{{Op: wire.OpDelete, Scope: "a", Table: "t"}}},
	}
	for name, p := range bad {
		t.Run(name, func(t *testing.T) {
			s := device.NewState()
			apply(t, s, page("1", false, `upsert a t 1 {"x":1}`))
			before := s.Save()
			if err := s.Apply("1", p); err == nil {
				t.Error("taken, want an error")
			}
			if diff := cmp.Diff(before, s.Save()); diff != "" {
				t.Errorf("a refused page changed something:\n%s", diff)
			}
		})
	}
}

func TestAPageOfAnotherCursorIsRefused(t *testing.T) {
	s := device.NewState()
	apply(t, s, page("1", false, `upsert a t 1 {"x":1}`), page("2", false, `upsert a t 1 {"x":2}`))
	if err := s.Apply("1", page("1b", false, `upsert a t 1 {"x":0}`)); !errors.Is(err, device.ErrMoved) {
		t.Fatalf("error %v, want ErrMoved", err)
	}
	if diff := cmp.Diff([]string{`a t {"id":1} {"x":2}`}, shows(s)); diff != "" {
		t.Errorf("shown (-want +got):\n%s", diff)
	}
}

func TestRefresh(t *testing.T) {
	s := device.NewState()
	s.Refresh("", "x")
	if s.Cursor() != "" {
		t.Error("a device that has nothing took a cursor: it would never get its rows")
	}
	apply(t, s, page("1", false))
	s.Refresh("0", "x")
	if s.Cursor() != "1" {
		t.Error("took a cursor that belongs to another one")
	}
	s.Refresh("1", "2")
	if s.Cursor() != "2" {
		t.Error("did not take a fresh cursor")
	}
	apply(t, s, page("3", true))
	s.Refresh("3", "4")
	if s.Cursor() != "3" {
		t.Error("skipped the pages to come")
	}
}

func TestEraseAndForget(t *testing.T) {
	s := device.NewState()
	apply(t, s, page("1", false, `upsert a t 1 {}`), page("2", true, `upsert a t 2 {}`))
	s.Forget()
	if s.Cursor() != "" || len(shows(s)) != 1 {
		t.Errorf("Forget left cursor %q and rows %v, want none and the row", s.Cursor(), shows(s))
	}
	s.Erase()
	if s.Cursor() != "" || s.MidPull() || len(shows(s)) != 0 {
		t.Errorf("Erase left cursor %q and rows %v", s.Cursor(), shows(s))
	}
}

func TestRestoreRefuses(t *testing.T) {
	for _, row := range []device.SavedRow{
		{Scope: "a", Table: "t", Key: []byte(`1`), Columns: []byte(`{}`)},
		{Scope: "a", Table: "t", Key: []byte(`{}`), Columns: []byte(`{`)},
	} {
		for _, saved := range []device.Saved{{Rows: []device.SavedRow{row}}, {MidPull: true, Shown: []device.SavedRow{row}}} {
			if _, err := device.Restore(saved); err == nil {
				t.Errorf("%+v was restored", saved)
			}
		}
	}
}

func TestCanonical(t *testing.T) {
	same := [][]string{
		{`{"a":1,"b":[2,3]}`, ` { "b" : [ 2 , 3 ] , "a" : 1 } `, `{"b":[2.0,0.3e1],"a":10e-1}`},
		{`0`, `-0`, `0.000`, `0e99`},
		{`-1.5`, `-15e-1`, `-0.15E+1`},
		{`9007199254740993`},
		{`9007199254740992`},
		{`"é<&>"`, `"\u00e9\u003c&>"`},
		{`1e400`, `10e399`},
		{`1e99999999999`},
		{`[1,2]`},
		{`[2,1]`},
		{`"1"`},
		{`1`},
		{`null`},
		{`true`},
		{`{}`},
		{`[]`},
	}
	seen := map[string]int{}
	for i, group := range same {
		for _, doc := range group {
			c, err := device.Canonical([]byte(doc))
			if err != nil {
				t.Fatalf("%s: %v", doc, err)
			}
			if first, ok := seen[c]; ok && first != i {
				t.Errorf("%s has the form of %v: %s", doc, same[first], c)
			}
			seen[c] = i
		}
	}
	if len(seen) != len(same) {
		t.Errorf("%d forms for %d values", len(seen), len(same))
	}
	for _, doc := range []string{``, `{`, `1 2`, `{} x`} {
		if c, err := device.Canonical([]byte(doc)); err == nil {
			t.Errorf("%q became %s, want an error", doc, c)
		}
	}
}
