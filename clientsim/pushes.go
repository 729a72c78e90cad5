package main

import (
	"context"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/nudgesync/nudge/clientsim/provider"
	"github.com/nudgesync/nudge/server/wire"
)

// budgets are how far apart two pushes to a device are, unless its app asked for something by itself in between: what
// a server that leaves push.budget as it is keeps to.
func budgets() map[string]string {
	return map[string]string{wire.RoadAPNs: "20m", wire.RoadFCM: "3m", wire.RoadWebPush: "3m"}
}

// slack is how much a push may be early: the one before may have taken long on its way.
const slack = time.Second

// pushes is what is known of the pushes of a run. Safe for concurrent use.
type pushes struct {
	apart map[string]time.Duration // the budgets

	mu       sync.Mutex
	toOrigin int64       // whose only cause can be the device's own write; a lower bound
	outages  []time.Time // when the server could not be reached, once a second at most
	roads    map[string]*roadStats
	phones   map[*member]*phoneStats
	jumps    []jump
	lastSeen int64 // entry of the providers' log
	missed   error // the log could not be followed: the figures are not whole
}

// roadStats is one road's part of the summary.
type roadStats struct {
	Devices  int   `json:"devices"`
	Accepted int64 `json:"accepted"`
	Refused  int64 `json:"refused"`
	Failed   int64 `json:"failed"` // by --provider-errors
	Woken    int64 `json:"woken"`
	Most     int   `json:"most_a_device"`
	Early    int64 `json:"past_the_budget"` // accepted too soon after the one before
}

// phoneStats is what the budget is judged by.
type phoneStats struct {
	accepted int
	last     time.Time   // of the last push that was accepted
	heard    []time.Time // when its app asked by itself since
}

// jump is a move of the simulated clock: what it shows from then on is by that much ahead.
type jump struct {
	from  time.Time
	ahead time.Duration
}

func newPushes(apart map[string]time.Duration) *pushes {
	return &pushes{apart: apart, roads: map[string]*roadStats{}, phones: map[*member]*phoneStats{}}
}

func (p *pushes) road(name string) *roadStats {
	r := p.roads[name]
	if r == nil {
		r = &roadStats{}
		p.roads[name] = r
	}
	return r
}

func (p *pushes) phone(m *member) *phoneStats {
	ph := p.phones[m]
	if ph == nil {
		ph = &phoneStats{}
		p.phones[m] = ph
	}
	return ph
}

// woke counts an app that a push has started.
func (p *pushes) woke(m *member) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.road(m.road).Woken++
}

// heard notes that the app asked the server for something without a push: its platform lets it be woken again.
func (p *pushes) heard(m *member, at time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	ph := p.phone(m)
	ph.heard = append(ph.heard, at)
}

// answered counts a provider's answer, given at a time of the simulation's clock.
func (p *pushes) answered(m *member, status int, at time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	r := p.road(m.road)
	if status < http.StatusOK || status >= http.StatusMultipleChoices {
		r.Refused++
		return
	}
	r.Accepted++
	for i := len(p.jumps) - 1; i >= 0; i-- {
		if !at.Before(p.jumps[i].from) {
			at = at.Add(-p.jumps[i].ahead)
			break
		}
	}
	ph := p.phone(m)
	// A server that was killed may have forgotten what it was told just before.
	if settled, only := m.tracker.spared(at); only && !slices.ContainsFunc(p.outages, func(o time.Time) bool {
		return o.Sub(settled).Abs() < heardWithin
	}) {
		p.toOrigin++
	}
	ph.accepted++
	r.Most = max(r.Most, ph.accepted)
	asked := false
	kept := ph.heard[:0]
	for _, h := range ph.heard {
		asked = asked || h.After(ph.last) && h.Before(at)
		if !h.Before(at) {
			kept = append(kept, h)
		}
	}
	ph.heard = kept
	if !ph.last.IsZero() && !asked && at.Sub(ph.last) < p.apart[m.road]-slack {
		r.Early++
	}
	ph.last = at
}

