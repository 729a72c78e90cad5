package push_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nudgesync/nudge/notify/push"
)

// A run of failures opens the breaker: nothing is sent but one device at a time, and when that one's answer is good
// all are sent.
func TestBreakerOfAnOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin()
		s := newMemory()
		s.due(100, ios("app"))
		var (
			mu    sync.Mutex
			times []time.Time
			works bool
		)
		run(t, push.Config{Store: s, Lanes: []push.Lane{lane(sender(func(context.Context, push.Message) push.Answer {
			mu.Lock()
			defer mu.Unlock()
			times = append(times, time.Now())
			if works {
				return push.Answer{Outcome: push.Accepted, Reason: "ok"}
			}
			return push.Answer{Outcome: push.Retry, Reason: "503"}
		}), "app")}})
		time.Sleep(10 * time.Minute)
		mu.Lock()
		if n := len(times); n < 13 || n > 30 {
			t.Errorf("%d attempts in ten minutes of an outage", n)
		}
		for i, gap := range []time.Duration{5 * time.Second, 10 * time.Second, 20 * time.Second} {
			// The probes come after the first ten, which one claim may have made a few more.
			if probes := times[len(times)-8:]; i < 7 && probes[i+1].Sub(probes[i]) < gap {
				t.Errorf("probe %d came after %v", i, probes[i+1].Sub(probes[i]))
			}
		}
		works = true
		mu.Unlock()
		time.Sleep(15 * time.Minute)
		if n := s.count(push.Sent); n != 100 {
			t.Errorf("%d sent after the outage", n)
		}
	})
}

// Wrong credentials stop the lane at the first answer, and cost no device anything but time.
func TestBreakerOfWrongSettings(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin()
		s := newMemory()
		s.due(100, ios("app"))
		var logs bytes.Buffer
		_, stop := run(t, push.Config{
			Store: s, Log: slog.New(slog.NewTextHandler(&logs, nil)),
			Lanes: []push.Lane{lane(says(push.Answer{Outcome: push.Misconfigured, Reason: "InvalidProviderToken", Hint: "check the key"}), "app")},
		})
		time.Sleep(50 * time.Second)
		attempts := 0
		for _, r := range s.taken() {
			if r.Attempted {
				attempts++
			}
			if r.Verdict != push.Later || r.Wait < 55*time.Second {
				t.Errorf("%v, wait %v", r.Verdict, r.Wait)
			}
		}
		if attempts > 8 { // as many as there are workers
			t.Errorf("%d attempts", attempts)
		}
		time.Sleep(time.Minute)
		stop()
		if n := strings.Count(logs.String(), "breaker is open"); n != 2 || !strings.Contains(logs.String(), "check the key") {
			t.Errorf("the log says so %d times in two minutes:\n%s", n, &logs)
		}
	})
}

// A wrong environment makes every token bad: the breaker opens before a single device is disabled.
func TestNoMassDisable(t *testing.T) {
	for _, pushes := range []int{0, 1000} { // that were accepted before
		t.Run(fmt.Sprint(pushes), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				begin()
				s := newMemory()
				bad := push.Answer{Outcome: push.Disable, Reason: "BadDeviceToken", Doubt: true}
				var mu sync.Mutex
				sent, wrong := 0, pushes == 0
				run(t, push.Config{Store: s, Lanes: []push.Lane{lane(sender(func(context.Context, push.Message) push.Answer {
					time.Sleep(20 * time.Millisecond)
					mu.Lock()
					defer mu.Unlock()
					if sent++; wrong {
						return bad
					}
					return push.Answer{Outcome: push.Accepted, Reason: "ok"}
				}), "app")}})
				s.due(pushes, ios("app"))
				time.Sleep(time.Minute)
				mu.Lock()
				wrong, sent = true, 0
				mu.Unlock()
				s.due(1000, ios("app"))
				time.Sleep(time.Hour)
				mu.Lock()
				defer mu.Unlock()
				if s.count(push.Disabled) != 0 || s.count(push.Sent) != pushes {
					t.Errorf("%d disabled, %d sent", s.count(push.Disabled), s.count(push.Sent))
				}
				if sent > 30 {
					t.Errorf("%d bad tokens were sent in an hour", sent)
				}
			})
		})
	}
}

// A bad token now and then is disabled, though not at once.
func TestSingleBadTokens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin()
		s := newMemory()
		run(t, push.Config{Store: s, Lanes: []push.Lane{lane(sender(func(_ context.Context, m push.Message) push.Answer {
			if m.Target.Value == "bad" {
				return push.Answer{Outcome: push.Disable, Reason: "BadDeviceToken", Doubt: true}
			}
			return push.Answer{Outcome: push.Accepted, Reason: "ok"}
		}), "app")}})
		for range 20 {
			s.due(30, ios("app"))
			bad := ios("app")
			bad.Target = push.Target{Kind: "token", Value: "bad"}
			s.due(1, bad)
			time.Sleep(5 * time.Second)
		}
		time.Sleep(15 * time.Second)
		if s.count(push.Disabled) != 20 || s.count(push.Sent) != 600 {
			t.Errorf("%d disabled, %d sent", s.count(push.Disabled), s.count(push.Sent))
		}
		for _, r := range s.taken() {
			if took := time.Since(r.SentAt); r.Verdict == push.Disabled && took < 10*time.Second {
				t.Errorf("disabled after %v", took)
			}
		}
	})
}

// A 410 that is older than the registration is about another installation.
func TestGoneBeforeRegistration(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin()
		s := newMemory()
		at := time.Now()
		run(t, push.Config{Store: s, Lanes: []push.Lane{lane(says(push.Answer{Outcome: push.Disable, Reason: "Unregistered", Gone: at}), "app")}})
		old, fresh := ios("app"), ios("app")
		old.RegisteredAt, fresh.RegisteredAt = at.Add(-time.Millisecond), at.Add(time.Millisecond)
		s.due(1, old)
		s.due(1, fresh)
		time.Sleep(2 * time.Second)
		for _, r := range s.taken() {
			if want := r.Due.RegisteredAt.Before(at); (r.Verdict == push.Disabled) != want {
				t.Errorf("registered %v after the 410: %v", r.Due.RegisteredAt.Sub(at), r.Verdict)
			}
		}
		if len(s.taken()) < 2 {
			t.Error("not settled")
		}
	})
}

// What one user registers, however bad and often, stops nobody else's pushes.
func TestOneUsersBadTokens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin()
		s := newMemory()
		run(t, push.Config{Store: s, Lanes: []push.Lane{lane(sender(func(_ context.Context, m push.Message) push.Answer {
			time.Sleep(20 * time.Millisecond)
			if m.Target.Value == "bad" {
				return push.Answer{Outcome: push.Disable, Reason: "BadDeviceToken", Doubt: true}
			}
			return push.Answer{Outcome: push.Accepted, Reason: "ok"}
		}), "app")}})
		for range 20 {
			bad := ios("app")
			bad.User, bad.Target = "mallory", push.Target{Kind: "token", Value: "bad"}
			s.due(30, bad)
			s.due(3, ios("app"))
			time.Sleep(5 * time.Second)
		}
		time.Sleep(15 * time.Second)
		if s.count(push.Sent) != 60 || s.count(push.Disabled) != 600 {
			t.Errorf("%d sent, %d disabled", s.count(push.Sent), s.count(push.Disabled))
		}
	})
}
