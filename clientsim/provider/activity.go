package provider

import (
	"context"
	"sync"
	"time"
)

// Entry is a line of the activity log: something that a provider or a phone did.
type Entry struct {
	N        int64     `json:"n"`        // counts up from 1 over all entries
	At       time.Time `json:"at"`       // by the simulation's clock
	Provider Name      `json:"provider"` // whose road it is
	Event    string    `json:"event"`    // one of the Event constants
	Conn     int64     `json:"conn,omitempty"`
	Phone    string    `json:"phone,omitempty"`
	Token    string    `json:"token,omitempty"` // the beginning of it
	Nudge    string    `json:"nudge,omitempty"`
	Status   int       `json:"status,omitempty"`
	Reason   string    `json:"reason,omitempty"`
}

// What happened in an Entry.
const (
	EventAnswered  = "answered"  // a provider answered a push with status and reason
	EventFault     = "fault"     // a fault was played on a request; reason is its kind
	EventConnected = "connected" // a connection was opened
	EventClosed    = "closed"    // a provider closed a connection; reason says why
	EventSettings  = "settings"  // APNs lifted the limit of one stream
	EventHeld      = "held"      // a push waits for the phone; reason says for what
	EventDropped   = "dropped"   // a push ends here; reason says why
	EventShown     = "shown"     // an alert was shown; the app did not run for that
	EventWoken     = "woken"     // the app was started in the background
	EventDone      = "done"      // and has done its work
	EventOverran   = "overran"   // or was killed, for it had not
	EventToken     = "token"     // a phone got a token, or lost it; reason says why
	EventSwitched  = "switched"  // a phone's switches changed
)

// Log keeps the newest entries. It is safe for concurrent use.
type Log struct {
	clock *clock

	mu      sync.Mutex
	ring    []Entry
	n       int64
	changed chan struct{} // closed by the next entry; nil if nobody waits
	stats   map[Name]map[string]int64
}

func newLog(c *clock, size int) *Log {
	return &Log{
		clock: c, ring: make([]Entry, size), stats: make(map[Name]map[string]int64),
	}
}

func (l *Log) add(e Entry) {
	e.Token = brief(e.Token)
	e.At = l.clock.now().Round(0)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.n++
	e.N = l.n
	l.ring[(e.N-1)%int64(len(l.ring))] = e
	s := l.stats[e.Provider]
	if s == nil {
		s = make(map[string]int64)
		l.stats[e.Provider] = s
	}
	s[e.Event]++
	if e.Reason != "" {
		s[e.Event+" "+e.Reason]++
	}
	if l.changed != nil {
		close(l.changed)
		l.changed = nil
	}
}

// Since returns the kept entries after number n, oldest first.
func (l *Log) Since(n int64) []Entry {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.since(n)
}

func (l *Log) since(n int64) []Entry {
	n = min(max(n, l.n-int64(len(l.ring)), 0), l.n)
	out := make([]Entry, 0, l.n-n)
	for ; n < l.n; n++ {
		out = append(out, l.ring[n%int64(len(l.ring))])
	}
	return out
}

// Wait returns the first entry after number n that match accepts, and waits for it if need be. The
// error is ctx's.
func (l *Log) Wait(ctx context.Context, n int64, match func(Entry) bool) (Entry, error) {
	for {
		l.mu.Lock()
		entries := l.since(n)
		if l.changed == nil {
			l.changed = make(chan struct{})
		}
		changed := l.changed
		l.mu.Unlock()
		for _, e := range entries {
			if match(e) {
				return e, nil
			}
			n = e.N
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return Entry{}, context.Cause(ctx)
		}
	}
}

// Stats counts all entries since the start, kept or not: by provider, and by event and "event reason".
func (l *Log) Stats() map[Name]map[string]int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := make(map[Name]map[string]int64, len(l.stats))
	for name, s := range l.stats {
		c := make(map[string]int64, len(s))
		for k, v := range s {
			c[k] = v
		}
		out[name] = c
	}
	return out
}

// brief is as much of a token as a log shows.
func brief(token string) string {
	if len(token) > 12 {
		return token[:12]
	}
	return token
}
