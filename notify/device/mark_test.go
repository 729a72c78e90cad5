package device_test

import (
	"testing"
	"time"

	"github.com/nudgesync/nudge/changefeed/change"
	"github.com/nudgesync/nudge/notify/device"
)

var none change.Position

// The whole way: a change, a push, a pull that proves it.
func TestADeviceIsDueUntilItAcknowledges(t *testing.T) {
	r := newRig(t)
	r.mark(t)
	r.register(t, r.phone("7", "a"))
	r.register(t, r.phone("8", "b"))
	r.wantDue(t, "7", "a", none)
	at := r.commit(t, of("7", ""), of("7", ""))
	r.mark(t)
	r.wantDue(t, "7", "a", at[1])
	r.wantDue(t, "8", "b", none)
	r.wantIn(t, "7", "a", 0)
	d := r.claim(t, "a")["a"]
	if d.Target.Value != "token of a" || d.User != "7" || d.Head != at[1] || d.Urgency != device.Soon || d.Attempts != 1 {
		t.Errorf("claimed %+v", d)
	}
	r.claim(t)
	r.settle(t, d, device.Accepted, func(res *device.Result) { res.ID = "id" })
	r.wantDue(t, "7", "a", at[1])
	r.wantIn(t, "7", "a", 20*time.Minute)
	r.heard(t, "7", "a", device.Event{Acked: at[0], Pulled: true, Nudge: d.Nudge})
	r.wantDue(t, "7", "a", at[1])
	r.heard(t, "7", "a", device.Event{Acked: at[1]})
	x := r.wantDue(t, "7", "a", none)
	w := x.Wakes[0]
	if len(x.Wakes) != 1 || w.Nudge != d.Nudge || w.Status != "accepted" || w.ID != "id" || w.Head != at[1] ||
		w.AnsweredAt.IsZero() || w.PulledAt.IsZero() || w.AckedAt.IsZero() {
		t.Errorf("wakes %+v", x.Wakes)
	}
	if x.Head != at[1] || x.Marked != r.head() || !x.Listens || x.Acked != at[1] || x.NotBefore.IsZero() {
		t.Errorf("explanation %+v", x)
	}
}

// The first deadline stands while the head moves on; urgency is the highest, and a nearer deadline wins.
func TestDeadlines(t *testing.T) {
	r := newRig(t)
	r.mark(t)
	r.register(t, r.phone("7", "a"))
	lazy := r.commit(t, row{scope: "user:7", table: "public.lazy"})
	r.mark(t)
	r.wantIn(t, "7", "a", time.Hour)
	if x := r.wantDue(t, "7", "a", lazy[0]); x.Urgency != device.Lazy {
		t.Errorf("urgency %d", x.Urgency)
	}
	first := r.explain(t, "7", "a").NextAt
	lazy = r.commit(t, row{scope: "user:7", table: "public.lazy"})
	r.mark(t)
	if x := r.wantDue(t, "7", "a", lazy[0]); !x.NextAt.Equal(first) {
		t.Errorf("the deadline moved from %s to %s", first, x.NextAt)
	}
	soon := r.commit(t, of("7", ""))
	r.mark(t)
	r.wantIn(t, "7", "a", 0)
	if x := r.wantDue(t, "7", "a", soon[0]); x.Urgency != device.Soon {
		t.Errorf("urgency %d", x.Urgency)
	}
	r.commit(t, row{scope: "user:7", table: "public.lazy"})
	r.mark(t)
	if x := r.explain(t, "7", "a"); x.Urgency != device.Soon {
		t.Errorf("urgency %d", x.Urgency)
	}
	// Once it is settled, the next one starts over.
	r.heard(t, "7", "a", device.Event{Acked: r.head()})
	r.wantDue(t, "7", "a", none)
	r.commit(t, row{scope: "user:7", table: "public.lazy"})
	r.mark(t)
	r.wantIn(t, "7", "a", time.Hour)
	if x := r.explain(t, "7", "a"); x.Urgency != device.Lazy {
		t.Errorf("urgency %d", x.Urgency)
	}
}

// Presence gives a grace time and nothing else (A6): a socket that is open only half never acknowledges.
func TestPresenceGivesGrace(t *testing.T) {
	r := newRig(t)
	r.mark(t)
	r.register(t, r.phone("7", "a"))
	r.heard(t, "7", "a", device.Event{Session: "s1"})
	r.commit(t, of("7", ""))
	r.mark(t)
	r.wantIn(t, "7", "a", grace)
	r.pass(t, grace)
	r.settle(t, r.claim(t, "a")["a"], device.Later)
	r.heard(t, "7", "a", device.Event{Acked: r.head()}, device.Event{Session: "s2"})
	r.commit(t, of("7", ""))
	r.mark(t)
	// The old session's end comes last.
	r.heard(t, "7", "a", device.Event{Session: "s1", Ended: true}, device.Event{Served: true})
	if x := r.explain(t, "7", "a"); x.Session != "s2" {
		t.Errorf("session %q", x.Session)
	}
	r.heard(t, "7", "a", device.Event{Session: "s2", Ended: true}, device.Event{Acked: r.head()})
	r.commit(t, of("7", ""))
	r.mark(t)
	r.wantIn(t, "7", "a", 0)
}

