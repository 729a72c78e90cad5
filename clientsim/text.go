package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/nudgesync/nudge/clientsim/oracle"
)

// text is the summary for a person: what happened, then the verdict.
func (sum *summary) text() string {
	var b strings.Builder
	line := func(name, format string, args ...any) {
		fmt.Fprintf(&b, "%-18s "+format+"\n", append([]any{name + ":"}, args...)...)
	}
	// Programs look for these lines, so nothing is aligned in them.
	verdict := func(name string, n int) { fmt.Fprintf(&b, "%s: %d\n", name, n) }
	line("fleet", "%d users, %d devices, seed %d", sum.Users, sum.Devices, sum.Seed)
	line("commits", "%d in %gs (%d retried, %d failed)", sum.Commits, sum.Seconds, sum.Retried, sum.Failed)
	if sum.LastError != "" {
		line("newest failure", "%s", sum.LastError)
	}
	line("nudges", "%d (at least %d to the origin of their only change)", sum.Nudges, sum.OriginNudges)
	line("pulls", "%d in %d pages", sum.Pulls, sum.Pages)
	line("received", "%s in pages", byteCount(sum.Bytes))
	line("sessions", "%d (%d reconnects)", sum.Sessions, sum.Rejoins)
	line("resets", "%s", counts(sum.Resets))
	if sum.NoTrim != "" {
		line("expired cursors", "not tried: %s", sum.NoTrim)
	} else {
		line("expired cursors", "%d devices returned with one", sum.Expiring)
	}
	us := func(n int64) time.Duration { return rounded(time.Duration(n) * time.Microsecond) }
	line("commit → applied", "p50 %v  p95 %v  p99 %v  max %v  (%d, from intended send time)",
		us(sum.Applied.P50), us(sum.Applied.P95), us(sum.Applied.P99), us(sum.Applied.Max), sum.Applied.Count)
	if p := sum.Push; p != nil {
		for _, name := range slices.Sorted(maps.Keys(p.Roads)) {
			r := p.Roads[name]
			line(name, "%d devices, %d pushes accepted (at most %d a device), %d refused, %d failed, %d apps woken",
				r.Devices, r.Accepted, r.Most, r.Refused, r.Failed, r.Woken)
		}
		line("phones' clock", "moved on by %v while all settled", time.Duration(p.Advanced*float64(time.Second)))
		if p.Missed != "" {
			line("pushes", "not all of them were seen: %s", p.Missed)
		}
	}
	if !sum.Settled {
		line("settled", "no: frames still came, or writes were still not shown, when --settle ran out")
	}
	b.WriteByte('\n')
	verdict("compared rows", sum.Compared)
	verdict("stale devices", len(sum.Stale))
	verdict("mismatched rows", len(sum.Mismatched))
	verdict("torn transactions", len(sum.Torn))
	verdict("leaked rows", len(sum.Leaked))
	verdict("expired cursors without a reset", sum.NotExpired)
	if p := sum.Push; p != nil {
		var early int64
		for _, r := range p.Roads {
			early += r.Early
		}
		verdict("pushes past a budget", int(early))
		verdict("pushes to the origin", int(p.ToOrigin))
	}
	for _, s := range sum.Stopped {
		line("stopped", "%s", s)
	}
	for _, list := range [][]oracle.Difference{sum.Mismatched, sum.Torn, sum.Leaked} {
		for i, d := range list {
			if i == named {
				fmt.Fprintf(&b, "  … and %d more\n", len(list)-named)
				break
			}
			fmt.Fprintf(&b, "  %s\n", d)
		}
	}
	return b.String()
}

// counts writes "expired 12, new 600"; "none" for none.
func counts(m map[string]int) string {
	if len(m) == 0 {
		return "none"
	}
	parts := make([]string, 0, len(m))
	for _, reason := range slices.Sorted(maps.Keys(m)) {
		parts = append(parts, fmt.Sprintf("%s %d", reason, m[reason]))
	}
	return strings.Join(parts, ", ")
}
