package pull_test

import (
	"slices"
	"testing"
)

// A1: what a page of a snapshot has shown may be gone by the time its replay comes there. Inserted and deleted
// within one page of the log it folds to the delete, never to nothing: the device holds the row.
func TestA01InsertAndDeleteFoldToTheDelete(t *testing.T) {
	r := newRig(t, schema+`insert into notes select i, 1, 'x' from generate_series(1, 5) i`, "public.notes")
	d := r.device("1")
	d.take(r.engine, 2) // rows 1 and 2
	r.exec(`insert into notes values (4000, 1, 'shown')`)
	d.take(r.engine, 7)
	if d.rows[`user:1 public.notes {"id":4000}`] == "" {
		t.Fatalf("the rest of this test shows nothing: %v", d.rows)
	}
	before := d.cursor
	for _, sql := range []string{`delete from notes where id = 4000`, `insert into notes values (4000, 1, 'again')`, `delete from notes where id = 4000`} {
		r.exec(sql)
	}
	r.settle()
	d.sync()
	d.expect("public.notes")
	// A device that died after it applied the page, and before it saved the cursor.
	d.cursor = before
	d.sync()
	d.expect("public.notes")
	if !slices.Contains(d.ops, "delete") {
		t.Errorf("ops %v", d.ops)
	}
}

// A20: a reset that is met during a replay starts its snapshot where it stands: the sweep follows it, and the
// replay goes on from there. A newer reset takes the marks over from an older one, whose sweep then takes nothing.
func TestA20ResetWithinAReplay(t *testing.T) {
	r := newRig(t, schema+`insert into notes select i, 1, 'x' from generate_series(1, 20) i; insert into tags values (1, 'a', 'x')`, "public.notes", "public.tags")
	d := r.device("1")
	d.take(r.engine, 3) // in the midst of its first snapshot
	r.exec(`update notes set n = 1 where id = 2`)
	r.exec(`alter table notes add column mood text default 'calm'; update notes set n = 2 where id = 3`)
	r.exec(`delete from notes where id in (1, 19)`)
	r.settle()
	for more := true; more && !slices.Contains(d.ops, "reset schema"); {
		more = d.take(r.engine, 3).HasMore
	}
	if !slices.Contains(d.ops, "reset schema") {
		t.Fatalf("the first snapshot met no reset: %v", d.ops)
	}
	// And another one, in the midst of that.
	r.exec(`alter table notes add column tempo int default 3; update notes set n = 4 where id = 4`)
	r.exec(`delete from notes where id = 18`)
	r.settle()
	d.page = 3
	d.sync()
	d.expect("public.notes", "public.tags")
	if len(d.marks) > 0 {
		t.Errorf("still marked: %v", d.marks)
	}
}

// A20: a snapshot whose replay is bound to fail, for the log no longer reaches back to its start, starts again at
// once, on whatever node it goes on.
func TestA20SnapshotPastTheHorizon(t *testing.T) {
	r := newRig(t, schema+`insert into notes select i, 1, 'x' from generate_series(1, 20) i`, "public.notes")
	d := r.device("1")
	d.take(r.engine, 3)
	r.exec(`delete from notes where id = 2`)
	r.settle()
	if err := r.log.Trim(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.stop()
	r.start(nil)
	if d.take(r.engine, 3); d.ops[len(d.ops)-4] != "reset expired" {
		t.Errorf("ops %v", d.ops)
	}
	d.sync()
	d.expect("public.notes")
}
