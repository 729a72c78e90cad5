package push

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"time"
)

const (
	hard      = time.Hour        // for so long a device is tried hard
	longest   = 10 * time.Minute // of the pauses in that time
	patience  = time.Minute      // when the provider says "too many" and not for how long
	humans    = 15 * time.Minute // until what somebody must repair is tried again
	mostAsked = 6 * time.Hour    // a longer Retry-After is not believed
)

// judge says what becomes of the device, and of the lane. Besides the job's own result it may return others that were
// held back until now; the job's own may be held itself.
func (l *lane) judge(j job, a Answer, sent, answered time.Time) []Result {
	r := Result{
		Due: j.due, Attempted: true, Outcome: a.Outcome, Reason: a.Reason, ID: a.ID, Gone: a.Gone,
		SentAt: sent, AnsweredAt: answered,
	}
	d := j.due
	asked := min(a.RetryAfter, mostAsked)
	l.mu.Lock()
	defer l.mu.Unlock()
	heard := l.breaker.counts(j.probe)
	switch a.Outcome {
	case Accepted:
		l.worked(heard)
		l.sane(heard)
		r.Verdict = Sent
	case Disable, Quarantine:
		if a.Doubt {
			return l.doubtful(j, r, a, heard)
		}
		l.worked(heard)
		l.sane(heard)
		r.Verdict = condemned(a.Outcome)
		if !a.Gone.IsZero() && !a.Gone.After(d.RegisteredAt) { // the device came back since
			r = later(r, backoff(l.Floor, d.Attempts, d.DueFor))
		}
		if r.Verdict == Quarantined {
			l.once(d, a)
		}
	case Fault:
		l.worked(heard)
		l.once(d, a)
		r = later(r, spread(humans, humans/3))
	case Misconfigured:
		if heard {
			l.breaker.trip(answered, settings)
			l.opened(a)
		}
		r = later(r, l.reopens(answered))
	case Throttled:
		l.worked(heard)
		if asked == 0 {
			asked = min(time.Hour, patience<<min(max(d.Attempts-1, 0), 10))
		}
		r = later(r, spread(asked, asked/10))
	case SlowDown:
		l.worked(heard)
		l.pace.slow(answered)
		if asked == 0 {
			asked = patience
		}
		r = later(r, spread(asked, asked/2))
	default: // Retry
		if heard && l.breaker.failed(answered) {
			l.opened(a)
		}
		wait := max(backoff(l.Floor, d.Attempts, d.DueFor), spread(asked, asked/10))
		if l.breaker.state == open {
			wait = max(wait, l.reopens(answered))
		}
		r = later(r, wait)
	}
	return []Result{r}
}

// doubtful holds the result back, or, if there are too many of its kind, opens the breaker and pardons them all. Called
// with mu held.
func (l *lane) doubtful(j job, r Result, a Answer, heard bool) []Result {
	now := r.AnsweredAt
	switch {
	case !heard:
		return []Result{later(r, l.reopens(now))}
	case !j.probe && !l.guard.doubt(j.due.User):
		r.Verdict = condemned(a.Outcome)
		l.guard.hold(r, now.Add(l.cfg.Hold))
		if a.Outcome == Quarantine {
			l.once(j.due, a)
		}
		return nil
	}
	l.breaker.trip(now, doubts)
	l.opened(a)
	wait := l.reopens(now)
	return append(l.guard.pardon(wait), later(r, wait))
}

func condemned(o Outcome) Verdict {
	if o == Quarantine {
		return Quarantined
	}
	return Disabled
}

func later(r Result, wait time.Duration) Result {
	r.Verdict, r.Wait = Later, wait
	return r
}

// worked tells the breaker. Called with mu held.
func (l *lane) worked(heard bool) {
	if heard && l.breaker.worked(time.Now()) {
		l.log.LogAttrs(context.Background(), slog.LevelInfo, "push: the sender works again", slog.String("sender", l.Name))
		l.shows()
	}
}

// sane tells the guard of an answer that only right settings bring about. Called with mu held.
func (l *lane) sane(heard bool) {
	if heard {
		l.guard.sane()
	}
}

// reopens is how long a device waits for the breaker, and a little longer than the next one. Called with mu held.
func (l *lane) reopens(now time.Time) time.Duration {
	return spread(max(0, l.breaker.until.Sub(now)), time.Minute)
}

// opened says so. Called with mu held.
func (l *lane) opened(a Answer) {
	l.log.LogAttrs(context.Background(), slog.LevelError, "push: the sender's breaker is open", slog.String("sender", l.Name),
		slog.String("outcome", a.Outcome.String()), slog.String("reason", a.Reason), slog.String("hint", a.Hint),
		slog.Duration("for", time.Until(l.breaker.until)))
	l.shows()
}

// shows sets the gauge. Called with mu held.
func (l *lane) shows() { l.cfg.Metrics.breaker.WithLabelValues(l.Name).Set(float64(l.breaker.state)) }

// told is what was logged once already.
type told struct{ app, reason string }

// once logs what somebody must look at, once for an app and reason. Called with mu held.
func (l *lane) once(d Due, a Answer) {
	t := told{d.App, a.Reason}
	if l.told[t] || len(l.told) > 1000 {
		return
	}
	l.told[t] = true
	l.log.LogAttrs(context.Background(), slog.LevelError, "push: a push was refused, and somebody must look", slog.String("sender", l.Name),
		slog.String("outcome", a.Outcome.String()), slog.String("app", d.App), slog.String("environment", d.Environment), slog.String("reason", a.Reason), slog.String("hint", a.Hint))
}

// backoff is the pause before the next attempt: exponential with full jitter above the floor, and once a device
// has been due for an hour only now and then.
func backoff(floor time.Duration, attempts int, due time.Duration) time.Duration {
	if due > hard {
		return spread(hard/2, hard/2)
	}
	return spread(floor, min(longest, floor<<min(max(attempts, 1), 20)))
}

// spread is at least d, and up to by more.
func spread(d, by time.Duration) time.Duration {
	if by <= 0 {
		return d
	}
	return d + rand.N(by)
}
