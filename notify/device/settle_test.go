package device_test

import (
	"testing"
	"time"

	"github.com/nudgesync/nudge/notify/device"
)

// due registers a phone, has it due, and claims it.
func (r *rig) due(t *testing.T, reg device.Registration) device.Due {
	t.Helper()
	r.register(t, reg)
	r.commit(t, of(reg.User, ""))
	r.mark(t)
	return r.claim(t, reg.Device)[reg.Device]
}

// An accepted push is repeated until somebody answers, at intervals that double up to a day.
func TestRepeatsDouble(t *testing.T) {
	r := newRig(t)
	r.mark(t)
	d := r.due(t, r.phone("7", "a"))
	want := 20 * time.Minute
	for range 9 {
		r.settle(t, d, device.Accepted)
		r.wantIn(t, "7", "a", want)
		r.pass(t, want)
		d = r.claim(t, "a")["a"]
		want = min(2*want, 24*time.Hour)
	}
	if want != 24*time.Hour || d.Attempts != 1 {
		t.Errorf("after %s, attempt %d", want, d.Attempts)
	}
	r.settle(t, d, device.Accepted)
	// Who answers starts over.
	r.heard(t, "7", "a", device.Event{Acked: r.head(), Pulled: true, Nudge: d.Nudge})
	r.pass(t, 24*time.Hour)
	r.commit(t, of("7", ""))
	r.mark(t)
	r.settle(t, r.claim(t, "a")["a"], device.Accepted)
	r.wantIn(t, "7", "a", 20*time.Minute)
}

// The last change of a burst is announced: the first push goes at once, the next when the budget is whole.
func TestTrailingEdge(t *testing.T) {
	for _, road := range []string{device.RoadAPNs, device.RoadFCM} {
		r := newRig(t)
		r.mark(t)
		phone := r.phone("7", "a")
		phone.Road = road
		d := r.due(t, phone)
		// While the push is on its way.
		r.commit(t, of("7", ""))
		r.mark(t)
		r.claim(t)
		r.settle(t, d, device.Accepted)
		r.wantIn(t, "7", "a", device.Interval(road))
		// And after it; a repeat that was put off is brought forward.
		r.pass(t, device.Interval(road))
		d = r.claim(t, "a")["a"]
		r.commit(t, of("7", ""))
		r.mark(t)
		r.settle(t, d, device.Accepted)
		r.wantIn(t, "7", "a", device.Interval(road))
		r.pass(t, device.Interval(road))
		r.settle(t, r.claim(t, "a")["a"], device.Accepted)
		r.wantIn(t, "7", "a", 4*device.Interval(road))
		from, to := r.from, r.to
		last := r.commit(t, of("7", ""))[0]
		r.mark(t)
		r.from, r.to = from, to
		r.wantIn(t, "7", "a", device.Interval(road))
		r.pass(t, device.Interval(road))
		if d := r.claim(t, "a")["a"]; d.Head != last {
			t.Errorf("announced %s, want %s", d.Head, last)
		}
	}
}

// Changes that are urgent now go past the budget if there is an alert to show, a minute after the last push at the
// earliest; nobody is shown the same alert again.
func TestAlertsGoPastTheBudget(t *testing.T) {
	r := newRig(t)
	r.mark(t)
	phone := r.phone("7", "a")
	phone.App = "loud"
	r.settle(t, r.due(t, phone), device.Accepted)
	from, to := r.from, r.to
	r.commit(t, row{scope: "user:7", table: "public.now"})
	r.mark(t)
	r.from, r.to = from, to
	r.wantIn(t, "7", "a", time.Minute)
	r.pass(t, time.Minute)
	d := r.claim(t, "a")["a"]
	if d.Urgency != device.Now {
		t.Errorf("urgency %d", d.Urgency)
	}
	r.commit(t, row{scope: "user:7", table: "public.now"})
	r.mark(t)
	r.settle(t, d, device.Accepted)
	r.wantIn(t, "7", "a", time.Minute)
	r.pass(t, time.Minute)
	r.settle(t, r.claim(t, "a")["a"], device.Accepted)
	r.pass(t, 24*time.Hour)
	if d := r.claim(t, "a")["a"]; d.Urgency != device.Soon {
		t.Errorf("urgency %d of a repeat", d.Urgency)
	}
	// An app without an alert has its budget.
	r.settle(t, r.due(t, r.phone("8", "b")), device.Accepted)
	from, to = r.from, r.to
	r.commit(t, row{scope: "user:8", table: "public.now"})
	r.mark(t)
	r.from, r.to = from, to
	r.wantIn(t, "8", "b", 20*time.Minute)
}

