package device_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/nudgesync/nudge/changefeed/change"
	"github.com/nudgesync/nudge/changefeed/changelog"
	"github.com/nudgesync/nudge/internal/devpg/pgtest"
	"github.com/nudgesync/nudge/migrations"
	"github.com/nudgesync/nudge/notify/device"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

const grace = 8 * time.Second

// tb is a test, or a run of a property's.
type tb interface {
	Helper()
	Context() context.Context
	Fatal(args ...any)
	Fatalf(format string, args ...any)
}

// rig is a log with a writer, and the devices of it.
type rig struct {
	dsn   string
	pool  *pgxpool.Pool
	log   *changelog.Log
	w     *changelog.Writer
	epoch change.Epoch
	lsn   change.LSN // the log's position
	cfg   device.Config

	store  *device.Store
	marker *device.Marker
	inbox  *device.Inbox

	from, to time.Time // the database's clock around what was done last
}

func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{dsn: pgtest.Database(t)}
	if _, err := migrations.Up(t.Context(), r.dsn); err != nil {
		t.Fatal(err)
	}
	r.pool = pgtest.Pool(t, r.dsn)
	r.log = changelog.Open(r.pool, "nudge")
	keys, err := device.NewKeys(make([]byte, device.KeySize))
	if err != nil {
		t.Fatal(err)
	}
	r.cfg = device.Config{
		Pool: r.pool, Slot: "nudge", Keys: keys, Grace: grace, Log: slog.New(slog.DiscardHandler),
		Urgency: map[string]device.Urgency{"public.lazy": device.Lazy, "public.now": device.Now},
		Alerts:  []string{"loud"},
	}
	r.store = device.NewStore(r.cfg)
	r.marker, r.inbox = r.store.NewMarker(nil), r.store.NewInbox()
	r.begin(t, 1000)
	return r
}

// begin starts an epoch.
func (r *rig) begin(t tb, at change.LSN) {
	t.Helper()
	w, err := r.log.Writer(t.Context(), "test", time.Hour)
	if err != nil && !errors.Is(err, changelog.ErrNoEpoch) {
		t.Fatal(err)
	}
	r.epoch, r.lsn = r.epoch.Next(), at
	state := changelog.State{Epoch: r.epoch, Position: at, SystemID: "1", Timeline: 1, Database: "app", Config: []byte("{}"), Reason: "first"}
	if err := w.NewEpoch(t.Context(), state); err != nil {
		t.Fatal(err)
	}
	r.w = w
}

// row is one change of a commit.
type row struct {
	scope  change.Scope
	origin string
	table  string
}

// of is a change of a user's by a device.
func of(user, origin string) row {
	return row{scope: change.User(user), origin: origin, table: "public.t"}
}

func everybody() row { return row{scope: change.All, table: "*"} }

