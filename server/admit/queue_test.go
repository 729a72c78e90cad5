package admit_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/nudgesync/nudge/server/admit"
)

// door is a queue, and those that came to it. It lives in a bubble of synctest.
type door struct {
	t     *testing.T
	queue *admit.Queue

	mu    sync.Mutex // several are refused at the same time
	order []string   // who got a place, in turn
	in    map[string]func()
	out   map[string]error // who got none
}

func newDoor(t *testing.T, cfg admit.Config) *door {
	t.Helper()
	q, err := admit.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return &door{t: t, queue: q, in: map[string]func(){}, out: map[string]error{}}
}

// come has somebody ask for a place, and returns once they have it, wait, or were refused.
func (d *door) come(ctx context.Context, name string, class admit.Class, user string) {
	go func() {
		leave, err := d.queue.Enter(ctx, class, user)
		d.mu.Lock()
		defer d.mu.Unlock()
		if err != nil {
			d.out[name] = err
			return
		}
		d.order, d.in[name] = append(d.order, name), leave
	}()
	synctest.Wait()
}

func (d *door) leave(name string) {
	d.t.Helper()
	leave := d.in[name]
	if leave == nil {
		d.t.Fatalf("%s has no place: %v, %v", name, d.order, d.error(name))
	}
	delete(d.in, name)
	leave()
	leave() // once is meant
	synctest.Wait()
}

// leaveAll empties the places one by one, and returns who got them in turn.
func (d *door) leaveAll() []string {
	d.t.Helper()
	for i := 0; i < len(d.order); i++ {
		if d.in[d.order[i]] != nil {
			d.leave(d.order[i])
		}
	}
	return d.order
}

// error is what somebody was refused with, nil for one that has a place or waits.
func (d *door) error(name string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.out[name]
}

// outside is how many were refused.
func (d *door) outside() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.out)
}

// refused holds that somebody was refused for a reason, and returns when they may come back.
func (d *door) refused(name string, why admit.Reason) time.Duration {
	d.t.Helper()
	var r *admit.Refusal
	if !errors.As(d.error(name), &r) || r.Reason != why || r.After < time.Second {
		d.t.Fatalf("%s: %v, want to be refused as %s", name, d.error(name), why)
	}
	return r.After
}

// The more urgent class is served first, whoever came first; within a class it is who came first.
func TestUrgentFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDoor(t, admit.Config{Places: 1})
		d.come(t.Context(), "first", admit.Snapshot, "0")
		for i, class := range []admit.Class{admit.Snapshot, admit.Woken, admit.Foreground, admit.Snapshot, admit.Woken, admit.Foreground} {
			d.come(t.Context(), fmt.Sprint(class, i), class, fmt.Sprint(i))
		}
		want := []string{"first", "foreground 2", "foreground 5", "woken 1", "woken 4", "snapshot 0", "snapshot 3"}
		if got := d.leaveAll(); !slices.Equal(got, want) {
			t.Errorf("served %v, want %v", got, want)
		}
	})
}

// Of six places each lower class gets one, however many of the higher ones wait.
func TestNobodyStarves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDoor(t, admit.Config{Places: 1})
		d.come(t.Context(), "first", admit.Foreground, "")
		for i := range 20 {
			for _, class := range []admit.Class{admit.Foreground, admit.Woken, admit.Snapshot} {
				d.come(t.Context(), class.String(), class, fmt.Sprint(class, i))
			}
		}
		count := map[string]int{}
		for range 18 {
			last := d.order[len(d.order)-1]
			d.leave(last)
			count[d.order[len(d.order)-1]]++
		}
		if count["foreground"] != 12 || count["woken"] != 3 || count["snapshot"] != 3 {
			t.Errorf("of 18 places: %v", count)
		}
		for len(d.in) > 0 {
			d.leave(d.order[len(d.order)-1])
		}
	})
}

