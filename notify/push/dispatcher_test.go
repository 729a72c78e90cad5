package push_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nudgesync/nudge/notify/push"
)

func ios(app string) push.Due {
	return push.Due{Road: push.APNs, App: app, Environment: push.Production, Urgency: push.Soon}
}

func lane(s push.Sender, apps ...string) push.Lane {
	return push.Lane{Name: "apns/T/production", Road: push.APNs, Environment: push.Production, Apps: apps, Sender: s}
}

// begin moves the bubble's clock, which starts at midnight, off the quarter-hour.
func begin() { time.Sleep(5 * time.Minute) }

func TestDueDevicesAreSentOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin()
		s := newMemory()
		s.due(300, ios("app"))
		run(t, push.Config{Store: s, Lanes: []push.Lane{lane(accepts(50*time.Millisecond), "app")}})
		time.Sleep(30 * time.Second)
		if n := s.count(push.Sent); n != 300 || len(s.taken()) != 300 {
			t.Errorf("%d sent in %d results", n, len(s.taken()))
		}
		s.mu.Lock()
		before := s.claims
		if s.settles > 60 {
			t.Errorf("%d statements to settle 300", s.settles)
		}
		s.mu.Unlock()
		d := s.due(1, ios("app"))
		time.Sleep(1100 * time.Millisecond)
		if last := s.taken()[300]; last.Due.Device != d[0] {
			t.Errorf("a device that became due later: %v", last.Due.Device)
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		if n := s.claims - before; n > 3 {
			t.Errorf("an idle lane claims %d times a second", n)
		}
	})
}

// A store that is away, for claims and for settling, costs time.
func TestStoreAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin()
		s := newMemory()
		s.due(10, ios("app"))
		s.fail(errAway)
		var sent int
		var mu sync.Mutex
		_, stop := run(t, push.Config{Store: s, Lanes: []push.Lane{lane(sender(func(context.Context, push.Message) push.Answer {
			mu.Lock()
			defer mu.Unlock()
			if sent++; sent == 10 {
				s.fail(errAway)
			}
			return push.Answer{Outcome: push.Accepted, Reason: "ok"}
		}), "app")}})
		time.Sleep(5 * time.Second)
		s.fail(nil)
		time.Sleep(10 * time.Second)
		s.fail(nil)
		time.Sleep(10 * time.Second)
		stop()
		if sent != 10 || s.count(push.Sent) != 10 {
			t.Errorf("%d sent, %d settled", sent, s.count(push.Sent))
		}
	})
}

// One provider is dead, one slow, one lies; the fourth keeps its rate.
func TestIsolation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin()
		s := newMemory()
		hang := sender(func(ctx context.Context, _ push.Message) push.Answer {
			<-ctx.Done()
			return push.Broken(ctx.Err())
		})
		lanes := []push.Lane{
			lane(hang, "dead"), lane(accepts(8*time.Second), "slow"), lane(says(push.Answer{Outcome: push.Misconfigured}), "bad"),
			lane(accepts(100*time.Millisecond), "good"),
		}
		for i := range lanes {
			lanes[i].Name = fmt.Sprint("lane", i)
			s.due(400, ios(lanes[i].Apps[0]))
		}
		run(t, push.Config{Store: s, Lanes: lanes})
		// 8 workers at 100 ms are 80 a second, so 400 take 5 s, and the first claims are small.
		time.Sleep(7 * time.Second)
		sent := map[string]int{}
		for _, r := range s.taken() {
			if r.Verdict == push.Sent {
				sent[r.Due.App]++
			}
			if r.Verdict == push.Disabled || r.Verdict == push.Quarantined {
				t.Errorf("disabled: %+v", r)
			}
		}
		if sent["good"] != 400 {
			t.Errorf("sent: %v", sent)
		}
		time.Sleep(time.Hour)
		if n := s.count(push.Sent); n != 800 {
			t.Errorf("%d were sent by those that work, of 800", n)
		}
	})
}

