package pull_test

import (
	"context"
	"encoding/json"
	"errors"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/nudgesync/nudge/changefeed/change"
	"github.com/nudgesync/nudge/changefeed/changelog"
	"github.com/nudgesync/nudge/changefeed/snapshot"
	"github.com/nudgesync/nudge/server/admit"
	"github.com/nudgesync/nudge/server/pull"
	"github.com/nudgesync/nudge/server/wire"
)

func wantRefused(t *testing.T, what string, err error, code wire.Code) {
	t.Helper()
	var p *wire.Problem
	if !errors.As(err, &p) || p.Code != code || p.RetryAfterMS < 1000 {
		t.Errorf("%s: %v, want %s", what, err, code)
	}
}

// I11: whatever of a pull touches the database takes a place first; what memory answers does not.
func TestI11NothingPassesTheQueue(t *testing.T) {
	metrics := prometheus.NewRegistry()
	m, err := admit.NewMetrics(metrics)
	if err != nil {
		t.Fatal(err)
	}
	q := queue(t, admit.Config{Places: 1, Wait: 10 * time.Millisecond, UserWaiting: 1, Metrics: m})
	r := newRig(t, plain, "public.notes")
	d := r.device("1")
	d.converge("public.notes")
	before := d.cursor
	r.exec(`update notes set n = 1`)
	r.settle()
	d.sync()
	r.tailBytes = 1 // of the next node: nothing is in memory but where the log stands
	node := r.deafNode(func(c *pull.Config) { c.Queue = q })

	leave, err := q.Enter(t.Context(), admit.Foreground, "")
	if err != nil {
		t.Fatal(err)
	}
	ask := func(since string, woken bool) (*pull.Answer, error) {
		return node.Pull(t.Context(), pull.Request{User: "1", Device: "d", Since: since, Woken: woken})
	}
	if a, err := ask(d.cursor, false); err != nil || !a.NothingNew {
		t.Errorf("from memory: %+v, %v", a, err)
	}
	_, err = ask(before, false)
	wantRefused(t, "from the log", err, wire.Overloaded)
	_, err = ask(before, true)
	wantRefused(t, "from the log, woken", err, wire.Overloaded)
	_, err = ask("", true)
	wantRefused(t, "a snapshot", err, wire.Overloaded)
	for class := range 3 {
		if n := ofClass(t, metrics, "nudge_queue_refused_total", admit.Class(class).String()); n != 1 {
			t.Errorf("%v refusals of class %v", n, admit.Class(class))
		}
	}
	leave()
	if a, err := ask(before, false); err != nil || a.Source != "log" || a.Rows != 5 {
		t.Errorf("afterwards: %+v, %v", a, err)
	}
	if a, err := ask("", false); err != nil || a.Source != "snapshot" {
		t.Errorf("afterwards: %+v, %v", a, err)
	}
}

// Many who wait for one heartbeat that gets no place are refused as many: each has a time of its own to come back.
func TestRefusedHeartbeatsDoNotHerd(t *testing.T) {
	metrics := prometheus.NewRegistry()
	m, err := admit.NewMetrics(metrics)
	if err != nil {
		t.Fatal(err)
	}
	q := queue(t, admit.Config{Places: 1, Wait: 100 * time.Millisecond, Metrics: m})
	r := newRig(t, plain, "public.notes")
	r.device("1").converge("public.notes")
	node := r.deafNode(func(c *pull.Config) { c.Queue, c.PageRows = q, 500 })
	r.exec(`update notes set n = 1`)
	first, err := node.Pull(t.Context(), pull.Request{User: "1", Device: "d"})
	if err != nil || !first.HasMore {
		t.Fatalf("%+v, %v", first, err) // its floor is past what this node knows
	}
	before := ofClass(t, metrics, "nudge_queue_refused_total", "foreground")
	leave, err := q.Enter(t.Context(), admit.Foreground, "")
	if err != nil {
		t.Fatal(err)
	}
	defer leave()
	const devices = 16
	var all sync.WaitGroup
	for range devices {
		all.Go(func() {
			_, err := node.Pull(t.Context(), pull.Request{User: "1", Device: "d", Since: first.Cursor})
			wantRefused(t, "without a heartbeat", err, wire.Overloaded)
		})
	}
	all.Wait()
	if n := ofClass(t, metrics, "nudge_queue_refused_total", "foreground") - before; n != devices {
		t.Errorf("%v times to come back for %d devices", n, devices)
	}
}

