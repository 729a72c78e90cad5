package pull_test

import (
	"testing"

	"github.com/nudgesync/nudge/server/pull"
)

// A cursor is fresh: it moves with the log, also if that has nothing for the device. Where the log did not move,
// the text that the device holds is as good as a new one, and spares it.
func TestCursorStaysWhereNothingMoved(t *testing.T) {
	r := newRig(t, plain, "public.notes")
	r.settle()
	a, _ := r.pull(pull.Request{User: "1"})
	for a.HasMore {
		a, _ = r.pull(pull.Request{User: "1", Since: a.Cursor})
	}

	stayed, moved := false, false
	for id := 10; !stayed || !moved; id++ {
		if id > 1000 {
			t.Fatalf("of 1000 pulls: one where nothing had moved: %v, one where something had: %v", stayed, moved)
		}
		if id%2 == 0 {
			r.exec(`insert into notes values ($1, 2, 'x')`, id)
			r.settle()
		}
		since := a.Cursor
		a, _ = r.pull(pull.Request{User: "1", Since: since})
		if !a.NothingNew {
			t.Fatalf("%+v", a)
		}
		still := a.Upto == a.Acked
		if still != (a.Cursor == since) {
			t.Fatalf("from %v to %v: the same text: %v", a.Acked, a.Upto, a.Cursor == since)
		}
		stayed, moved = stayed || still, moved || !still
	}
	if some, _ := r.pull(pull.Request{User: "1", Since: a.Cursor, Tables: []string{"public.notes"}}); some.Cursor == a.Cursor {
		t.Error("a cursor of all tables stands for one of some")
	}
}
