package push_test

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nudgesync/nudge/notify/push"
)

func TestWaits(t *testing.T) {
	for _, c := range []struct {
		name        string
		answer      push.Answer
		floor       time.Duration
		attempts    int
		since       time.Duration
		least, most time.Duration
	}{
		{"first retry", push.Answer{}, time.Second, 0, 0, time.Second, 3 * time.Second},
		{"fifth retry", push.Answer{}, time.Second, 4, time.Minute, time.Second, 33 * time.Second},
		{"no more than ten minutes", push.Answer{}, time.Second, 19, time.Minute, time.Second, 601 * time.Second},
		{"Google's floor", push.Answer{}, 10 * time.Second, 0, 0, 10 * time.Second, 30 * time.Second},
		{"after an hour, slowly", push.Answer{}, time.Second, 0, 61 * time.Minute, 30 * time.Minute, time.Hour},
		{"asked for", push.Answer{RetryAfter: 7 * time.Minute}, time.Second, 0, 0, 7 * time.Minute, 8 * time.Minute},
		{"not believed", push.Answer{RetryAfter: 1e6 * time.Hour}, time.Second, 0, 0, 6 * time.Hour, 7 * time.Hour},
		{"too many to a token", push.Answer{Outcome: push.Throttled}, time.Second, 0, 0, time.Minute, 67 * time.Second},
		{"again", push.Answer{Outcome: push.Throttled}, time.Second, 2, 0, 4 * time.Minute, 5 * time.Minute},
		{"too many of a project", push.Answer{Outcome: push.SlowDown}, time.Second, 0, 0, time.Minute, 90 * time.Second},
		{"our fault", push.Answer{Outcome: push.Fault}, time.Second, 0, 0, 15 * time.Minute, 20 * time.Minute},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				begin()
				s := newMemory()
				l := lane(says(c.answer), "app")
				l.Floor = c.floor
				d := ios("app")
				d.Attempts = c.attempts
				name := s.due(1, d)[0]
				s.devices[name].since = time.Now().Add(-c.since) // nothing runs yet
				run(t, push.Config{Store: s, Lanes: []push.Lane{l}})
				time.Sleep(100 * time.Millisecond)
				if r := s.taken(); len(r) != 1 || r[0].Verdict != push.Later || r[0].Wait < c.least || r[0].Wait > c.most {
					t.Errorf("%+v, want a wait of %v to %v", r, c.least, c.most)
				}
			})
		})
	}
}

// A large fan-out takes its time: the rate grows for a minute.
func TestRamp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin()
		s := newMemory()
		l := lane(accepts(time.Millisecond), "app")
		l.Rate = 500
		s.due(10_000, ios("app"))
		run(t, push.Config{Store: s, Lanes: []push.Lane{l}})
		for _, c := range []struct {
			after         time.Duration
			least, atMost int
		}{
			{time.Second, 190, 260}, {10 * time.Second, 2200, 2900}, {9 * time.Second, 4600, 5400},
		} {
			time.Sleep(c.after)
			if n := s.count(push.Sent); n < c.least || n > c.atMost {
				t.Errorf("after another %v: %d sent, want %d to %d", c.after, n, c.least, c.atMost)
			}
		}
		time.Sleep(20 * time.Second)
		if n := s.count(push.Sent); n != 10_000 {
			t.Errorf("%d sent after 40 s", n)
		}
	})
}

// In the minutes around a quarter-hour a large fan-out stands still, but for what is urgent.
func TestQuarterHours(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(13 * time.Minute)
		s := newMemory()
		l := lane(accepts(time.Millisecond), "app")
		l.Rate, l.Ramp = 100, -1
		s.due(10_000, ios("app"))
		run(t, push.Config{Store: s, Lanes: []push.Lane{l}})
		time.Sleep(75 * time.Second) // what was claimed before 14:00 is sent
		before := s.count(push.Sent)
		urgent := ios("app")
		urgent.Urgency = push.Now
		s.due(3, urgent)
		time.Sleep(100 * time.Second)
		if n := s.count(push.Sent); n != before+3 {
			t.Errorf("%d sent around :15, want the 3 that are urgent", n-before)
		}
		time.Sleep(20 * time.Second)
		if n := s.count(push.Sent); n < before+200 {
			t.Errorf("%d sent, it does not go on after :16", n-before)
		}
	})
}

// What is not large goes at any time.
func TestQuarterHoursOfFew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newMemory()
		s.due(100, ios("app"))
		run(t, push.Config{Store: s, Lanes: []push.Lane{lane(accepts(time.Millisecond), "app")}})
		time.Sleep(2 * time.Second)
		if n := s.count(push.Sent); n != 100 {
			t.Errorf("%d sent at midnight", n)
		}
	})
}

// "Too many" of a project slows the lane down, and it recovers.
func TestSlowDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin()
		s := newMemory()
		l := lane(nil, "app")
		var mu sync.Mutex
		var sent []time.Time
		refuse := true
		l.Rate, l.Ramp, l.Sender = 1000, -1, sender(func(context.Context, push.Message) push.Answer {
			mu.Lock()
			defer mu.Unlock()
			sent = append(sent, time.Now())
			if refuse {
				return push.Answer{Outcome: push.SlowDown, Reason: "QUOTA_EXCEEDED"}
			}
			return push.Answer{Outcome: push.Accepted, Reason: "ok"}
		})
		s.due(8_000, ios("app"))
		run(t, push.Config{Store: s, Lanes: []push.Lane{l}})
		time.Sleep(8 * time.Second)
		mu.Lock()
		late := 0
		for _, at := range sent {
			if time.Since(at) < 3*time.Second {
				late++
			}
		}
		if late > 300 {
			t.Errorf("%d in 3 s, after 5 s of refusals", late)
		}
		refuse = false
		mu.Unlock()
		time.Sleep(10 * time.Minute)
		if n := s.count(push.Sent); n != 8_000 {
			t.Errorf("%d sent", n)
		}
	})
}
