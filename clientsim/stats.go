package main

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"github.com/nudgesync/nudge/clientsim/oracle"
	"github.com/nudgesync/nudge/server/wire"
)

// Bounds of the latency histogram, in microseconds: up to ten minutes, three significant digits.
const (
	slowest = 10 * 60 * 1_000_000
	digits  = 3
)

// stats is what a run counts. Safe for concurrent use.
type stats struct {
	commits, retried, failed atomic.Int64
	nudges, originNudges     atomic.Int64
	pulls, pages, bytes      atomic.Int64
	sessions, reconnects     atomic.Int64
	traffic                  atomic.Int64 // when the newest frame came, Unix nanoseconds

	mu       sync.Mutex
	latency  *hdrhistogram.Histogram
	resets   map[string]int // by reason
	findings map[oracle.Difference]struct{}
	lost     error  // the newest reason of a lost session
	writeErr error  // the newest reason of a failed commit
	trim     string // why no cursor could expire, "" if the log was trimmed
}

func newStats() *stats {
	return &stats{
		latency:  hdrhistogram.New(1, slowest, digits),
		resets:   map[string]int{},
		findings: map[oracle.Difference]struct{}{},
	}
}

func (s *stats) touch() { s.traffic.Store(time.Now().UnixNano()) }

// saved counts a page.
func (s *stats) saved(page *wire.Page, received int) {
	s.touch()
	s.pages.Add(1)
	s.bytes.Add(int64(received))
	if !page.HasMore {
		s.pulls.Add(1)
	}
	for i := range page.Changes {
		if c := &page.Changes[i]; c.Op == wire.OpReset {
			s.mu.Lock()
			s.resets[c.Reason]++
			s.mu.Unlock()
		}
	}
}

// applied records how long writes took from their intended send times until now.
func (s *stats) applied(intended []time.Time, now time.Time) {
	if len(intended) == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, t := range intended {
		// Clamped to the histogram's range, so it cannot fail.
		_ = s.latency.RecordValue(min(max(now.Sub(t).Microseconds(), 1), slowest))
	}
}

// found keeps what the continuous oracle saw, each row of each device once.
func (s *stats) found(differences []oracle.Difference) {
	if len(differences) == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, d := range differences {
		s.findings[d] = struct{}{}
	}
}

func (s *stats) lose(err error) {
	s.touch()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lost = err
}

func (s *stats) fail(err error) {
	s.failed.Add(1)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.writeErr = err
}

func (s *stats) lastLost() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lost
}

func (s *stats) quantile(percent float64) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return time.Duration(s.latency.ValueAtQuantile(percent)) * time.Microsecond
}
