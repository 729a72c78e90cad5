package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nudgesync/nudge/clientsim/device"
	"github.com/nudgesync/nudge/clientsim/oracle"
	"github.com/nudgesync/nudge/server/wire"
)

// behaviour is how a device comes and goes.
type behaviour string

const (
	steady     behaviour = "steady"
	late       behaviour = "late"       // comes for the first time in mid-run
	returning  behaviour = "returning"  // leaves, and returns with its cursor
	expiring   behaviour = "expiring"   // leaves, and the log is trimmed before it returns
	reconnects behaviour = "reconnects" // loses its connection at random
)

// trimAt is when the log is trimmed, as a share of the run: expiring devices are away around it.
const trimAt = 0.55

// life is one stretch in which a device is running, as shares of the run; to 0 means to its end.
type life struct{ from, to float64 }

// mix is how many of a hundred devices are of each kind; the rest is steady.
var mix = [...]struct {
	kind  behaviour
	share int
}{{late, 6}, {returning, 8}, {expiring, 4}, {reconnects, 8}}

// behaviours deals out kinds to n devices: at least one of each as soon as there are five.
func behaviours(rng *rand.Rand, n int) []behaviour {
	out := make([]behaviour, 0, n)
	for _, m := range mix {
		count := n * m.share / 100
		if n > len(mix) {
			count = max(count, 1)
		}
		for range count {
			out = append(out, m.kind)
		}
	}
	for len(out) < n {
		out = append(out, steady)
	}
	rng.Shuffle(n, func(i, j int) { out[i], out[j] = out[j], out[i] })
	return out
}

// lives plans when a device of a kind runs. All are back before the run ends.
func lives(rng *rand.Rand, kind behaviour) []life {
	between := func(from, to float64) float64 { return from + rng.Float64()*(to-from) }
	switch kind {
	case late:
		return []life{{from: between(0.2, 0.8)}}
	case returning:
		return []life{{to: between(0.1, 0.2)}, {from: between(0.3, 0.5)}}
	case expiring:
		return []life{{to: between(0.2, 0.4)}, {from: between(0.65, 0.8)}}
	case reconnects:
		out := []life{{}}
		for at := between(0.05, 0.3); at < 0.85; at += between(0.05, 0.3) {
			out[len(out)-1].to = at
			out = append(out, life{from: at + between(0, 0.03)})
		}
		return out
	case steady:
	}
	return []life{{}}
}

// member is one device of the fleet.
type member struct {
	sim     *simulation
	person  *person
	id      string
	kind    behaviour
	road    string // how it hears: by its socket, or by pushes of one provider
	lives   []life
	tracker tracker
	asleep  asleep // of a member without a socket

	dev     atomic.Pointer[device.Device] // nil while it is away
	synced  chan struct{}                 // closed once it has shown everything for the first time
	ended   chan struct{}                 // closed when the server wanted no more of it
	once    sync.Once
	last    atomic.Bool // in its last life
	expired atomic.Bool // was answered by a reset of reason expired in its last life
	carried atomic.Bool // came to its last life with a cursor

	mu       sync.Mutex
	sessions int
	state    *device.State
	stopped  error // the server wanted no more of it
}

// enlist makes the members of everybody.
func (s *simulation) enlist() {
	rng := rand.New(rand.NewPCG(s.opts.seed, 0))
	kinds := behaviours(rng, len(s.people)*s.opts.devices)
	for _, p := range s.people {
		for n := range s.opts.devices {
			kind := kinds[len(s.members)]
			m := &member{
				sim: s, person: p, kind: kind, lives: lives(rng, kind), synced: make(chan struct{}), ended: make(chan struct{}),
				id: fmt.Sprintf("sim-%s-%d", p.id, n), state: device.NewState(), road: s.opts.roads[n%len(s.opts.roads)],
				asleep: newAsleep(),
			}
			p.members = append(p.members, m)
			s.members = append(s.members, m)
		}
	}
}

