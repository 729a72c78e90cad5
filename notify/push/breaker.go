package push

import (
	"slices"
	"time"
)

// breaker keeps a lane from sending what can't work. It opens at once when told that the settings are wrong, and after a
// run of failures. When its time has passed it lets one device through, and that one's answer decides. It
// is guarded by its lane's lock.
//
// Answers to what was sent before it opened change nothing any more.
type breaker struct {
	state  state
	until  time.Time // open: when the next probe may go
	closed time.Time // when it closed last
	trips  int       // openings in a row
	run    int       // failures in a row
}

type state int

const (
	closed state = iota
	halfOpen
	open
)

// term is for how long a breaker opens: first, doubled with each trip that follows, up to last.
type term struct{ first, last time.Duration }

var (
	outage   = term{5 * time.Second, 2 * time.Minute}
	settings = term{time.Minute, 15 * time.Minute}
	doubts   = term{5 * time.Minute, time.Hour}
)

const (
	longestRun = 10               // failures in a row until it opens
	calm       = 10 * time.Minute // closed for so long, it has forgotten how often it opened
)

// admit says whether a device may be claimed, and if it would be the probe; if not, when to ask again: 0
// means when the probe's answer is there.
func (b *breaker) admit(now time.Time) (ok, probe bool, wait time.Duration) {
	switch {
	case b.state == closed:
		return true, false, 0
	case b.state == halfOpen:
		return false, false, 0
	case now.Before(b.until):
		return false, false, b.until.Sub(now)
	default:
		return true, true, 0
	}
}

// probe is called when a device was claimed to try the sender with.
func (b *breaker) probe() { b.state = halfOpen }

// lost is called when the probe was not sent.
func (b *breaker) lost() {
	if b.state == halfOpen {
		b.state = open
	}
}

// counts is whether an answer is heard: in a closed breaker each, in a half-open one only the probe's.
func (b *breaker) counts(probe bool) bool {
	return b.state == closed || b.state == halfOpen && probe
}

// worked says that the provider answered as it should. It reports whether that closed the breaker.
func (b *breaker) worked(now time.Time) bool {
	b.run = 0
	if b.state == closed {
		return false
	}
	b.state, b.closed = closed, now
	return true
}

// failed says that there was no answer, or that the provider is unwell. It reports whether that opened the
// breaker.
func (b *breaker) failed(now time.Time) bool {
	if b.run++; b.state == closed && b.run < longestRun {
		return false
	}
	b.trip(now, outage)
	return true
}

func (b *breaker) trip(now time.Time, t term) {
	if b.state == closed && now.Sub(b.closed) > calm {
		b.trips = 0
	}
	delay := min(t.last, t.first<<min(b.trips, 10))
	b.state, b.until, b.run = open, now.Add(delay), 0
	b.trips++
}

// guard holds back doubtful answers until it has seen what comes next (invariant 3). It is guarded by its
// lane's lock.
type guard struct {
	// The newest answers that say something about the settings: whose device a doubtful one was about, "" if it
	// was none. A user is there once, or anyone could open the breaker for everybody by registering bad tokens.
	recent [20]string
	seen   int
	held   []heldResult
}

type heldResult struct {
	Result
	until time.Time
}

// tooMany users with doubtful ones among the recent answers mean that the fault is ours.
const tooMany = 5

// sane takes in an answer that only right settings bring about.
func (g *guard) sane() {
	g.recent[g.seen%len(g.recent)] = ""
	g.seen++
}

// doubt takes in a doubtful answer about a device of the user's, and reports whether there are too many.
func (g *guard) doubt(user string) bool {
	if slices.Contains(g.recent[:], user) {
		return false // as many users as before, which were not too many
	}
	g.recent[g.seen%len(g.recent)] = user
	g.seen++
	n := 0
	for _, u := range g.recent {
		if u != "" {
			n++
		}
	}
	return n >= tooMany
}

func (g *guard) hold(r Result, until time.Time) {
	g.held = append(g.held, heldResult{r, until})
}

// ripe returns the results that were held long enough.
func (g *guard) ripe(now time.Time) []Result {
	var out []Result
	for len(g.held) > 0 && !g.held[0].until.After(now) { // held in order of time
		out = append(out, g.held[0].Result)
		g.held = g.held[1:]
	}
	return out
}

// pardon returns all that are held, none of them disabled, and forgets what it has seen.
func (g *guard) pardon(wait time.Duration) []Result {
	var out []Result
	for _, h := range g.held {
		out = append(out, later(h.Result, wait))
	}
	*g = guard{}
	return out
}