// commit appends one batch, a transaction a row, and returns the positions of its changes.
func (r *rig) commit(t tb, rows ...row) []change.Position {
	t.Helper()
	var b changelog.Batch
	var at []change.Position
	for _, x := range rows {
		p := change.Position{Epoch: r.epoch, LSN: r.lsn, Seq: 1}
		c := change.Change{Pos: p, Scope: x.scope, Table: x.table, Op: change.Upsert, Key: []byte(`{}`), Row: []byte(`{}`), Origin: x.origin, CommittedAt: time.UnixMicro(1).UTC()}
		if x.scope == change.All {
			c.Op, c.Key, c.Row, c.Reason = change.Reset, nil, nil, change.ReasonTruncate
		}
		b.Changes = append(b.Changes, c)
		at = append(at, p)
		r.lsn += 10
	}
	b.Next = r.lsn
	if err := r.w.Append(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	return at
}

// head is the log's position.
func (r *rig) head() change.Position { return change.Position{Epoch: r.epoch, LSN: r.lsn} }

// phone is a registration of a phone that is up to date.
func (r *rig) phone(user, id string) device.Registration {
	return device.Registration{
		User: user, Device: id, Road: device.RoadAPNs, Target: device.Target{Kind: "token", Value: "token of " + id},
		App: "app", Environment: "production", AppVersion: "1.0", Cursor: r.head(),
	}
}

func (r *rig) register(t tb, reg device.Registration) device.Device {
	t.Helper()
	var d device.Device
	r.timed(t, func() {
		var err error
		if d, err = r.store.Register(t.Context(), reg); err != nil {
			t.Fatal(err)
		}
	})
	return d
}

// mark passes until there is nothing left to mark.
func (r *rig) mark(t tb) {
	t.Helper()
	r.timed(t, func() {
		for {
			p, err := r.marker.Mark(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if !p.More {
				return
			}
		}
	})
}

func (r *rig) heard(t tb, user, id string, events ...device.Event) {
	t.Helper()
	r.timed(t, func() {
		for _, e := range events {
			r.inbox.Heard(user, id, e)
		}
		if err := r.inbox.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
}

func (r *rig) claim(t tb, want ...string) map[string]device.Due {
	t.Helper()
	out := map[string]device.Due{}
	for _, road := range []string{device.RoadAPNs, device.RoadFCM, device.RoadWebPush} {
		got, err := r.store.Claim(t.Context(), device.Selection{Road: road, Others: true}, 10_000)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range got {
			out[d.Device] = d
		}
	}
	ok := len(out) == len(want)
	for _, id := range want {
		if _, is := out[id]; !is {
			ok = false
		}
	}
	if !ok {
		names := []string{}
		for id := range out {
			names = append(names, id)
		}
		t.Helper()
		t.Fatalf("claimed %q, want %q", names, want)
	}
	return out
}

func (r *rig) settle(t tb, d device.Due, v device.Verdict, also ...func(*device.Result)) {
	t.Helper()
	r.timed(t, func() {
		res := device.Result{Device: d.Device, Nudge: d.Nudge, Hash: d.Hash, RegisteredAt: d.RegisteredAt, Verdict: v, Reason: "why"}
		for _, f := range also {
			f(&res)
		}
		if err := r.store.Settle(t.Context(), []device.Result{res}); err != nil {
			t.Fatal(err)
		}
	})
}

func (r *rig) explain(t tb, user, id string) device.Explanation {
	t.Helper()
	x, err := r.store.Explain(t.Context(), user, id)
	if err != nil {
		t.Fatal(err)
	}
	return x[0]
}

// wantDue checks what a device is due for: zero for nothing.
func (r *rig) wantDue(t tb, user, id string, want change.Position) device.Explanation {
	t.Helper()
	x := r.explain(t, user, id)
	if x.Due != want {
		t.Fatalf("%s is due for %s, want %s", id, x.Due, want)
	}
	return x
}

// wantIn checks when a worker may take the device: so long after what was done last.
func (r *rig) wantIn(t tb, user, id string, want time.Duration) {
	t.Helper()
	at := r.explain(t, user, id).NextAt
	if at.IsZero() || at.Before(r.from.Add(want)) || at.After(r.to.Add(want)) {
		t.Fatalf("%s may be taken in %s to %s, want %s", id, at.Sub(r.to), at.Sub(r.from), want)
	}
}

// timed does something, and notes when.
func (r *rig) timed(t tb, do func()) {
	t.Helper()
	now := func() (at time.Time) {
		if err := r.pool.QueryRow(t.Context(), `select now()`).Scan(&at); err != nil {
			t.Fatal(err)
		}
		return at
	}
	r.from = now()
	do()
	r.to = now()
}

// pass has so much time pass, as far as the rows know.
func (r *rig) pass(t tb, d time.Duration) {
	t.Helper()
	r.exec(t, `
with d as (update nudge.due set due_since = due_since - $1::interval, next_at = next_at - $1::interval,
  held_until = held_until - $1::interval, not_before = not_before - $1::interval, pushed_at = pushed_at - $1::interval)
update nudge.wakes set sent_at = sent_at - $1::interval, answered_at = answered_at - $1::interval`, d)
}

func (r *rig) exec(t tb, sql string, args ...any) {
	t.Helper()
	if _, err := r.pool.Exec(t.Context(), sql, args...); err != nil {
		t.Fatal(err)
	}
}

func id(n int) string { return fmt.Sprintf("d%05d", n) }