// A pull, or a socket, refunds the budget: the app runs. One that the push itself brought about does not, or a busy
// user's phone would be pushed to every minute.
func TestRefund(t *testing.T) {
	pushed := func(t *testing.T) (*rig, device.Due) {
		r := newRig(t)
		r.mark(t)
		d := r.due(t, r.phone("7", "a"))
		r.settle(t, d, device.Accepted)
		r.pass(t, time.Minute)
		return r, d
	}
	for name, c := range map[string]struct {
		event  func(device.Due) device.Event
		refund bool
	}{
		"a pull":          {func(device.Due) device.Event { return device.Event{Pulled: true} }, true},
		"a socket":        {func(device.Due) device.Event { return device.Event{Session: "s"} }, true},
		"a socket's end":  {func(device.Due) device.Event { return device.Event{Session: "s", Ended: true} }, false},
		"the push's pull": {func(d device.Due) device.Event { return device.Event{Pulled: true, Nudge: d.Nudge} }, false},
		"an ack":          {func(device.Due) device.Event { return device.Event{} }, false},
	} {
		t.Run(name, func(t *testing.T) {
			r, d := pushed(t)
			e := c.event(d)
			e.Acked = r.head()
			r.heard(t, "7", "a", e)
			if x := r.wantDue(t, "7", "a", none); x.NotBefore.IsZero() != c.refund {
				t.Errorf("not before %s", x.NotBefore)
			}
		})
	}
	t.Run("right after the push", func(t *testing.T) {
		r := newRig(t)
		r.mark(t)
		r.settle(t, r.due(t, r.phone("7", "a")), device.Accepted)
		r.heard(t, "7", "a", device.Event{Pulled: true, Acked: r.head()})
		if x := r.wantDue(t, "7", "a", none); x.NotBefore.IsZero() {
			t.Error("refunded")
		}
	})
	t.Run("what is still due is brought forward", func(t *testing.T) {
		r, _ := pushed(t)
		r.heard(t, "7", "a", device.Event{Pulled: true}, device.Event{Served: true})
		r.wantIn(t, "7", "a", 30*time.Second)
	})
}

// What is to be tried later stays due, and no change brings it forward: the provider has asked for it.
func TestLaterHolds(t *testing.T) {
	r := newRig(t)
	r.mark(t)
	d := r.due(t, r.phone("7", "a"))
	r.settle(t, d, device.Later, func(res *device.Result) { res.After = 10 * time.Minute })
	r.wantIn(t, "7", "a", 10*time.Minute)
	from, to := r.from, r.to
	r.commit(t, of("7", ""))
	r.mark(t)
	r.from, r.to = from, to
	r.wantIn(t, "7", "a", 10*time.Minute)
	r.heard(t, "7", "a", device.Event{Acked: r.head()})
	r.commit(t, of("7", ""))
	r.mark(t)
	r.from, r.to = from, to
	r.wantIn(t, "7", "a", 10*time.Minute)
	r.pass(t, 10*time.Minute)
	if d := r.claim(t, "a")["a"]; d.Attempts != 1 {
		t.Errorf("attempt %d of something new", d.Attempts)
	}
	r.pass(t, device.Lease)
	if d := r.claim(t, "a")["a"]; d.Attempts != 2 {
		t.Errorf("attempt %d", d.Attempts)
	}
}

// A claim that was given back unsent is no attempt, and leaves no line in the ledger.
func TestUnsentIsNoAttempt(t *testing.T) {
	r := newRig(t)
	r.mark(t)
	r.settle(t, r.due(t, r.phone("7", "a")), device.Later, func(res *device.Result) { res.After = time.Second })
	r.pass(t, time.Second)
	unsent := r.claim(t, "a")["a"]
	r.settle(t, unsent, device.Unsent, func(res *device.Result) { res.After = time.Minute })
	r.wantIn(t, "7", "a", time.Minute)
	check := func(attempts, lines int) {
		t.Helper()
		if x := r.explain(t, "7", "a"); x.Attempts != attempts || len(x.Wakes) != lines || x.Wakes[lines-1].Status != string(device.Later) {
			t.Fatalf("%d attempts, %+v", x.Attempts, x.Wakes)
		}
	}
	check(1, 1)
	from, to := r.from, r.to
	r.settle(t, unsent, device.Unsent) // once more: the answer of the first time was lost
	r.from, r.to = from, to
	r.wantIn(t, "7", "a", time.Minute)
	check(1, 1)
	r.pass(t, time.Minute)
	if d := r.claim(t, "a")["a"]; d.Attempts != 2 || d.DueFor < time.Minute || d.DueFor > time.Hour {
		t.Errorf("attempt %d, due for %v", d.Attempts, d.DueFor)
	}
	r.settle(t, unsent, device.Unsent) // too late: another worker has it
	check(2, 2)
}

