package admit

import (
	"fmt"
	"time"
)

// Reason is why somebody was refused, as metrics name it.
type Reason string

// The reasons.
const (
	Full     Reason = "full"     // as many of the class wait as may
	Hopeless Reason = "hopeless" // it would wait in vain
	Late     Reason = "late"     // it has waited in vain
	UserFull Reason = "user"     // as many of the user's wait as may: the user's fault, not ours
)

// Bounds of the time to come back after.
const (
	minBack = time.Second
	maxBack = time.Minute
)

// eager is how many are told to come back for each place that is expected to be free: what was measured in a storm is
// slower than what comes behind it, and to refuse once more costs less than a place that nobody takes.
const eager = 4

// guess is how long a place is held, where it is not known yet.
const guess = 10 * time.Millisecond

// Refusal is the error of who gets no place.
type Refusal struct {
	Class  Class
	Reason Reason
	After  time.Duration // when to come back, without jitter
}

func (r *Refusal) Error() string {
	return fmt.Sprintf("no place before the database: class %s, reason %s", r.Class, r.Reason)
}

// refuse says why somebody is not to wait; nil to let it.
func (q *Queue) refuse(class Class, user string, now time.Time) *Refusal {
	wait := q.wait(class)
	s := q.users[user]
	switch {
	case user != "" && s != nil && s.waiting >= q.cfg.UserWaiting:
		return q.refusal(class, UserFull, now)
	case q.lines[class].waiters.Len() >= q.cfg.Waiting:
		return q.refusal(class, Full, now)
	case q.expected(class) > wait, q.places.stuck(now, wait), class == Snapshot && q.snapshots.stuck(now, wait):
		return q.refusal(class, Hopeless, now)
	}
	return nil
}

// expected is how long the next one of a class would wait if nobody more urgent came: not less than that.
func (q *Queue) expected(class Class) time.Duration {
	work := q.lines[class].held
	for c := Foreground; c <= class; c++ {
		work += time.Duration(q.lines[c].waiters.Len()) * q.lines[c].held
	}
	wait := work / time.Duration(q.places.most)
	if class == Snapshot {
		l := &q.lines[class]
		wait = max(wait, time.Duration(l.waiters.Len()+1)*l.held/time.Duration(q.snapshots.most))
	}
	return wait
}

// refusal makes one, and gives its taker a time to come back: a share of a page later than whoever was refused before.
func (q *Queue) refusal(class Class, why Reason, now time.Time) *Refusal {
	q.metrics.refused.WithLabelValues(class.String(), string(why)).Inc()
	if why == UserFull { // only the user's own pulls have to end first
		return &Refusal{Class: class, Reason: why, After: minBack}
	}
	l := &q.lines[class]
	at := l.back
	if soonest := now.Add(minBack); at.Before(soonest) {
		at = soonest
	}
	l.back = at.Add(time.Duration(float64(time.Second) / (eager * q.rate(class))))
	if latest := now.Add(maxBack); l.back.After(latest) {
		l.back = latest
	}
	return &Refusal{Class: class, Reason: why, After: at.Sub(now)}
}

// Again is the refusal of one more who was refused with whom r is for: with a time of its own to come back after.
func (q *Queue) Again(r *Refusal) *Refusal {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.refusal(r.Class, r.Reason, time.Now())
}

// rate is how many of a class can be served in a second, if nothing else is.
func (q *Queue) rate(class Class) float64 {
	places, held := q.places.most, max(q.lines[class].held, time.Microsecond)
	if q.lines[class].held == 0 {
		held = guess
	}
	if class == Snapshot {
		places = q.snapshots.most
	}
	return float64(places) / held.Seconds()
}

// Rate is how many of a class can be served in a second, as measured; a guess at first.
func (q *Queue) Rate(class Class) float64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.rate(class)
}
