package pull_test

import (
	"cmp"
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nudgesync/nudge/changefeed/snapshot"
	"github.com/nudgesync/nudge/changefeed/tail"
	"github.com/nudgesync/nudge/server/pull"
)

// A5, A13: a cursor keeps its snapshot's floor until it has passed it itself. A slower node, which the device
// asks next, must not call it complete because a faster one was further.
func TestA05FloorOutlivesANode(t *testing.T) {
	r := newRig(t, schema+`insert into notes values (1, 1, 'x'), (2, 1, 'x')`, "public.notes")
	d := r.device("1")
	take := d.take
	take(r.engine, 1) // row 1, as it was
	r.exec(`insert into notes values (100, 1, 'new', 1)`)
	r.settle()
	slow := r.deafNode()
	r.exec(`update notes set n = 9`)
	r.settle()
	// Rows 2 and 100, as they are, and the replay's first change.
	if a := take(r.engine, 3); !a.HasMore || d.ops[len(d.ops)-2] != "sweep" {
		t.Fatalf("more %v, ops %v", a.HasMore, d.ops)
	}
	if a := take(slow, 7); !a.HasMore {
		t.Errorf("a node below the floor calls the device complete: %v", d.rows)
	} else if a.Source == "tail" {
		t.Error("a pull that waited for the log counts as one from memory")
	}
	d.sync()
	d.expect("public.notes")
}

// A13, I5: what a node leaves out because a reset follows is missing until that reset, which a slower node, asked
// next, has not come to.
func TestA13SlowNodeBeforeAReset(t *testing.T) {
	for name, sql := range map[string]string{
		"columns": `alter table notes add column extra int default 7; update notes set n = 3 where id = 2`,
		"emptied": `truncate notes; insert into notes values (3, 1, 'y')`,
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, schema+`insert into notes values (1, 1, 'x'), (2, 1, 'x')`, "public.notes", "public.tags")
			d, other := r.device("1"), r.device("1")
			other.tables = []string{"public.tags"}
			d.sync()
			other.sync()
			r.exec(`update notes set n = 9 where id = 1`)
			r.exec(`insert into tags values (1, 'a'), (1, 'b')`)
			r.settle()
			slow := r.deafNode()
			r.exec(sql)
			r.settle()
			if d.take(r.engine, 1); len(d.rows) != 2 || strings.Contains(fmt.Sprint(d.rows), "9") {
				t.Fatalf("the rest of this test shows nothing: rows %v", d.rows)
			}
			for range 5 {
				if a := d.take(slow, 7); !a.HasMore {
					t.Fatalf("a node below the reset calls the device complete: %v", d.rows)
				}
			}
			d.sync()
			d.expect("public.notes", "public.tags")
			// Whom the reset does not concern need not wait for it.
			other.take(r.engine, 1)
			if a := other.take(slow, 7); a.HasMore || len(other.rows) != 2 {
				t.Errorf("more %v, rows %v", a.HasMore, other.rows)
			}
		})
	}
}

// take pulls one page from a node.
func (d *device) take(e *pull.Engine, limit int) *pull.Answer {
	d.rig.t.Helper()
	first := d.rig.engine
	defer func() { d.rig.engine = first }()
	d.rig.engine = e
	a, page := d.rig.pull(pull.Request{User: d.user, Device: "d", Since: d.cursor, Tables: d.tables, Limit: limit})
	for _, c := range page.Changes {
		d.apply(c)
	}
	d.cursor = page.Cursor
	return a
}

// deafNode is a second node that stands where the log is now and hears no frame.
func (r *rig) deafNode(change ...func(*pull.Config)) *pull.Engine {
	r.t.Helper()
	node, err := tail.New(tail.Config{Log: tailLog{r.log}, MaxBytes: cmp.Or(r.tailBytes, 1<<20), Stale: time.Hour, Logger: testLogger()})
	if err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- node.Run(ctx) }()
	r.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			r.t.Errorf("tail: %v", err)
		}
	})
	head, _ := r.tail.Head()
	if err := node.Wait(r.t.Context(), head.Next); err != nil {
		r.t.Fatal(err)
	}
	rows, err := snapshot.New(snapshot.Config{Pool: r.db, Routing: r.routing, Publication: "nudge", Logger: testLogger()})
	if err != nil {
		r.t.Fatal(err)
	}
	key, err := r.log.Key(r.t.Context(), "cursor")
	if err != nil {
		r.t.Fatal(err)
	}
	cfg := pull.Config{
		Tail: node, Log: r.log, Rows: rows, Queue: r.queue, Routing: r.routing, Key: key, Logger: testLogger(), PageRows: 7, Patience: 50 * time.Millisecond,
	}
	for _, f := range change {
		f(&cfg)
	}
	e, err := pull.New(cfg)
	if err != nil {
		r.t.Fatal(err)
	}
	return e
}
