package main

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/nudgesync/nudge/clientsim/oracle"
)

// named is how many wrong rows the text names; the JSON has them all.
const named = 20

// summary is the outcome of a run, and the JSON of --json and --report.
type summary struct {
	Seed     uint64  `json:"seed"`
	Users    int     `json:"users"`
	Devices  int     `json:"devices"`
	Seconds  float64 `json:"seconds"`
	Settled  bool    `json:"settled"` // all was quiet before --settle ran out
	Compared int     `json:"compared_rows"`

	Commits  int64 `json:"commits"`
	Retried  int64 `json:"retried_commits"`
	Failed   int64 `json:"failed_commits"`
	Nudges   int64 `json:"nudges"`
	Pulls    int64 `json:"pulls"`
	Pages    int64 `json:"pages"`
	Bytes    int64 `json:"bytes"`
	Sessions int64 `json:"sessions"`
	Rejoins  int64 `json:"reconnects"`
	// OriginNudges counts nudges whose only cause can be the device's own write. A lower bound.
	OriginNudges int64          `json:"origin_nudges"`
	Resets       map[string]int `json:"resets"`

	// Applied is from the intended send time of a write to when another device shows it.
	Applied struct {
		Count int64 `json:"count"`
		P50   int64 `json:"p50_us"`
		P95   int64 `json:"p95_us"`
		P99   int64 `json:"p99_us"`
		Max   int64 `json:"max_us"`
	} `json:"applied"`

	// Expiring devices returned with a cursor of before the trim; each must be answered by a reset of
	// reason expired. NoTrim says why none could.
	Expiring   int    `json:"expiring"`
	NotExpired int    `json:"not_expired"`
	NoTrim     string `json:"no_trim,omitempty"`

	// Push is what reached the devices without a socket; nil if all had one.
	Push *pushSummary `json:"push,omitempty"`

	Stopped    []string            `json:"stopped,omitempty"` // devices that the server sent away
	Stale      []string            `json:"stale,omitempty"`   // devices with a mismatched row
	Mismatched []oracle.Difference `json:"mismatched,omitempty"`
	Torn       []oracle.Difference `json:"torn,omitempty"`
	Leaked     []oracle.Difference `json:"leaked,omitempty"`
	LastError  string              `json:"last_error,omitempty"` // of the writers
	OK         bool                `json:"ok"`
}

// summarise compares, and adds what was counted and what the continuous oracle found.
func (s *simulation) summarise(truth *oracle.Truth, held []oracle.Held) *summary {
	st := s.stats
	sum := &summary{
		Seed: s.opts.seed, Users: len(s.people), Devices: len(s.members), Seconds: s.opts.duration.Seconds(),
		Commits: st.commits.Load(), Retried: st.retried.Load(), Failed: st.failed.Load(),
		Nudges: st.nudges.Load(), OriginNudges: st.originNudges.Load(),
		Pulls: st.pulls.Load(), Pages: st.pages.Load(), Bytes: st.bytes.Load(),
		Sessions: st.sessions.Load(), Rejoins: st.reconnects.Load(),
	}
	for i, m := range s.members {
		differences := truth.Compare(held[i])
		if len(differences) > 0 {
			sum.Stale = append(sum.Stale, m.id)
			sum.Mismatched = append(sum.Mismatched, differences...)
		}
		sum.Compared += len(held[i].Rows)
		st.found(truth.Inspect(held[i], stockRule))
		if err := m.halted(); err != nil {
			sum.Stopped = append(sum.Stopped, fmt.Sprintf("%s: %v", m.id, err))
		}
		if m.kind == expiring && m.carried.Load() {
			sum.Expiring++
			if !m.expired.Load() {
				sum.NotExpired++
			}
		}
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	sum.Resets = maps.Clone(st.resets)
	if sum.NoTrim = st.trim; sum.NoTrim != "" {
		sum.NotExpired = 0
	}
	if st.writeErr != nil {
		sum.LastError = st.writeErr.Error()
	}
	for d := range st.findings {
		switch d.Kind {
		case oracle.Torn:
			sum.Torn = append(sum.Torn, d)
		case oracle.Leaked:
			sum.Leaked = append(sum.Leaked, d)
		case oracle.Missing, oracle.Extra, oracle.Changed: // only the final comparison finds these
		}
	}
	for _, list := range [][]oracle.Difference{sum.Torn, sum.Leaked} {
		slices.SortFunc(list, func(a, b oracle.Difference) int { return strings.Compare(a.String(), b.String()) })
	}
	h := st.latency
	sum.Applied.Count, sum.Applied.Max = h.TotalCount(), h.Max()
	sum.Applied.P50, sum.Applied.P95, sum.Applied.P99 = h.ValueAtQuantile(50), h.ValueAtQuantile(95), h.ValueAtQuantile(99)
	sum.OK = len(sum.Stale)+len(sum.Torn)+len(sum.Leaked)+len(sum.Stopped)+sum.NotExpired == 0 && sum.Commits > 0
	return sum
}

// publish prints the summary and writes the report. It returns errVerdict for a run that went wrong.
func (s *simulation) publish(sum *summary, stdout io.Writer) error {
	doc, err := json.MarshalIndent(sum, "", "  ")
	if err != nil {
		return fmt.Errorf("summary: %w", err)
	}
	doc = append(doc, '\n')
	if s.opts.report != "" {
		if err := os.WriteFile(s.opts.report, doc, 0o644); err != nil {
			return fmt.Errorf("report: %w", err)
		}
	}
	if !s.opts.json {
		doc = []byte(sum.text())
	}
	if _, err := stdout.Write(doc); err != nil {
		return fmt.Errorf("summary: %w", err)
	}
	if !sum.OK {
		return errVerdict
	}
	return nil
}