// A change for everybody is marked page by page, spread more the more there are; another one meanwhile goes round
// after it.
func TestEverybodyIsMarkedPageByPage(t *testing.T) {
	r := newRig(t)
	r.mark(t)
	const n = 2500
	r.exec(t, `insert into nudge.devices (device, user_id, road, target, target_hash, app, environment, app_version, registered_at)
		select 'd' || lpad(i::text, 5, '0'), i::text, 'fcm', '', int4send(i), 'app', '', '', now() from generate_series(1, $1) i`, n)
	r.exec(t, `insert into nudge.due (device, user_id, road, app, environment) select device, user_id, road, app, environment from nudge.devices`)
	first := r.commit(t, everybody())[0]
	dueFor := func(p change.Position) (devices int) {
		t.Helper()
		err := r.pool.QueryRow(t.Context(), `select count(*) from nudge.due where (due_epoch, due_lsn, due_seq) = ($1, $2, $3)`,
			int64(p.Epoch), int64(p.LSN), int32(p.Seq)).Scan(&devices)
		if err != nil {
			t.Fatal(err)
		}
		return devices
	}
	pass := func(more bool) {
		t.Helper()
		if p, err := r.marker.Mark(t.Context()); err != nil || p.More != more || p.Position != r.head() {
			t.Fatalf("%+v, %v", p, err)
		}
	}
	pass(true) // notes it
	pass(true)
	if got := dueFor(first); got != 1000 {
		t.Fatalf("%d devices are due after a page", got)
	}
	second := r.commit(t, everybody())[0]
	pass(true)
	if got := dueFor(second); got != 1000 {
		t.Fatalf("%d devices are due for the second after its first page", got)
	}
	pass(true)
	if got, early := dueFor(second), dueFor(first); got != 1500 || early != 1000 {
		t.Fatalf("%d and %d", got, early)
	}
	r.heard(t, "2400", id(2400), device.Event{Acked: r.head()})
	pass(true)
	pass(true)
	pass(false)
	if got := dueFor(second); got != n-1 {
		t.Fatalf("%d devices are due for the second", got)
	}
	r.wantDue(t, "2400", id(2400), none)
	// An acknowledgement of it that comes before its page is kept until the page has come.
	r.commit(t, everybody())
	pass(true)
	pass(true)
	r.heard(t, "2400", id(2400), device.Event{Acked: r.head()})
	pass(true)
	pass(false)
	r.heard(t, "0", "nobody", device.Event{Pulled: true})
	r.wantDue(t, "2400", id(2400), none)
	var last float64
	if err := r.pool.QueryRow(t.Context(), `select extract(epoch from max(next_at - due_since)) from nudge.due`).Scan(&last); err != nil {
		t.Fatal(err)
	}
	if last < 1 || last > 2.5 {
		t.Errorf("spread over %v s", last)
	}
}

// A marker that cannot go on from where it stood marks everybody.
func TestMarkerThatIsLeftBehindMarksEverybody(t *testing.T) {
	r := newRig(t)
	r.mark(t)
	r.register(t, r.phone("7", "a"))
	r.register(t, r.phone("8", "b"))
	r.begin(t, 5000)
	r.mark(t)
	r.wantDue(t, "7", "a", r.head())
	r.heard(t, "7", "a", device.Event{Acked: change.Position{Epoch: 1, LSN: 9000}}) // of another epoch
	r.wantDue(t, "7", "a", r.head())
	r.heard(t, "7", "a", device.Event{Acked: r.head()})
	r.wantDue(t, "7", "a", none)
	r.commit(t, of("8", ""))
	r.exec(t, `update nudge.feed set horizon = position`)
	r.mark(t)
	r.wantDue(t, "7", "a", r.head())
	r.wantDue(t, "8", "b", r.head())
	// A device that has acknowledged that much already is not marked.
	r.register(t, r.phone("9", "c"))
	r.exec(t, `update nudge.marking set lsn = 1`)
	r.mark(t)
	r.wantDue(t, "9", "c", none)
}

// A pass goes no further than its stride, and says so.
func TestMarkerGoesInStrides(t *testing.T) {
	r := newRig(t)
	r.mark(t)
	r.register(t, r.phone("7", "a"))
	first := r.commit(t, of("7", ""))[0]
	r.lsn += 1 << 30
	second := r.commit(t, of("7", ""))[0]
	p, err := r.marker.Mark(t.Context())
	if err != nil || !p.More || p.Changes != 1 || !p.Position.Before(second) {
		t.Fatalf("%+v, %v", p, err)
	}
	r.wantDue(t, "7", "a", first)
	r.mark(t)
	r.wantDue(t, "7", "a", second)
}

// One marker works at a time; the others go away.
func TestOnlyOneMarks(t *testing.T) {
	r := newRig(t)
	r.mark(t)
	r.register(t, r.phone("7", "a"))
	at := r.commit(t, of("7", ""))[0]
	tx, err := r.pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(t.Context()) }()
	if _, err := tx.Exec(t.Context(), `select from nudge.marking for update`); err != nil {
		t.Fatal(err)
	}
	if p, err := r.marker.Mark(t.Context()); err != nil || !p.Busy {
		t.Fatalf("%+v, %v", p, err)
	}
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.mark(t)
	r.wantDue(t, "7", "a", at)
}