// Snapshots never hold all places, and others pass those that wait for theirs.
func TestSnapshotsHaveACeiling(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDoor(t, admit.Config{Places: 3, Snapshots: 2})
		for i := range 4 {
			d.come(t.Context(), fmt.Sprint("s", i), admit.Snapshot, fmt.Sprint(i))
		}
		d.come(t.Context(), "f", admit.Foreground, "9")
		if want := []string{"s0", "s1", "f"}; !slices.Equal(d.order, want) {
			t.Fatalf("in are %v, want %v", d.order, want)
		}
		d.leave("f")
		if len(d.in) != 2 {
			t.Errorf("in are %v", d.order)
		}
		d.leaveAll()
	})
}

// One user holds no more than a share of the places, and waits with no more than a share; others pass.
func TestUserHasAShare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDoor(t, admit.Config{Places: 4, UserPlaces: 2, UserWaiting: 3})
		for i := range 6 {
			d.come(t.Context(), fmt.Sprint("a", i), admit.Class(i%3), "a")
		}
		d.refused("a5", admit.UserFull)
		for i := range 3 {
			d.come(t.Context(), fmt.Sprint("b", i), admit.Foreground, fmt.Sprint(i))
		}
		if want := []string{"a0", "a1", "b0", "b1"}; !slices.Equal(d.order, want) {
			t.Fatalf("in are %v, want %v", d.order, want)
		}
		d.leave("b0")
		if want := []string{"a0", "a1", "b0", "b1", "b2"}; !slices.Equal(d.order, want) {
			t.Fatalf("in are %v, want %v", d.order, want)
		}
		d.leaveAll()
	})
}

// Who has waited for as long as the class may is refused at that moment.
func TestDeadlines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDoor(t, admit.Config{Places: 1, Wait: time.Second})
		d.come(t.Context(), "first", admit.Foreground, "0")
		for _, class := range []admit.Class{admit.Foreground, admit.Woken, admit.Snapshot} {
			d.come(t.Context(), class.String(), class, class.String())
		}
		time.Sleep(time.Second) // of the bubble's clock
		synctest.Wait()
		d.refused("foreground", admit.Late)
		if d.outside() != 1 {
			t.Errorf("refused: %v", d.out)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		d.refused("woken", admit.Late)
		d.refused("snapshot", admit.Late)
		d.leaveAll()
	})
}

// Who would wait in vain is told so at once: by what those ahead will take, and when nothing has moved at all.
func TestHopeless(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDoor(t, admit.Config{Places: 2, Wait: time.Second})
		for i := range 3 { // so that it is known what a page takes
			d.come(t.Context(), fmt.Sprint("slow", i), admit.Foreground, "")
			time.Sleep(300 * time.Millisecond)
			d.leave(fmt.Sprint("slow", i))
		}
		for i := range 9 {
			d.come(t.Context(), fmt.Sprint(i), admit.Foreground, fmt.Sprint(i))
		}
		// Two are in, five wait: a seventh would wait for (5+1)·0.3/2 s, an eighth for 1.05 s.
		began := time.Now()
		d.refused("8", admit.Hopeless)
		if d.outside() != 1 || time.Since(began) != 0 {
			t.Errorf("refused: %v after %v", d.out, time.Since(began))
		}
		d.come(t.Context(), "later", admit.Snapshot, "later") // has twice the time
		if d.error("later") != nil {
			t.Errorf("a snapshot was refused: %v", d.out)
		}
		d.leaveAll()
	})
}

func TestHopelessWhileNothingMoves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDoor(t, admit.Config{Places: 1, Wait: time.Second})
		time.Sleep(time.Hour) // nothing to do is not to be stuck
		d.come(t.Context(), "stuck", admit.Foreground, "0")
		d.come(t.Context(), "a", admit.Foreground, "1")
		time.Sleep(time.Second)
		synctest.Wait()
		d.refused("a", admit.Late)
		d.come(t.Context(), "b", admit.Foreground, "1")
		d.refused("b", admit.Hopeless)
		d.leave("stuck")
		d.come(t.Context(), "c", admit.Foreground, "1")
		d.leave("c")
	})
}

