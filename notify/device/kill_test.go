package device_test

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/nudgesync/nudge/notify/device"
)

// I9: a node that is killed at a durable step loses no due device. Its connection ends before the step; what comes
// after a step is what a node finds that takes the work up.
func TestI09NodeIsKilled(t *testing.T) {
	r := newRig(t)
	r.mark(t)
	dead := r.killedAt(t, beforeStatement)
	r.register(t, r.phone("7", "a"))
	at := r.commit(t, of("7", ""))[0]
	due := func(when string) {
		t.Helper()
		r.mark(t)
		x := r.wantDue(t, "7", "a", at)
		if x.NextAt.IsZero() {
			t.Fatalf("%s: nobody will take it", when)
		}
	}
	due("marked")
	if _, err := dead.Claim(t.Context(), device.Selection{Road: device.RoadAPNs, Others: true}, 1); err == nil {
		t.Fatal("a killed worker claims")
	}
	due("killed before the claim")
	lost := r.claim(t, "a")["a"]
	due("killed after the claim, or after the push")
	r.claim(t)
	r.pass(t, device.Lease)
	d := r.claim(t, "a")["a"]
	result := device.Result{Device: "a", Nudge: d.Nudge, Hash: d.Hash, RegisteredAt: d.RegisteredAt, Verdict: device.Accepted}
	if err := dead.Settle(t.Context(), []device.Result{result}); err == nil {
		t.Fatal("a killed worker settles")
	}
	due("killed before it settles")
	// The one that was given up for dead comes back: its claim is over.
	r.settle(t, lost, device.Later)
	if x := r.explain(t, "7", "a"); !x.NextAt.Equal(x.HeldUntil) || !x.PushedAt.IsZero() || x.Wakes[1].Status != "later" || x.Wakes[0].Status != "sent" {
		t.Errorf("a claim that was over changed the device: %+v", x)
	}
	r.settle(t, d, device.Accepted)
	r.settle(t, d, device.Accepted) // whoever was not told that it had settled does it again
	due("settled")
	if x := r.explain(t, "7", "a"); x.Unheard != 1 {
		t.Errorf("%d pushes, 1 was sent", x.Unheard)
	}
	// A flush that does not come through is kept; a node that is killed before the next one has the device pushed to
	// once more.
	inbox := dead.NewInbox()
	inbox.Heard("7", "a", device.Event{Acked: r.head()})
	if err := inbox.Flush(t.Context()); err == nil {
		t.Fatal("a killed node acknowledges")
	}
	due("killed before it flushed")
}

// Acknowledgements that could not be written are written with the next ones.
func TestFlushIsKept(t *testing.T) {
	r := newRig(t)
	r.mark(t)
	r.register(t, r.phone("7", "a"))
	r.commit(t, of("7", ""))
	r.mark(t)
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	r.inbox.Heard("7", "a", device.Event{Acked: r.head(), Session: "s"})
	if err := r.inbox.Flush(canceled); err == nil {
		t.Fatal("flushed")
	}
	r.heard(t, "7", "a", device.Event{Pulled: true})
	if x := r.wantDue(t, "7", "a", none); x.Session != "s" {
		t.Errorf("%+v", x)
	}
}

// An acknowledgement may come before its mark: then there is none. It is written once, though the marker is away, whoever
// it is of.
func TestAcknowledgementBeforeItsMark(t *testing.T) {
	r := newRig(t)
	r.mark(t)
	r.register(t, r.phone("7", "a"))
	r.commit(t, of("7", ""))
	s, tr := r.traced(t, func(context.Context, *pgx.Conn, step) {})
	inbox := s.NewInbox()
	flush := func(statements int64) {
		t.Helper()
		before := tr.statements.Load()
		if err := inbox.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := tr.statements.Load() - before; got != statements {
			t.Fatalf("%d statements, want %d", got, statements)
		}
	}
	inbox.Heard("7", "a", device.Event{Acked: r.head()})
	inbox.Heard("7", "nobody", device.Event{Acked: r.head()})
	flush(1)
	flush(0)
	r.mark(t)
	r.wantDue(t, "7", "a", none)
	after := r.commit(t, of("7", ""))[0]
	r.mark(t)
	r.wantDue(t, "7", "a", after)

	// Of a change for everybody too, which is marked page by page.
	inbox.Heard("7", "a", device.Event{Acked: r.head()})
	flush(1)
	r.commit(t, everybody())
	if p, err := r.marker.Mark(t.Context()); err != nil || !p.More {
		t.Fatalf("%+v, %v", p, err)
	}
	inbox.Heard("7", "a", device.Event{Acked: r.head()})
	flush(1)
	r.mark(t)
	r.wantDue(t, "7", "a", none)
}

