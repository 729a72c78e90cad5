package device_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/nudgesync/nudge/changefeed/change"
	"github.com/nudgesync/nudge/changefeed/changelog"
	"github.com/nudgesync/nudge/notify/device"
)

// A6: a page that was served proves nothing. Its answer may be lost on the radio: the device is left alone for as
// long as it takes, and then it is due again. A later since at the head settles it.
func TestA06ServedPageOnlyPauses(t *testing.T) {
	r := newRig(t)
	r.mark(t)
	r.register(t, r.phone("7", "a"))
	before := r.head()
	at := r.commit(t, of("7", ""))[0]
	r.mark(t)
	d := r.claim(t, "a")["a"]
	r.settle(t, d, device.Accepted)
	r.pass(t, 20*time.Minute)
	// The phone pulls, is served, and nothing comes of it.
	r.heard(t, "7", "a", device.Event{Acked: before, Pulled: true, Nudge: d.Nudge}, device.Event{Served: true})
	r.wantDue(t, "7", "a", at)
	r.wantIn(t, "7", "a", 30*time.Second)
	r.claim(t)
	r.pass(t, 30*time.Second)
	d = r.claim(t, "a")["a"]
	r.settle(t, d, device.Accepted)
	r.pass(t, time.Minute)
	// It pulls again, is served, and its loop comes once more with what it has then.
	r.heard(t, "7", "a", device.Event{Acked: before, Pulled: true, Nudge: d.Nudge}, device.Event{Served: true})
	r.wantDue(t, "7", "a", at)
	r.heard(t, "7", "a", device.Event{Acked: r.head(), Pulled: true})
	r.wantDue(t, "7", "a", none)
	r.pass(t, 24*time.Hour)
	r.claim(t)
}

// A6: a socket that is open only half is nudged over and hears nothing: the push comes after the grace time.
func TestA06HalfOpenSocketIsPushedTo(t *testing.T) {
	r := newRig(t)
	r.mark(t)
	r.register(t, r.phone("7", "a"))
	r.heard(t, "7", "a", device.Event{Session: "s1"})
	r.commit(t, of("7", ""))
	r.mark(t)
	r.claim(t)
	r.pass(t, grace)
	r.claim(t, "a")
}

// A7: marking reads the log. The last frame may be lost, or the feed die between append and publish: nobody wakes
// the marker, and the next pass finds the change all the same.
func TestA07MarkingReadsTheLog(t *testing.T) {
	r := newRig(t)
	r.mark(t)
	r.register(t, r.phone("7", "a"))
	passed, marked := make(chan struct{}), make(chan device.Pass, 1)
	var once sync.Once
	ctx, cancel := context.WithCancel(t.Context())
	var g errgroup.Group
	defer func() { cancel(); _ = g.Wait() }()
	marker := r.store.NewMarker(func(p device.Pass, _ time.Duration) {
		once.Do(func() { close(passed) })
		if p.Marked > 0 {
			marked <- p
		}
	})
	g.Go(func() error { return marker.Run(ctx) })
	<-passed
	at := r.commit(t, of("7", ""))[0]
	if p := <-marked; p.Marked != 1 {
		t.Errorf("%+v", p)
	}
	r.wantDue(t, "7", "a", at)
}

// A7: the position moves in the transaction that marks. A marker that is killed before its commit has neither
// moved it nor marked; one that is killed after it has done both.
func TestA07MarkerIsKilled(t *testing.T) {
	r := newRig(t)
	r.mark(t)
	r.register(t, r.phone("7", "a"))
	at := r.commit(t, of("7", ""))[0]
	for name, when := range map[string]step{"before it reads the log": beforeMark, "before its commit": beforeCommit} {
		if _, err := r.killedAt(t, when).NewMarker(nil).Mark(t.Context()); err == nil {
			t.Fatalf("%s: it did not notice", name)
		}
		r.wantDue(t, "7", "a", none)
	}
	r.mark(t)
	r.wantDue(t, "7", "a", at)
	// Another begins where it ended.
	if p, err := r.store.NewMarker(nil).Mark(t.Context()); err != nil || p.Changes != 0 || p.Position != r.head() {
		t.Errorf("%+v, %v", p, err)
	}
}

