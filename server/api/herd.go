package api

import (
	"runtime"
	"sync"
	"time"

	"github.com/nudgesync/nudge/notify/hub"
)

// Bounds of the time that nudged devices are given.
const (
	// A shorter one is not worth a timer on the device.
	minWithin = 100 * time.Millisecond
	// Who is told later than that of a change would rather meet a busy server.
	maxChangeWithin = time.Minute
	// A device that starts over still shows what it has. What takes longer is spread by refusals, which pace as well.
	maxStartOverWithin = 10 * time.Minute
)

// requestCost is what a pull costs a processor beside the engine: request, token, and the writing of the page, which
// is not timed because a write that waits for a slow reader is no work.
const requestCost = 100 * time.Microsecond

// maxPullCost bounds what one pull from memory counts for. What takes longer has waited: for the log to be asked because
// the bus was silent, or for a processor. That is when a crowd is about to hear, and no reason to keep it away.
const maxPullCost = time.Millisecond

// herd knows how many pulls the node can serve, and how many nudges have asked for. What is measured is what a
// pull costs, not how many came: a herd that is spread well never shows what the node could have done.
type herd struct {
	database func(hub.Source) float64 // pages a second; nil: not known

	mu      sync.Mutex
	cost    time.Duration // of a pull from memory: moving mean
	demands [hub.Tables + 1]demand
}

// demand is what nudges have asked for and capacity has not worked off.
type demand struct {
	pulls float64
	at    time.Time
}

func newHerd(database func(hub.Source) float64) *herd { return &herd{database: database} }

// pulled notes how long the engine took for a pull from memory.
func (h *herd) pulled(took time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.cost += (min(took, maxPullCost) - h.cost) / 64
}

// larger is one crowd for two that a device hears of at once.
func larger(a, b hub.Crowd) hub.Crowd {
	return hub.Crowd{Sessions: max(a.Sessions, b.Sessions), Source: max(a.Source, b.Source)}
}

// within is the time for a session that is nudged as one of many to pull in: as long as the node needs for all
// of them, and for those that were nudged before and have not been served, as far as can be known. It is called
// for each nudge that is written, not for each that is noted: those of a burst are one pull.
func (h *herd) within(now time.Time, with hub.Crowd) time.Duration {
	if with.Sessions == 0 { // it hears alone
		return 0
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	d, most := &h.demands[with.Source], maxChangeWithin
	rate := float64(runtime.GOMAXPROCS(0)) / (h.cost + requestCost).Seconds()
	if with.Source != hub.Memory {
		if h.database == nil {
			return 0
		}
		rate = h.database(with.Source)
	}
	if with.Source == hub.Tables {
		most = maxStartOverWithin
	}
	// No more than is told of: a herd that went on for an hour must not be held against those who are nudged later.
	d.pulls = min(max(0, d.pulls-rate*now.Sub(d.at).Seconds())+1, rate*most.Seconds())
	d.at = now
	within := max(float64(with.Sessions), d.pulls) / rate // seconds
	switch {
	case within < minWithin.Seconds():
		return 0
	case within > most.Seconds():
		return most
	}
	return time.Duration(within * float64(time.Second))
}
