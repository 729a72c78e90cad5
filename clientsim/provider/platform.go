package provider

import (
	"slices"
	"time"
)

// workTime is how long an app may work after a push before it is killed: Apple says 30 s, Firebase's
// service 20 s; browsers about 30 s.
var workTime = map[Platform]time.Duration{IOS: 30 * time.Second, Android: 20 * time.Second, Browser: 30 * time.Second}

// dozeGaps are the pauses between the windows of Doze, from its beginning on; the last one repeats.
var dozeGaps = []time.Duration{time.Hour, 2 * time.Hour, 4 * time.Hour, 6 * time.Hour}

// dozeWindow is how long a window stays open.
const dozeWindow = 5 * time.Minute

// Most of what is kept for an app that is away: FCM keeps up to 100 messages that do not collapse, and four
// collapse keys.
const (
	maxPlain    = 100
	maxCollapse = 4
)

type verdict struct {
	hold, drop bool // neither: the app runs
	reason     string
	until      time.Time // when to look again, if time alone changes something
}

func hold(reason string) verdict { return verdict{hold: true, reason: reason} }
func drop(reason string) verdict { return verdict{drop: true, reason: reason} }

// judge is the platform's rules between "accepted" and "the app runs".
func (ph *Phone) judge(p *push, now time.Time) verdict {
	s := ph.switches
	if s.Offline {
		return hold("offline")
	}
	switch ph.cfg.Platform {
	case IOS:
		return ph.judgeIOS(now)
	case Android:
		return ph.judgeAndroid(p, now)
	}
	switch {
	case s.ForceQuit:
		return hold("closed")
	case s.LowPower && !p.high && !s.Foreground:
		return hold("low power") // RFC 8030, 5.3
	}
	return verdict{}
}

// judgeIOS follows "Pushing background updates to your App": background pushes are low priority, may
// be throttled, and a force-quit app gets none until it is launched.
func (ph *Phone) judgeIOS(now time.Time) verdict {
	s := ph.switches
	switch {
	case s.ForceQuit:
		return drop("force-quit")
	case s.Foreground:
		return verdict{}
	case s.NoBackground:
		return drop("background refresh off")
	case s.LowPower:
		return hold("low power")
	}
	ph.wakes = slices.DeleteFunc(ph.wakes, func(t time.Time) bool { return !t.After(now.Add(-time.Hour)) })
	if len(ph.wakes) >= ph.budget {
		return verdict{hold: true, reason: "budget", until: ph.wakes[0].Add(time.Hour)}
	}
	return verdict{}
}

// judgeAndroid follows "Optimize for Doze and App Standby": a message of normal priority waits for a
// window, one of high priority does not.
func (ph *Phone) judgeAndroid(p *push, now time.Time) verdict {
	s := ph.switches
	switch {
	case s.ForceQuit:
		return drop("force-stopped")
	case s.Foreground || p.high:
		return verdict{}
	case s.NoBackground:
		return hold("background restricted")
	case s.LowPower:
		return hold("battery saver")
	case s.Doze:
		if at := nextWindow(ph.dozing, now); at.After(now) {
			return verdict{hold: true, reason: "doze", until: at}
		}
	}
	return verdict{}
}

// nextWindow is when the first window of a Doze that began then is open, now or later.
func nextWindow(began, now time.Time) time.Time {
	at := began
	for i := 0; ; i++ {
		at = at.Add(dozeGaps[min(i, len(dozeGaps)-1)])
		if now.Before(at.Add(dozeWindow)) {
			if now.After(at) {
				return now
			}
			return at
		}
		at = at.Add(dozeWindow)
	}
}

// keep stores a push for later. iOS has one place an app, for the newest. FCM and Web Push replace what has the
// same collapse key, or topic.
func (ph *Phone) keep(p *push, reason string) {
	for i, other := range ph.held {
		if ph.cfg.Platform != IOS && (p.collapse == "" || other.collapse != p.collapse) && other.n != p.n {
			continue
		}
		if other.n > p.n {
			ph.note(EventDropped, p.nudge, "replaced")
			return
		}
		if other.n < p.n {
			ph.note(EventDropped, other.nudge, "replaced")
		}
		ph.held = slices.Delete(ph.held, i, i+1)
		break
	}
	if ph.cfg.Platform == Android {
		ph.makeRoom(p)
	}
	ph.held = append(ph.held, p)
	if p.why != reason { // it is looked at again and again
		p.why = reason
		ph.note(EventHeld, p.nudge, reason)
	}
}

func (ph *Phone) makeRoom(p *push) {
	same := func(q *push) bool { return (q.collapse == "") == (p.collapse == "") }
	n := 0
	for _, q := range ph.held {
		if same(q) {
			n++
		}
	}
	switch {
	case p.collapse == "" && n >= maxPlain: // the app is told that it lost messages, not which
		for _, q := range ph.held {
			if q.collapse == "" {
				ph.note(EventDropped, q.nudge, "too many stored")
			}
		}
		ph.held = slices.DeleteFunc(ph.held, same)
	case p.collapse != "" && n >= maxCollapse: // which one goes is not promised
		i := slices.IndexFunc(ph.held, same)
		ph.note(EventDropped, ph.held[i].nudge, "too many collapse keys")
		ph.held = slices.Delete(ph.held, i, i+1)
	}
}