// failed notes that the server could not be reached.
func (p *pushes) failed(now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if n := len(p.outages); n == 0 || now.Sub(p.outages[n-1]) > time.Second {
		p.outages = append(p.outages, now)
	}
}

// jumped notes that the clock was moved on by d, to now.
func (p *pushes) jumped(now time.Time, d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if n := len(p.jumps); n > 0 {
		d += p.jumps[n-1].ahead
	}
	p.jumps = append(p.jumps, jump{from: now, ahead: d})
}

// follow reads what the providers answered until ctx ends.
func (s *simulation) follow(ctx context.Context) {
	for ctx.Err() == nil {
		if err := s.catchUp(ctx); err != nil && ctx.Err() == nil {
			s.pushes.mu.Lock()
			s.pushes.missed = err
			s.pushes.mu.Unlock()
			_ = waitUntil(ctx, time.Now().Add(time.Second))
		}
	}
}

func (s *simulation) catchUp(ctx context.Context) error {
	s.pushes.mu.Lock()
	since := s.pushes.lastSeen
	s.pushes.mu.Unlock()
	entries, err := s.pocket.answers(ctx, since)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if m := s.pocket.member(e.Phone); m != nil {
			s.pushes.answered(m, e.Status, e.At)
		}
		since = e.N
	}
	s.pushes.mu.Lock()
	defer s.pushes.mu.Unlock()
	s.pushes.lastSeen = since
	return nil
}

// trouble has providers fail and tokens change while there are writes.
func (s *simulation) trouble(ctx, fleet context.Context, running *sync.WaitGroup) error {
	if s.pocket == nil {
		return nil
	}
	if s.opts.errors > 0 {
		if err := s.pocket.fail(ctx, s.opts.errors); err != nil {
			return err
		}
		running.Go(func() {
			if s.waitShare(fleet, 1) == nil {
				s.pushes.note(s.pocket.heal(fleet))
			}
		})
	}
	rng := rand.New(rand.NewPCG(s.opts.seed, 1))
	for _, m := range s.members {
		if at := rng.Float64(); m.road != socket && rng.Float64() < s.opts.rotations {
			running.Go(func() {
				if s.waitShare(fleet, at) == nil && m.asleep.installed() {
					s.pushes.note(s.pocket.rotate(fleet, m))
				}
			})
		}
	}
	return nil
}

// later moves the phones' clock on, so that what their platforms hold back comes.
func (s *simulation) later(ctx context.Context) {
	now, err := s.pocket.advance(ctx, recoverBy)
	if err == nil {
		s.pushes.jumped(now, recoverBy)
	}
	s.pushes.note(err)
}

// note keeps an error of the simulation's own, which the summary names.
func (p *pushes) note(err error) {
	if err == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.missed = err
}

// pushSummary is the pushes' part of the summary.
type pushSummary struct {
	Roads    map[string]*roadStats `json:"roads"`
	ToOrigin int64                 `json:"to_origin"` // a lower bound, as origin_nudges is
	// Advanced is by how much the phones' clock was moved on while all settled.
	Advanced float64 `json:"advanced_s"`
	Missed   string  `json:"missed,omitempty"` // why the figures are not whole
}

// ok reports whether nobody was pushed to past the budget or for nothing.
func (p *pushSummary) ok() bool {
	for _, r := range p.Roads {
		if r.Early > 0 {
			return false
		}
	}
	return p.ToOrigin == 0 && p.Missed == ""
}

func (p *pushes) summary(members []*member, failed map[provider.Name]int64) *pushSummary {
	p.mu.Lock()
	defer p.mu.Unlock()
	sum := &pushSummary{Roads: map[string]*roadStats{}, ToOrigin: p.toOrigin}
	for _, m := range members {
		if m.road != socket {
			p.road(m.road).Devices++
		}
	}
	for name, r := range p.roads {
		road := *r
		road.Failed = failed[provider.Name(name)] // roads and providers have the same names
		sum.Roads[name] = &road
	}
	if n := len(p.jumps); n > 0 {
		sum.Advanced = p.jumps[n-1].ahead.Seconds()
	}
	if p.missed != nil {
		sum.Missed = p.missed.Error()
	}
	return sum
}
