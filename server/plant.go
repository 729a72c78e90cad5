//go:build plant

// Planted bugs, to see that the simulator's oracle can fail. A program built with this tag and run with
// NUDGE_PLANT does wrong what nudge promises: it is for tests alone.

package main

import (
	"context"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nudgesync/nudge/changefeed/change"
	"github.com/nudgesync/nudge/notify/bus"
	"github.com/nudgesync/nudge/notify/hub"
	"github.com/nudgesync/nudge/server/api"
)

// The bugs.
const (
	dropNudges      = "drop-nudges"      // one device in 50 never hears of anything
	skipChange      = "skip-change"      // one delete is left out
	tearTransaction = "tear-transaction" // half of a transaction is readable for a while
	leakRow         = "leak-row"         // one row is delivered to a neighbour too
)

func planted() string { return os.Getenv("NUDGE_PLANT") }

func plantHub(h *hub.Hub) api.Hub {
	if planted() == dropNudges {
		return &deafHub{hub: h, deaf: map[string]bool{}}
	}
	return h
}

// deafHub leaves every 50th device unregistered, for good.
type deafHub struct {
	hub *hub.Hub

	mu   sync.Mutex
	deaf map[string]bool
}

func (d *deafHub) Register(scopes []change.Scope, s hub.Session) func() {
	d.mu.Lock()
	defer d.mu.Unlock()
	deaf, known := d.deaf[s.Device()]
	if !known {
		deaf = len(d.deaf)%50 == 0
		d.deaf[s.Device()] = deaf
	}
	if deaf {
		return func() {}
	}
	return d.hub.Register(scopes, s)
}

func plantBus(b bus.Bus) bus.Bus {
	switch planted() {
	case "", dropNudges:
		return b
	}
	after, err := strconv.Atoi(os.Getenv("NUDGE_PLANT_AFTER"))
	if err != nil {
		panic("NUDGE_PLANT_AFTER: " + err.Error())
	}
	return &badBus{Bus: b, after: after}
}

// badBus spoils the first frame that its bug fits, once NUDGE_PLANT_AFTER changes have passed unharmed.
type badBus struct {
	bus.Bus

	after int

	mu    sync.Mutex
	seen  int
	other change.Scope // some scope seen before
	done  bool
}

func (b *badBus) Publish(ctx context.Context, f change.Frame) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.seen += len(f.Changes)
	if !b.done && b.seen > b.after {
		frames := b.spoil(f)
		for i, g := range frames {
			if i > 0 {
				time.Sleep(time.Second) // devices pull in between
			}
			if err := b.Bus.Publish(ctx, g); err != nil {
				return err
			}
		}
		return nil
	}
	if n := len(f.Changes); n > 0 && strings.HasPrefix(string(f.Changes[n-1].Scope), "user:") {
		b.other = f.Changes[n-1].Scope
	}
	return b.Bus.Publish(ctx, f)
}

// spoil returns the frames to publish instead of f.
func (b *badBus) spoil(f change.Frame) []change.Frame {
	switch planted() {
	case skipChange:
		i := slices.IndexFunc(f.Changes, func(c change.Change) bool { return c.Op == change.Delete })
		if i >= 0 {
			b.done = true
			f.Changes = slices.Delete(slices.Clone(f.Changes), i, i+1)
		}
	case tearTransaction:
		for i := 1; i < len(f.Changes); i++ {
			x, y := &f.Changes[i-1], &f.Changes[i]
			if x.Pos.LSN == y.Pos.LSN && x.Scope == y.Scope && x.Table != y.Table {
				b.done = true
				first, second := f, f
				first.Changes, first.Next = f.Changes[:i], x.Pos
				second.Changes, second.Prev = f.Changes[i:], x.Pos
				return []change.Frame{first, second}
			}
		}
	case leakRow:
		if n := len(f.Changes); n > 0 && b.other != "" && f.Changes[n-1].Op == change.Upsert && f.Changes[n-1].Scope != b.other {
			b.done = true
			leaked := f.Changes[n-1]
			leaked.Pos.Seq++
			leaked.Scope = b.other
			f.Changes = append(slices.Clone(f.Changes), leaked)
		}
	}
	return []change.Frame{f}
}
