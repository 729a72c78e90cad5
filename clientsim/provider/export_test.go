package provider

import (
	"context"
	"time"
)

// NewPhones is a simulation of phones alone, which needs no network.
func NewPhones(ctx context.Context, seed uint64) (*Providers, error) {
	cfg := Config{Seed: seed}
	if err := cfg.complete(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	p := &Providers{world: newWorld(ctx, cfg), stop: cancel}
	p.work.Go(func() { p.world.clock.run(ctx) })
	return p, nil
}

// Push is what a provider accepted.
type Push struct {
	Nudge, Collapse string
	TTL             time.Duration
	High, Alert     bool
}

// Receive has the phone's provider accept a push for it.
func (ph *Phone) Receive(p Push) {
	ph.world.mu.Lock()
	t := ph.token
	ph.world.mu.Unlock()
	ph.world.deliver(t, &push{
		nudge: p.Nudge, collapse: p.Collapse, expires: ph.world.clock.now().Add(p.TTL), high: p.High,
		alert: p.Alert, background: !p.Alert,
	})
}