// Nothing is sent whose answer could not be settled within the lease.
func TestLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin()
		s := newMemory()
		slow := make(chan time.Duration, 1)
		slow <- 5 * time.Millisecond
		var mu sync.Mutex
		claimed := map[string]time.Time{}
		l := lane(sender(func(ctx context.Context, m push.Message) push.Answer {
			mu.Lock()
			if len(claimed) == 300 { // after hundreds of quick answers hundreds are claimed at once
				select {
				case <-slow:
				default:
				}
				slow <- 9 * time.Second
			}
			claimed[m.Nudge] = time.Now()
			mu.Unlock()
			took := <-slow
			slow <- took
			time.Sleep(took)
			return push.Answer{Outcome: push.Accepted, Reason: "ok"}
		}), "app")
		s.due(2000, ios("app"))
		run(t, push.Config{Store: s, Lanes: []push.Lane{l}})
		time.Sleep(5 * time.Minute)
		unsent := 0
		for _, r := range s.taken() {
			if !r.Attempted {
				unsent++
			}
		}
		if unsent == 0 {
			t.Error("nothing was let go")
		}
		seen := map[string]int{}
		for _, r := range s.taken() {
			if r.Attempted {
				seen[r.Due.Device]++
			}
		}
		for d, n := range seen {
			if n != 1 {
				t.Errorf("%s was sent to %d times", d, n)
			}
		}
		mu.Lock()
		defer mu.Unlock()
		if len(claimed) > s.count(push.Sent)+8 {
			t.Errorf("%d were sent and %d settled", len(claimed), s.count(push.Sent))
		}
	})
}

// A lease begins when the store gives it, not when its answer has come.
func TestLeaseOfASlowStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin()
		s := newMemory()
		s.slow = 14 * time.Second
		var mu sync.Mutex
		sent := 0
		l := lane(sender(func(_ context.Context, m push.Message) push.Answer {
			const answered, held, settled = 10 * time.Second, 10 * time.Second, 5 * time.Second
			if left := s.lease(m.Nudge); left < answered+held+settled {
				t.Errorf("a push begins with %v of its lease left", left)
			}
			mu.Lock()
			sent++
			took := 5 * time.Millisecond
			if sent > 300 { // after hundreds of quick answers hundreds are claimed at once
				took = 9 * time.Second
			}
			mu.Unlock()
			time.Sleep(took)
			return push.Answer{Outcome: push.Accepted, Reason: "ok"}
		}), "app")
		s.due(2000, ios("app"))
		run(t, push.Config{Store: s, Lanes: []push.Lane{l}})
		time.Sleep(5 * time.Minute)
	})
}

// A store that has gone silent, as a database does behind a dead network, is asked again.
func TestSilentStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin()
		s := &silent{memory: newMemory()}
		s.due(1, ios("app"))
		run(t, push.Config{Store: s, Lanes: []push.Lane{lane(accepts(0), "app")}})
		time.Sleep(time.Minute)
		if n := s.count(push.Sent); n != 1 {
			t.Errorf("%d settled a minute later", n)
		}
	})
}

// A stop settles what is on its way, gives back what was not sent, and ends in time though the provider hangs.
func TestStop(t *testing.T) {
	for name, took := range map[string]time.Duration{"answered": time.Second, "hangs": time.Hour} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				begin()
				s := newMemory()
				s.due(30, ios("app"))
				_, stop := run(t, push.Config{Store: s, Lanes: []push.Lane{lane(accepts(took), "app")}})
				time.Sleep(100 * time.Millisecond)
				began := time.Now()
				stop()
				if d := time.Since(began); d > 5*time.Second {
					t.Errorf("stopping took %v", d)
				}
				want := map[bool]int{true: 8, false: 0}[took < time.Minute]
				claimed := 0
				s.mu.Lock()
				for _, r := range s.devices {
					if !r.next.IsZero() && r.next.After(time.Now().Add(10*time.Second)) {
						claimed++
					}
				}
				s.mu.Unlock()
				if s.count(push.Sent) != want || claimed != 0 {
					t.Errorf("%d sent, %d still claimed", s.count(push.Sent), claimed)
				}
			})
		})
	}
}

// A device of an app that nobody sends for stays due, and the log says once what to do.
func TestUnknownApp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin()
		s := newMemory()
		s.due(50, ios("stranger"))
		s.due(1, push.Due{Road: push.WebPush, App: "web"})
		var logs bytes.Buffer
		_, stop := run(t, push.Config{
			Store: s, Log: slog.New(slog.NewTextHandler(&logs, nil)),
			Lanes: []push.Lane{lane(accepts(0), "app")},
		})
		time.Sleep(2 * time.Minute)
		stop()
		for _, r := range s.taken() {
			if r.Verdict != push.Later || r.Reason != "unknown_app" {
				t.Errorf("%+v", r)
			}
		}
		if n := len(s.taken()); n != 51 {
			t.Errorf("%d settled", n)
		}
		if n := strings.Count(logs.String(), "unknown_app"); n != 2 || !strings.Contains(logs.String(), "stranger") {
			t.Errorf("the log says so %d times, want once for each app:\n%s", n, &logs)
		}
	})
}

