package main

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/nudgesync/nudge/server/wire"
)

// A push is past the budget if it follows another one too soon and the device asked for nothing in between,
// whatever the simulated clock shows.
func TestPushesPastTheBudget(t *testing.T) {
	start := time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)
	at := func(minutes float64) time.Time { return start.Add(time.Duration(minutes * float64(time.Minute))) }
	for name, tt := range map[string]struct {
		road string
		play func(p *pushes, m *member)
		want int64
	}{
		"apart": {wire.RoadAPNs, func(p *pushes, m *member) { p.answered(m, 200, at(0)); p.answered(m, 200, at(20)) }, 0},
		"soon":  {wire.RoadAPNs, func(p *pushes, m *member) { p.answered(m, 200, at(0)); p.answered(m, 200, at(19)) }, 1},
		"fcm": {wire.RoadFCM, func(p *pushes, m *member) {
			p.answered(m, 200, at(0))
			p.answered(m, 200, at(3))
			p.answered(m, 201, at(4))
		}, 1},
		"asked in between": {wire.RoadAPNs, func(p *pushes, m *member) {
			p.answered(m, 200, at(0))
			p.heard(m, at(1))
			p.answered(m, 200, at(2))
			p.answered(m, 200, at(3))
		}, 1},
		"asked before": {wire.RoadAPNs, func(p *pushes, m *member) {
			p.heard(m, at(-1))
			p.answered(m, 200, at(0))
			p.answered(m, 200, at(1))
		}, 1},
		"refused": {wire.RoadAPNs, func(p *pushes, m *member) {
			p.answered(m, 200, at(0))
			p.answered(m, 503, at(1))
			p.answered(m, 200, at(21))
		}, 0},
		"the clock jumped": {wire.RoadAPNs, func(p *pushes, m *member) {
			p.answered(m, 200, at(0))
			p.jumped(at(31), 30*time.Minute)
			p.jumped(at(62), 30*time.Minute)
			p.answered(m, 200, at(70)) // ten minutes after the first
			p.answered(m, 200, at(91))
		}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			o := defaults()
			if err := o.validate(); err != nil {
				t.Fatal(err)
			}
			p, m := newPushes(o.apart), &member{road: tt.road}
			tt.play(p, m)
			sum := p.summary([]*member{m}, nil)
			if got := sum.Roads[tt.road].Early; got != tt.want {
				t.Errorf("%d past the budget, want %d", got, tt.want)
			}
			if sum.ok() != (tt.want == 0) {
				t.Errorf("ok: %v", sum.ok())
			}
		})
	}
}

// A push is for the device's own write alone if it had said that it has everything, and only it has written since.
func TestPushesToTheOrigin(t *testing.T) {
	for name, tt := range map[string]struct {
		play func(m *member, p *pushes) // after it has said so
		want int64
	}{
		"nobody wrote":      {func(*member, *pushes) {}, 0},
		"it wrote":          {func(m *member, _ *pushes) { m.tracker.expect(expected{own: true}) }, 1},
		"another one wrote": {func(m *member, _ *pushes) { m.tracker.expect(expected{}) }, 0},
		"both wrote":        {func(m *member, _ *pushes) { m.tracker.expect(expected{}); m.tracker.expect(expected{own: true}) }, 0},
		"what it said is lost": {func(m *member, p *pushes) {
			p.failed(time.Now())
			m.tracker.expect(expected{own: true})
		}, 0},
		"it was away": {func(m *member, _ *pushes) {
			m.tracker.left()
			m.tracker.connected()
			m.tracker.acknowledged(time.Now())
			m.tracker.expect(expected{})
			m.tracker.expect(expected{own: true})
		}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p, m := newPushes(map[string]time.Duration{}), &member{road: wire.RoadFCM}
				m.tracker.connected()
				time.Sleep(backFor)
				m.tracker.acknowledged(time.Now())
				time.Sleep(time.Millisecond)
				tt.play(m, p)
				time.Sleep(2 * heardWithin)
				p.answered(m, 200, time.Now())
				if got := p.summary(nil, nil).ToOrigin; got != tt.want {
					t.Errorf("%d pushes to the origin, want %d", got, tt.want)
				}
			})
		})
	}
}