// ofClass is the sum of a metric's values of a class.
func ofClass(t *testing.T, r *prometheus.Registry, name, class string) (n float64) {
	t.Helper()
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == name && m.GetLabel()[0].GetValue() == class {
				n += m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return n
}

// hooked calls a function before a page is read.
type hooked struct {
	pull.Rows
	before func()
}

func (h hooked) Page(ctx context.Context, table, user string, after []string, log snapshot.Standing, maxRows, maxBytes int) (snapshot.Page, error) {
	h.before()
	return h.Rows.Page(ctx, table, user, after, log, maxRows, maxBytes)
}

// Rows that were read are not thrown away because there is no place for what follows them: the page goes out, and
// says that there is more.
func TestRowsAreKept(t *testing.T) {
	r := newRig(t, plain+`create table other (id int)`, "public.notes")
	d := r.device("1")
	r.settle()
	metrics := prometheus.NewRegistry()
	m, err := admit.NewMetrics(metrics)
	if err != nil {
		t.Fatal(err)
	}
	q := queue(t, admit.Config{Places: 1, Metrics: m})
	var taken func()
	entered := make(chan error, 1)
	node := r.deafNode(func(c *pull.Config) {
		c.Queue, c.PageRows = q, 500
		c.Rows = hooked{c.Rows, func() {
			r.exec(`insert into other values (1)`) // the page's floor is above what this node has heard of
			go func() {
				leave, err := q.Enter(context.WithoutCancel(t.Context()), admit.Foreground, "")
				taken = leave
				entered <- err
			}()
			for ofClass(t, metrics, "nudge_queue_waiting", "foreground") == 0 { // it is next
				runtime.Gosched()
			}
		}}
	})
	a, err := node.Pull(t.Context(), pull.Request{User: "1", Device: "d"})
	if err != nil || !a.HasMore || a.Rows != 7 { // reset, five rows, sweep
		t.Fatalf("%+v, %v", a, err)
	}
	var changes []wire.Change
	if err := json.Unmarshal(slices.Concat([]byte("["), a.Changes, []byte("]")), &changes); err != nil {
		t.Fatal(err)
	}
	for _, c := range changes {
		d.apply(c)
	}
	if err := <-entered; err != nil {
		t.Fatal(err)
	}
	_, err = node.Pull(t.Context(), pull.Request{User: "1", Device: "d", Since: a.Cursor})
	wantRefused(t, "what follows, alone", err, wire.Overloaded)
	taken()
	d.cursor = a.Cursor
	d.converge("public.notes")
	if slices.Contains(d.ops, "upsert") {
		t.Errorf("rows came twice: %v", d.ops)
	}
}

// counted counts reads of the log.
type counted struct {
	*changelog.Log
	reads atomic.Int32
}

func (c *counted) Read(ctx context.Context, scopes []change.Scope, after change.Position, maxRows, maxBytes int) (changelog.Page, error) {
	c.reads.Add(1)
	return c.Log.Read(ctx, scopes, after, maxRows, maxBytes)
}

// Of a herd of expired cursors the first asks the log, and the others start over at once.
func TestExpiredCursorsAskOnce(t *testing.T) {
	r := newRig(t, plain, "public.notes")
	d := r.device("1")
	d.converge("public.notes")
	r.exec(`update notes set n = 1`)
	r.settle()
	if err := r.log.Trim(t.Context()); err != nil {
		t.Fatal(err)
	}
	log := &counted{Log: r.log}
	r.tailBytes = 1
	node := r.deafNode(func(c *pull.Config) { c.Log, c.Queue = log, queue(t, admit.Config{Places: 1}) })
	for range 5 {
		a, err := node.Pull(t.Context(), pull.Request{User: "1", Device: "d", Since: d.cursor})
		if err != nil || a.Source != "snapshot" {
			t.Fatalf("%+v, %v", a, err)
		}
	}
	if n := log.reads.Load(); n != 1 {
		t.Errorf("the log was asked %d times", n)
	}
}
