package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/term"
)

// How often the screen is renewed: one line in place on a terminal, plain lines elsewhere.
const (
	liveEvery  = 200 * time.Millisecond
	plainEvery = 5 * time.Second
)

// screen shows how the run is going.
type screen struct {
	phase atomic.Pointer[string]
}

func (s *screen) say(phase string) { s.phase.Store(&phase) }

// watch shows progress until ctx ends; wg waits for it.
func (s *simulation) watch(ctx context.Context, out io.Writer, wg *sync.WaitGroup) *screen {
	scr := &screen{}
	scr.say("starting")
	if s.opts.quiet {
		return scr
	}
	every, before, after := plainEvery, "", "\n"
	if f, ok := out.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		every, before, after = liveEvery, "\r\x1b[K", ""
	}
	wg.Go(func() {
		tick := time.NewTicker(every)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				_, _ = fmt.Fprint(out, before, s.line(*scr.phase.Load()), after)
			case <-ctx.Done():
				_, _ = fmt.Fprint(out, before)
				return
			}
		}
	})
	return scr
}

func (s *simulation) line(phase string) string {
	connected := 0
	for _, m := range s.members {
		if m.dev.Load() != nil {
			connected++
		}
	}
	st := s.stats
	return fmt.Sprintf("%-10s  devices %d/%d  commits %d  nudges %d  pulls %d  received %s  p50 %v  p99 %v",
		phase, connected, len(s.members), st.commits.Load(), st.nudges.Load(), st.pulls.Load(),
		byteCount(st.bytes.Load()), rounded(st.quantile(50)), rounded(st.quantile(99)))
}

// rounded keeps what a person reads of a latency.
func rounded(d time.Duration) time.Duration {
	if d < 10*time.Millisecond {
		return d.Round(10 * time.Microsecond)
	}
	return d.Round(time.Millisecond)
}

func byteCount(n int64) string {
	switch {
	case n < 10_000:
		return fmt.Sprintf("%d B", n)
	case n < 10_000_000:
		return fmt.Sprintf("%.1f kB", float64(n)/1e3)
	}
	return fmt.Sprintf("%.1f MB", float64(n)/1e6)
}
