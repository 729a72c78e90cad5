package device

import (
	"context"
	"time"
)

const (
	markAtMost  = 250 * time.Millisecond // passes begin at least so far apart
	markAtLeast = time.Second
	markTimeout = 30 * time.Second
	// lazyWait is how much later than it could a device hears of what is Lazy.
	lazyWait = time.Hour

	// A pass holds registrations up, so after a long absence it goes through the log in strides of so much WAL.
	leastSpan, mostSpan = 1 << 20, 1 << 40
	firstSpan           = 64 << 20
	fewChanges          = 10_000 // a stride with no more of them may be longer next time
	manyChanges         = 100_000
)

// Marker has devices become due by what the log holds. Any number of nodes may run one: a pass excludes others.
type Marker struct {
	store   *Store
	observe func(Pass, time.Duration)
	wake    chan struct{}
	span    int64 // bytes of WAL; owned by whoever marks
}

// NewMarker returns the store's marker. observe, if not nil, is told of every pass, and what it took.
func (s *Store) NewMarker(observe func(Pass, time.Duration)) *Marker {
	return &Marker{store: s, observe: observe, wake: make(chan struct{}, 1), span: firstSpan}
}

// Wake says that the log has grown. It does not block.
func (m *Marker) Wake() {
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

// Mark makes one pass. It is not for several goroutines at once.
func (m *Marker) Mark(ctx context.Context) (Pass, error) {
	ctx, cancel := context.WithTimeout(ctx, markTimeout)
	defer cancel()
	begun := time.Now()
	p, err := m.store.mark(ctx, m.span)
	switch {
	case err != nil || p.Changes > manyChanges:
		m.span = max(m.span/2, leastSpan)
	case p.More && p.Changes <= fewChanges:
		m.span = min(m.span*2, mostSpan)
	}
	if err == nil && m.observe != nil {
		m.observe(p, time.Since(begun))
	}
	return p, err
}

// Run marks when woken, at most four times a second, and once a second anyway, and trims the ledger. It is
// called once, and returns nil when ctx ends.
func (m *Marker) Run(ctx context.Context) error {
	tick := time.NewTicker(markAtLeast)
	defer tick.Stop()
	var trimmed time.Time
	failing := false
	for {
		begun := time.Now()
		p, err := m.Mark(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil && !failing:
			m.store.cfg.Log.Warn("due devices are not marked; trying again every second", "error", err)
		case err == nil && failing:
			m.store.cfg.Log.Info("due devices are marked again")
		}
		failing = err != nil
		if !failing && !p.Busy && begun.Sub(trimmed) >= trimEvery {
			trimmed = begun
			if err := m.store.trim(ctx); err != nil && ctx.Err() == nil {
				m.store.cfg.Log.Warn("the wake ledger was not trimmed; trying again in a minute", "error", err)
			}
		}
		if p.More {
			m.Wake()
		}
		wait := time.NewTimer(time.Until(begun.Add(markAtMost)))
		select {
		case <-wait.C:
		case <-ctx.Done():
			wait.Stop()
			return nil
		}
		wake := m.wake
		if failing {
			wake = nil // a database that is away is not asked more often for having been busy
		}
		select {
		case <-wake:
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}