// What is urgent carries the app's text, if it has one.
func TestAlerts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin()
		s := newMemory()
		var mu sync.Mutex
		got := map[string]push.Message{}
		run(t, push.Config{
			Store: s, Alerts: map[string]push.Alert{"app": {TitleLocKey: "T", BodyLocKey: "B"}},
			Lanes: []push.Lane{lane(sender(func(_ context.Context, m push.Message) push.Answer {
				mu.Lock()
				defer mu.Unlock()
				got[fmt.Sprint(m.App, m.Urgency)] = m
				return push.Answer{Outcome: push.Accepted, Reason: "ok"}
			}), "app", "other")},
		})
		for _, app := range []string{"app", "other"} {
			for _, u := range []int{push.Lazy, push.Soon, push.Now} {
				d := ios(app)
				d.Urgency = u
				s.due(1, d)
			}
		}
		time.Sleep(2 * time.Second)
		mu.Lock()
		defer mu.Unlock()
		for k, m := range got {
			if (m.Alert != nil) != (k == "app2") || m.TTL != 24*time.Hour || m.Nudge == "" {
				t.Errorf("%s: %+v", k, m)
			}
		}
		if len(got) != 6 {
			t.Errorf("%d sent", len(got))
		}
	})
}

func TestWake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin()
		s := newMemory()
		d, _ := run(t, push.Config{Store: s, Poll: time.Hour, Lanes: []push.Lane{lane(accepts(0), "app")}})
		time.Sleep(time.Second)
		s.due(1, ios("app"))
		d.Wake()
		synctest.Wait()
		if len(s.taken()) != 1 {
			t.Error("not sent")
		}
	})
}

// No token is shown, whatever prints it.
func TestTargetsAreRedacted(t *testing.T) {
	d := push.Due{Device: "d", Target: push.Target{Kind: "token", Value: "SECRET", P256dh: "SECRET", Auth: "SECRET"}}
	var out bytes.Buffer
	for _, h := range []slog.Handler{slog.NewTextHandler(&out, nil), slog.NewJSONHandler(&out, nil)} {
		slog.New(h).Info("x", "target", d.Target, "due", d, "pointer", &d, "result", push.Result{Due: d}, "message", push.Message{Target: d.Target})
	}
	fmt.Fprintf(&out, "%v %+v %#v %s %q %v", d, d, d, d.Target, d.Target, &d)
	if err := json.NewEncoder(&out).Encode(push.Result{Due: d}); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(out.String(), "SECRET") || !strings.Contains(out.String(), "redacted token") {
		t.Error(out.String())
	}
}

func TestValidate(t *testing.T) {
	m, s := (*push.Metrics)(nil), says(push.Answer{})
	for name, cfg := range map[string]push.Config{
		"nothing":     {},
		"no metrics":  {Store: newMemory(), Log: slog.Default(), Metrics: m},
		"short lease": {Store: newMemory(), Log: slog.Default(), Metrics: new(push.Metrics), Lease: 20 * time.Second},
		"no sender":   {Store: newMemory(), Log: slog.Default(), Metrics: new(push.Metrics), Lanes: []push.Lane{{Name: "a", Road: "apns"}}},
		"same name":   {Store: newMemory(), Log: slog.Default(), Metrics: new(push.Metrics), Lanes: []push.Lane{lane(s, "a"), lane(s, "b")}},
		"same app": {Store: newMemory(), Log: slog.Default(), Metrics: new(push.Metrics), Lanes: []push.Lane{
			lane(s, "a"), {Name: "b", Road: push.APNs, Environment: push.Production, Apps: []string{"a"}, Sender: s},
		}},
		"no environment": {Store: newMemory(), Log: slog.Default(), Metrics: new(push.Metrics), Lanes: []push.Lane{{Name: "a", Road: "fcm", Apps: []string{"a"}, Sender: s}}},
		"no workers":     {Store: newMemory(), Log: slog.Default(), Metrics: new(push.Metrics), Lanes: []push.Lane{{Name: "a", Road: "apns", Sender: s, Workers: -1}}},
	} {
		if _, err := push.New(cfg); err == nil {
			t.Errorf("%s is accepted", name)
		}
	}
}