// writer picks the device that writes: one that is running, if any is.
func (p *person) writer(rng *rand.Rand) *member {
	first := rng.IntN(len(p.members))
	for i := range p.members {
		if m := p.members[(first+i)%len(p.members)]; m.dev.Load() != nil {
			return m
		}
	}
	return p.members[first]
}

// run lives the member's lives. It returns when ctx ends.
func (m *member) run(ctx context.Context) {
	for i, l := range m.lives {
		if l.from > 0 && m.sim.waitShare(ctx, l.from) != nil {
			return
		}
		m.last.Store(i == len(m.lives)-1)
		if err := m.live(ctx, l.to); err != nil {
			m.mu.Lock()
			m.stopped = err
			m.mu.Unlock()
			close(m.ended)
			return
		}
	}
}

// live runs the device until the given share of the run, or to its end. The device starts from what
// the last one saved, as after a restart of the app.
func (m *member) live(ctx context.Context, to float64) error {
	state, err := device.Restore(m.current().Save())
	if err != nil {
		return err
	}
	m.mu.Lock()
	m.state = state
	m.mu.Unlock()
	m.carried.Store(state.Cursor() != "")
	dev, err := device.New(device.Config{
		URL: m.sim.target.URL, ID: m.id, State: state, HTTP: m.sim.client,
		Token: func(context.Context) (string, error) { return m.sim.minter.mint(m.person.id) },
		Hooks: device.Hooks{Ready: m.onReady, Nudged: m.onNudged, Saved: m.onSaved, Lost: m.onLost},
	})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var alarm sync.WaitGroup
	defer alarm.Wait()
	defer cancel()
	if to > 0 {
		alarm.Go(func() {
			_ = m.sim.waitShare(ctx, to) // either way the life is over
			cancel()
		})
	}
	if m.road == socket {
		m.dev.Store(dev)
		err = dev.Run(ctx)
	} else {
		err = m.sleep(ctx, dev)
	}
	m.dev.Store(nil)
	m.tracker.left()
	return err
}

func (m *member) current() *device.State {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.state
}

// pull asks the device for the pull that follows its own write, if it is running.
func (m *member) pull() {
	dev := m.dev.Load()
	if dev == nil {
		return
	}
	dev.Wrote()
	if m.road != socket {
		m.asleep.ring()
	}
}

// quiet reports whether nothing more is to be expected of the member by itself.
func (m *member) quiet() bool {
	if m.halted() != nil {
		return true
	}
	dev := m.dev.Load()
	idle := dev != nil && (m.road != socket && m.asleep.idle() || dev.Idle())
	return m.last.Load() && idle && m.tracker.waiting() == 0
}

func (m *member) halted() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.stopped
}

func (m *member) onReady(wire.Ready) {
	m.tracker.connected()
	m.sim.stats.touch()
	m.sim.stats.sessions.Add(1)
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.sessions++; m.sessions > 1 {
		m.sim.stats.reconnects.Add(1)
	}
}

func (m *member) onNudged(wire.Nudge) {
	m.sim.stats.touch()
	m.sim.stats.nudges.Add(1)
	if m.tracker.nudged() {
		m.sim.stats.originNudges.Add(1)
	}
}

func (m *member) onSaved(page *wire.Page, received int) {
	now := time.Now()
	m.sim.stats.saved(page, received)
	for i := range page.Changes {
		if c := &page.Changes[i]; c.Op == wire.OpReset && c.Reason == "expired" && m.last.Load() {
			m.expired.Store(true)
		}
	}
	if page.HasMore {
		return
	}
	rows := m.current().Snapshot()
	m.sim.stats.applied(m.tracker.shown(rows), now)
	m.sim.stats.found(m.sim.rules.Inspect(m.held(rows), stockRule))
	m.once.Do(func() { close(m.synced) })
}

func (m *member) onLost(err error) {
	m.tracker.left()
	m.sim.stats.lose(err)
	if m.sim.pushes != nil {
		m.sim.pushes.failed(time.Now())
	}
}

func (m *member) held(rows []device.Row) oracle.Held {
	return oracle.Held{Device: m.id, User: m.person.id, Rows: rows}
}