// Run flushes what was heard when it is told to end.
func TestRunsEnd(t *testing.T) {
	r := newRig(t)
	r.mark(t)
	r.register(t, r.phone("7", "a"))
	passes := make(chan device.Pass)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	marker := r.store.NewMarker(func(p device.Pass, _ time.Duration) {
		select {
		case passes <- p:
		case <-ctx.Done():
		}
	})
	var g errgroup.Group
	g.Go(func() error { return marker.Run(ctx) })
	g.Go(func() error { return r.inbox.Run(ctx) })
	<-passes
	r.commit(t, of("7", ""))
	marker.Wake()
	for p := range passes {
		if p.Marked == 1 {
			break
		}
	}
	r.inbox.Heard("7", "a", device.Event{Acked: r.head()})
	cancel()
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	r.wantDue(t, "7", "a", none)
}

// The ledger keeps a week.
func TestLedgerIsTrimmed(t *testing.T) {
	r := newRig(t)
	r.mark(t)
	r.due(t, r.phone("7", "a"))
	r.due(t, r.phone("8", "b"))
	r.exec(t, `update nudge.wakes set sent_at = sent_at - interval '8 days' where device = 'a'`)
	ctx, cancel := context.WithCancel(t.Context())
	trimmed := make(chan struct{})
	var g errgroup.Group
	n := 0
	marker := r.store.NewMarker(func(device.Pass, time.Duration) {
		if n++; n == 2 {
			close(trimmed)
		}
	})
	g.Go(func() error { return marker.Run(ctx) })
	<-trimmed
	cancel()
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	if a, b := len(r.explain(t, "7", "a").Wakes), len(r.explain(t, "8", "b").Wakes); a != 0 || b != 1 {
		t.Errorf("%d and %d lines are left", a, b)
	}
}

// How long a push took to bring a pull about is told by road, once.
func TestPulledIsMeasured(t *testing.T) {
	r := newRig(t)
	r.mark(t)
	var roads []string
	cfg := r.cfg
	cfg.Pulled = func(road string, after time.Duration) {
		if after < 5*time.Second || after > time.Hour {
			t.Errorf("after %s", after)
		}
		roads = append(roads, road)
	}
	d := r.due(t, r.phone("7", "a"))
	r.settle(t, d, device.Accepted)
	r.pass(t, 5*time.Second)
	inbox := device.NewStore(cfg).NewInbox()
	for _, id := range []string{"b", "a", "a"} {
		inbox.Heard("7", id, device.Event{Pulled: true, Nudge: d.Nudge})
		if err := inbox.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if len(roads) != 1 || roads[0] != device.RoadAPNs {
		t.Errorf("%q", roads)
	}
}

func TestStats(t *testing.T) {
	r := newRig(t)
	r.mark(t)
	r.settle(t, r.due(t, r.phone("7", "a")), device.Accepted)
	r.pass(t, time.Hour)
	phone := r.phone("8", "b")
	phone.Road = device.RoadFCM
	r.register(t, phone)
	r.commit(t, of("8", ""))
	r.mark(t)
	st, err := r.store.Stats(t.Context())
	if err != nil || st.Due[device.RoadAPNs] != 1 || st.Due[device.RoadFCM] != 1 || st.Silent != 1 ||
		st.Oldest[device.RoadAPNs] < time.Hour || st.Oldest[device.RoadFCM] >= time.Hour {
		t.Errorf("%+v, %v", st, err)
	}
}