// A7: a change that is logged while a device registers is seen by the registration or by the marker, in
// whichever order they come.
func TestA07RegistrationRacesTheMarker(t *testing.T) {
	t.Run("registered between append and mark", func(t *testing.T) {
		r := newRig(t)
		r.mark(t)
		phone := r.phone("7", "a")
		at := r.commit(t, of("7", ""))[0]
		r.register(t, phone)
		r.wantDue(t, "7", "a", none)
		r.mark(t)
		r.wantDue(t, "7", "a", at)
	})
	t.Run("registered after the mark, with an older cursor", func(t *testing.T) {
		r := newRig(t)
		r.mark(t)
		phone := r.phone("7", "a")
		at := r.commit(t, of("7", ""), of("7", "a"), of("8", ""))[0]
		r.mark(t)
		r.register(t, phone)
		r.wantDue(t, "7", "a", at) // its own change after that is no news
		r.wantIn(t, "7", "a", grace)
		phone = r.phone("7", "b")
		all := r.commit(t, everybody())[0]
		r.mark(t)
		r.register(t, phone)
		r.wantDue(t, "7", "b", all)
	})
	t.Run("registered without a cursor that can be followed", func(t *testing.T) {
		r := newRig(t)
		r.mark(t)
		for name, cursor := range map[string]change.Position{
			"none": none, "other epoch": {Epoch: r.epoch.Next(), LSN: 5000}, "expired": {Epoch: r.epoch, LSN: 10},
		} {
			phone := r.phone("7", "a")
			phone.App = name // a registration anew
			phone.Cursor = cursor
			r.register(t, phone)
			r.wantDue(t, "7", "a", r.head())
		}
	})
	// One of them has looked where the other stands, and has yet to commit.
	pass := func(t *testing.T, s *device.Store, _ device.Registration) error {
		_, err := s.NewMarker(nil).Mark(t.Context())
		return err
	}
	registration := func(t *testing.T, s *device.Store, phone device.Registration) error {
		_, err := s.Register(t.Context(), phone)
		return err
	}
	for name, c := range map[string]struct {
		stopped, waits func(*testing.T, *device.Store, device.Registration) error
	}{
		"the pass waits for a registration under way": {registration, pass},
		"a registration waits for the pass under way": {pass, registration},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.mark(t)
			phone := r.phone("7", "a")
			at := r.commit(t, of("7", ""))[0]
			s, stopped, resume := r.stoppedAt(t, beforeCommit)
			var g errgroup.Group
			g.Go(func() error { return c.stopped(t, s, phone) })
			<-stopped
			g.Go(func() error { return c.waits(t, r.store, phone) })
			r.awaitWaiting(t)
			close(resume)
			if err := g.Wait(); err != nil {
				t.Fatal(err)
			}
			r.wantDue(t, "7", "a", at)
		})
	}
}

// awaitWaiting returns once somebody waits for the marking table's lock.
func (r *rig) awaitWaiting(t *testing.T) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		var waiting bool
		err := r.pool.QueryRow(t.Context(), `select exists (select from pg_locks
			where relation = 'nudge.marking'::regclass and not granted)`).Scan(&waiting)
		if err != nil {
			t.Fatal(err)
		}
		if waiting {
			return
		}
		<-tick.C
	}
}

// A7: retention leaves what the marker has yet to read, unless the marker has not moved for a day.
func TestA07RetentionWaitsForTheMarker(t *testing.T) {
	r := newRig(t)
	r.mark(t)
	r.register(t, r.phone("7", "a"))
	at := r.commit(t, of("7", ""))[0]
	if rolled, err := r.w.Roll(t.Context(), time.Now().Add(2*time.Hour)); !rolled || err != nil {
		t.Fatal(rolled, err)
	}
	retain := func(want int) {
		t.Helper()
		if n, err := r.log.Retain(t.Context(), time.Now().Add(time.Hour)); n != want || err != nil {
			t.Fatalf("%d segments dropped, want %d; %v", n, want, err)
		}
	}
	retain(0)
	r.mark(t)
	r.wantDue(t, "7", "a", at)
	retain(1)

	r.commit(t, of("7", ""))
	if rolled, err := r.w.Roll(t.Context(), time.Now().Add(2*time.Hour)); !rolled || err != nil {
		t.Fatal(rolled, err)
	}
	retain(0)
	r.exec(t, `update nudge.marking set moved_at = now() - interval '25 hours'`)
	retain(1)
	r.mark(t)
	r.wantDue(t, "7", "a", r.head()) // the horizon passed the marker
}

