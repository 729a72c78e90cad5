package main

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nudgesync/nudge/clientsim/device"
	"github.com/nudgesync/nudge/clientsim/provider"
	"github.com/nudgesync/nudge/server/wire"
)

// socket is the road of a member that holds one.
const socket = "socket"

// app is what every member has installed, under the name that the providers' defaults have too.
const app = "com.example.app"

const (
	// lookAgain is how long an app that is open waits between two tries.
	lookAgain = time.Second
	// Budgets of the platforms recover in hours, which settling has not.
	recoverEvery = 2 * time.Second
	recoverBy    = 30 * time.Minute
)

// asleep is what a member without a socket has: an app that runs when a push wakes it, or when its person writes.
type asleep struct {
	bell chan struct{} // there is something to do: a write to fetch, a target to register
	busy atomic.Int64  // what is under way or due

	app sync.Mutex // one thing at a time, as on a phone

	mu     sync.Mutex
	target *wire.Target // as the platform handed it out; nil once it is registered
	known  *wire.Target // the one that is
}

func newAsleep() asleep { return asleep{bell: make(chan struct{}, 1)} }

// ring has the app look what there is to do.
func (a *asleep) ring() {
	select {
	case a.bell <- struct{}{}:
	default:
	}
}

// installed reports whether there is a phone yet.
func (a *asleep) installed() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.target != nil || a.known != nil
}

func (a *asleep) idle() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.busy.Load() == 0 && len(a.bell) == 0 && a.target == nil && a.known != nil
}

// aim notes a new target, which the app registers as soon as it runs.
func (m *member) aim(t provider.Target) {
	a := &m.asleep
	a.mu.Lock()
	a.target = &wire.Target{Kind: t.Kind, Value: t.Value, P256dh: t.P256dh, Auth: t.Auth}
	a.mu.Unlock()
	a.ring()
}

// sleep is a life without a socket. It begins with a launch: what an app does then, it pulls and registers.
func (m *member) sleep(ctx context.Context, dev *device.Device) error {
	if !m.asleep.installed() {
		if err := m.sim.pocket.phone(ctx, m); err != nil {
			return ended(ctx, err)
		}
	} else if err := m.sim.pocket.offline(ctx, m, false); err != nil {
		return ended(ctx, err)
	}
	m.tracker.connected()
	m.asleep.app.Lock()
	err := dev.Woken(ctx, "") // the person looks at it: it tries until it has everything
	m.asleep.app.Unlock()
	if err != nil {
		return ended(ctx, err)
	}
	m.sim.pushes.heard(m, time.Now())
	m.dev.Store(dev)
	for {
		if err := m.register(ctx, dev); err != nil {
			return ended(ctx, err)
		}
		select {
		case <-m.asleep.bell:
			// Nobody pushes to a device for what it wrote itself: its app asks until that has come round.
			for m.tracker.owes() && ctx.Err() == nil {
				dev.Wrote()
				if err := m.work(ctx, dev, ""); err != nil {
					return ended(ctx, err)
				}
				if m.tracker.owes() {
					_ = waitUntil(ctx, time.Now().Add(lookAgain))
				}
			}
		case <-ctx.Done():
			m.dev.Store(nil)
			// Whether the run is over or this life is: the phone is out of reach from now on.
			return m.sim.pocket.offline(context.WithoutCancel(ctx), m, true)
		}
	}
}

// ended is nil if the life is over, whatever else went wrong with it.
func ended(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// register hands the newest target to the server, until it has it.
func (m *member) register(ctx context.Context, dev *device.Device) error {
	a := &m.asleep
	a.mu.Lock()
	target := a.target
	a.mu.Unlock()
	if target == nil {
		return nil
	}
	for {
		err := dev.Register(ctx, wire.Registration{Road: m.road, Target: target, App: app, Environment: wire.Production})
		if err == nil {
			break
		}
		if _, stop := errors.AsType[*device.StopError](err); stop || ctx.Err() != nil {
			return err
		}
		m.sim.stats.lose(err)
		if waitUntil(ctx, time.Now().Add(lookAgain)) != nil {
			return ctx.Err()
		}
	}
	m.sim.stats.touch()
	m.sim.pushes.heard(m, time.Now()) // whoever registers has asked
	a.mu.Lock()
	defer a.mu.Unlock()
	a.known = target
	if a.target == target {
		a.target = nil
	}
	return nil
}

// pushed is the app being started by a push. ctx ends when the platform ends it.
func (m *member) pushed(ctx context.Context, nudge string) {
	m.sim.stats.touch()
	dev := m.dev.Load()
	if dev == nil { // it came while the app was on its way to the screen, or to the bin
		return
	}
	m.sim.pushes.woke(m)
	if err := m.work(ctx, dev, nudge); err != nil {
		m.sim.stats.lose(err)
	}
}

// work is a pull and an acknowledgement, tried until ctx ends.
func (m *member) work(ctx context.Context, dev *device.Device, nudge string) error {
	m.asleep.busy.Add(1)
	defer m.asleep.busy.Add(-1)
	m.asleep.app.Lock()
	defer m.asleep.app.Unlock()
	err := dev.Woken(ctx, nudge)
	now := time.Now()
	if err != nil {
		m.sim.pushes.failed(now)
	} else {
		m.tracker.acknowledged(now)
		if nudge == "" {
			m.sim.pushes.heard(m, now)
		}
	}
	if _, stop := errors.AsType[*device.StopError](err); !stop {
		return nil // the next push, or the next launch, makes good for it
	}
	return err
}