// A target that is gone silences its device, by compare-and-set: a registration since then is not hit.
func TestDisable(t *testing.T) {
	for _, c := range []struct {
		verdict device.Verdict
		status  device.Status
	}{{device.Disable, device.Disabled}, {device.Quarantine, device.Quarantined}} {
		r := newRig(t)
		r.mark(t)
		d := r.due(t, r.phone("7", "a"))
		r.settle(t, d, c.verdict)
		if x := r.explain(t, "7", "a"); x.Status != c.status || x.Reason != "why" || x.Listens || x.Wakes[0].Status != string(c.verdict) {
			t.Fatalf("%+v", x)
		}
		r.commit(t, of("7", ""))
		r.mark(t)
		r.pass(t, 24*time.Hour)
		r.claim(t)
		// The same registration again re-enables it.
		was := d.RegisteredAt
		phone := r.phone("7", "a")
		phone.Cursor = none
		if got := r.register(t, phone); got.Status != device.Active || !got.RegisteredAt.After(was) {
			t.Fatalf("%+v", got)
		}
		r.wantDue(t, "7", "a", r.head())
		// A late answer to an older push.
		r.settle(t, d, c.verdict)
		r.pass(t, grace)
		d = r.claim(t, "a")["a"]
		phone.Target.Value = "another token"
		r.register(t, phone)
		r.settle(t, d, c.verdict)
		if x := r.explain(t, "7", "a"); x.Status != device.Active || x.Due.IsZero() {
			t.Fatalf("%+v", x)
		}
	}
}

// APNs says since when a token is gone: a device that registered it after that is not disabled.
func TestDisableOlderThanTheRegistration(t *testing.T) {
	r := newRig(t)
	r.mark(t)
	d := r.due(t, r.phone("7", "a"))
	gone := func(at time.Time) func(*device.Result) { return func(res *device.Result) { res.Gone = at } }
	r.settle(t, d, device.Disable, gone(d.RegisteredAt))
	if x := r.explain(t, "7", "a"); x.Status != device.Active {
		t.Fatalf("%+v", x)
	}
	r.wantIn(t, "7", "a", time.Minute)
	r.pass(t, time.Minute)
	r.settle(t, r.claim(t, "a")["a"], device.Disable, gone(d.RegisteredAt.Add(time.Microsecond)))
	if x := r.explain(t, "7", "a"); x.Status != device.Disabled {
		t.Fatalf("%+v", x)
	}
	st, err := r.store.Stats(t.Context())
	if err != nil || st.Disabled["why"] != 1 || len(st.Due) != 0 {
		t.Errorf("%+v, %v", st, err)
	}
}

// Workers that claim at once get different devices, and one that was killed has its own claimed again.
func TestClaimsAreApart(t *testing.T) {
	r := newRig(t)
	r.mark(t)
	for i := range 20 {
		r.register(t, r.phone("7", id(i)))
	}
	r.commit(t, of("7", ""))
	r.mark(t)
	tx, err := r.pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(t.Context()) }()
	if _, err := tx.Exec(t.Context(), `select from nudge.due where device < $1 for update`, id(5)); err != nil {
		t.Fatal(err)
	}
	got, err := r.store.Claim(t.Context(), device.Selection{Road: device.RoadAPNs, Others: true}, 10)
	if err != nil || len(got) != 10 {
		t.Fatalf("%d claimed, %v", len(got), err)
	}
	more, err := r.store.Claim(t.Context(), device.Selection{Road: device.RoadAPNs, Others: true}, 10)
	if err != nil || len(more) != 5 {
		t.Fatalf("%d claimed, %v", len(more), err)
	}
	if other, err := r.store.Claim(t.Context(), device.Selection{Road: device.RoadFCM, Others: true}, 10); err != nil || len(other) != 0 {
		t.Fatalf("%d claimed, %v", len(other), err)
	}
	_ = tx.Rollback(t.Context())
	r.pass(t, device.Lease)
	if got, err := r.store.Claim(t.Context(), device.Selection{Road: device.RoadAPNs, Others: true}, 100); err != nil || len(got) != 20 {
		t.Fatalf("%d claimed, %v", len(got), err)
	}
}