// When a standstill is over it is over: who comes then may wait, however long places were held in it.
func TestAStandstillIsForgotten(t *testing.T) {
	for _, class := range []admit.Class{admit.Foreground, admit.Woken, admit.Snapshot} {
		synctest.Test(t, func(t *testing.T) {
			d := newDoor(t, admit.Config{Places: 2, UserPlaces: 2})
			for i := range 8 {
				d.come(t.Context(), fmt.Sprint("stuck", i), class, "")
				if i%2 == 1 {
					time.Sleep(time.Minute)
					d.leaveAll()
				}
			}
			for i := range 4 {
				d.come(t.Context(), fmt.Sprint(i), class, "")
				if err := d.error(fmt.Sprint(i)); err != nil {
					t.Errorf("%v: %v", class, err)
				}
			}
			d.leaveAll()
		})
	}
}

// A full line refuses, and those it refuses come back one after the other, within a minute.
func TestFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := prometheus.NewRegistry()
		metrics, err := admit.NewMetrics(m)
		if err != nil {
			t.Fatal(err)
		}
		d := newDoor(t, admit.Config{Places: 2, Waiting: 1, Metrics: metrics})
		d.come(t.Context(), "known", admit.Snapshot, "")
		time.Sleep(200 * time.Millisecond)
		d.leave("known")
		for i := range 3 {
			d.come(t.Context(), fmt.Sprint("in", i), admit.Snapshot, fmt.Sprint(i))
		}
		for i := range 3000 {
			name := fmt.Sprint(i)
			d.come(t.Context(), name, admit.Snapshot, name)
			want := min(time.Second+time.Duration(i)*25*time.Millisecond, time.Minute)
			if got := d.refused(name, admit.Full); got != want {
				t.Fatalf("the %dth comes back after %v, want %v", i, got, want)
			}
		}
		if got := value(t, m, "nudge_queue_refused_total", "snapshot", "full"); got != 3000 {
			t.Errorf("counted %v refusals", got)
		}
		if held, waiting := value(t, m, "nudge_queue_held", "snapshot"), value(t, m, "nudge_queue_waiting", "snapshot"); held != 2 || waiting != 1 {
			t.Errorf("%v places are held, %v wait", held, waiting)
		}
		d.come(t.Context(), "other", admit.Foreground, "") // the other lines are not full
		if d.error("other") != nil {
			t.Error(d.error("other"))
		}
		d.leaveAll()
	})
}

// Who gives up leaves the line, also when its place comes at that very moment.
func TestCancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDoor(t, admit.Config{Places: 1})
		ctx, cancel := context.WithCancel(t.Context())
		d.come(ctx, "first", admit.Foreground, "0")
		d.come(ctx, "waits", admit.Foreground, "1")
		d.come(t.Context(), "stays", admit.Foreground, "2")
		cancel()
		synctest.Wait()
		d.come(ctx, "late", admit.Foreground, "3")
		for _, name := range []string{"waits", "late"} {
			if !errors.Is(d.error(name), context.Canceled) {
				t.Errorf("%s: %v", name, d.error(name))
			}
		}
		if got := d.leaveAll(); !slices.Equal(got, []string{"first", "stays"}) {
			t.Errorf("in were %v", got)
		}
	})
}

func TestValidate(t *testing.T) {
	for _, cfg := range []admit.Config{{}, {Places: -1}, {Places: 1, Waiting: -1}, {Places: 1, Wait: -1}} {
		if _, err := admit.New(cfg); err == nil {
			t.Errorf("%+v is accepted", cfg)
		}
	}
}

// value is a counter's or gauge's, under these label values.
func value(t *testing.T, m *prometheus.Registry, name string, labels ...string) float64 {
	t.Helper()
	families, err := m.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, c := range f.GetMetric() {
			var have []string
			for _, l := range c.GetLabel() {
				have = append(have, l.GetValue())
			}
			if f.GetName() == name && slices.Equal(have, labels) {
				return c.GetCounter().GetValue() + c.GetGauge().GetValue()
			}
		}
	}
	return 0
}