// A07: who has the log dropped gets that, once the marker has read it.
func TestA07TrimWaitsForTheMarker(t *testing.T) {
	r := newRig(t)
	r.mark(t)
	r.register(t, r.phone("7", "a"))
	at := r.commit(t, of("7", ""))[0]
	// It has come to where it looks how far the marker is.
	tx, err := r.pool.Begin(t.Context())
	if err == nil {
		_, err = tx.Exec(t.Context(), `lock table nudge.marking in access exclusive mode`)
	}
	if err != nil {
		t.Fatal(err)
	}
	trimmed := make(chan error, 1)
	go func() { trimmed <- r.log.Trim(t.Context()) }()
	for waits := false; !waits; {
		err := tx.QueryRow(t.Context(), `select exists (select from pg_locks where relation = 'nudge.marking'::regclass and not granted)`).Scan(&waits)
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.mark(t)
	if err := <-trimmed; err != nil {
		t.Fatal(err)
	}
	s, err := r.log.Feed(t.Context())
	if err != nil || s.Horizon <= at.LSN {
		t.Fatalf("the log begins at %v, the change stands at %v; %v", s.Horizon, at, err)
	}
	r.wantDue(t, "7", "a", at)
}

// A17: of a user's changes a device is spared those alone that it wrote itself.
func TestA17OriginIsSparedItsOwn(t *testing.T) {
	r := newRig(t)
	r.mark(t)
	r.register(t, r.phone("7", "d"))
	r.register(t, r.phone("7", "e"))
	// D wrote everything.
	at := r.commit(t, of("7", "d"), of("7", "d"))
	r.mark(t)
	r.wantDue(t, "7", "d", none)
	r.wantDue(t, "7", "e", at[1])
	r.heard(t, "7", "e", device.Event{Acked: r.head()})
	// E wrote T1 and D wrote T2 in one batch: each is due for the other's.
	at = r.commit(t, of("7", "e"), of("7", "d"))
	r.mark(t)
	r.wantDue(t, "7", "d", at[0])
	r.wantDue(t, "7", "e", at[1])
	// Across passes: what D writes later does not move what it is due for, what E writes does.
	later := r.commit(t, of("7", "d"))
	r.mark(t)
	r.wantDue(t, "7", "d", at[0])
	r.wantDue(t, "7", "e", later[0])
	later = r.commit(t, of("7", "e"), of("7", "d"))
	r.mark(t)
	r.wantDue(t, "7", "d", later[0])
	// What it acknowledges is its newest foreign change, not the head.
	r.heard(t, "7", "d", device.Event{Acked: later[0]})
	r.wantDue(t, "7", "d", none)
	// Two origins in one transaction.
	both := []change.Change{}
	for i, origin := range []string{"e", "d"} {
		both = append(both, change.Change{
			Pos: change.Position{Epoch: r.epoch, LSN: r.lsn, Seq: uint32(i + 1)}, Scope: "user:7", Table: "public.t",
			Op: change.Delete, Key: []byte(`{}`), Origin: origin, CommittedAt: time.UnixMicro(1).UTC(),
		})
	}
	r.lsn += 10
	if err := r.w.Append(t.Context(), changelog.Batch{Next: r.lsn, Changes: both}); err != nil {
		t.Fatal(err)
	}
	r.mark(t)
	r.wantDue(t, "7", "d", both[0].Pos)
	r.wantDue(t, "7", "e", both[1].Pos)
	// A device whose own change is urgent is not hurried by it.
	r.heard(t, "7", "d", device.Event{Acked: r.head()})
	lazy := r.commit(t, row{"user:7", "e", "public.lazy"}, row{"user:7", "d", "public.now"})
	r.mark(t)
	if x := r.wantDue(t, "7", "d", lazy[0]); x.Urgency != device.Lazy {
		t.Errorf("urgency %d", x.Urgency)
	}
}
