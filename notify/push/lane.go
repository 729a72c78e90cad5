package push

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// mostClaimed is how many devices a lane holds at most, and settled how many it settles in one statement.
const (
	mostClaimed = 1000
	mostSettled = 500
)

// claimAhead is how much of a lane's work is claimed at a time. A device that comes by itself meanwhile is pushed to all
// the same, so it is short.
const claimAhead = 2 * time.Second

// lane is one sender at work. One goroutine claims, some send, one settles.
type lane struct {
	Lane
	cfg  Config
	log  *slog.Logger
	sel  Selection
	pace *pace

	work  chan job      // written and closed by the claimer
	done  chan Result   // has room for all that is held, so that nobody waits for the settler
	freed chan struct{} // something was settled, or the breaker's probe is back
	woken chan struct{} // there may be due devices

	mu      sync.Mutex
	breaker breaker
	guard   guard
	held    int           // devices that were claimed and not settled
	mean    time.Duration // of the time until an answer, newest ones weigh most; 0: none yet
	told    map[told]bool

	large int // owned by the claimer: devices claimed since there were fewer than asked for
}

type job struct {
	due     Due
	claimed time.Time
	probe   bool // its answer decides whether the breaker closes
}

func newLane(cfg Config, of Lane, sel Selection) *lane {
	l := &lane{
		Lane: of, cfg: cfg, log: cfg.Log, sel: sel, pace: newPace(of, time.Now()),
		work: make(chan job, mostClaimed), done: make(chan Result, mostClaimed),
		freed: make(chan struct{}, 1), woken: make(chan struct{}, 1), told: map[told]bool{},
	}
	l.shows()
	return l
}

// run claims and sends until ctx ends. What is on its way then has Config.Drain to be answered; what waits goes back.
func (l *lane) run(ctx context.Context) {
	store, abandon := context.WithCancel(context.WithoutCancel(ctx))
	defer abandon()
	out, cut := context.WithCancel(store)
	defer cut()
	var workers, all sync.WaitGroup
	finished := make(chan struct{})
	all.Go(func() {
		select {
		case <-finished:
			return
		case <-ctx.Done():
		}
		for _, end := range []func(){cut, abandon} { // the second half is for settling what the first one cut
			select {
			case <-finished:
				return
			case <-time.After(l.cfg.Drain / 2):
				end()
			}
		}
	})
	all.Go(func() { l.claim(ctx) })
	for range l.Workers {
		workers.Go(func() { l.send(ctx, out) })
	}
	all.Go(func() {
		workers.Wait()
		close(l.done)
	})
	l.settle(store)
	close(finished)
	all.Wait()
}

// claim keeps the workers busy: it claims what they can send within claimAhead.
func (l *lane) claim(ctx context.Context) {
	defer close(l.work)
	pause := l.cfg.Poll
	for ctx.Err() == nil {
		n, probe, wait := l.room(time.Now())
		if n == 0 {
			l.sleep(ctx, wait, l.freed)
			continue
		}
		sel, busy := l.sel, l.large >= crowd
		if busy && quiet(time.Now()) {
			sel.Urgency = Now
		}
		asked := time.Now() // no lease began before that
		claimed, err := l.ask(ctx, sel, n)
		if err != nil {
			if ctx.Err() == nil {
				l.log.LogAttrs(ctx, slog.LevelWarn, "push: due devices cannot be claimed", slog.String("sender", l.Name), slog.Any("error", err))
			}
			l.sleep(ctx, pause, nil)
			pause = min(2*pause, 30*l.cfg.Poll)
			continue
		}
		pause = l.cfg.Poll
		l.cfg.Metrics.claimed.WithLabelValues(l.Name).Add(float64(len(claimed)))
		l.mu.Lock()
		l.held += len(claimed)
		if probe && len(claimed) > 0 {
			l.breaker.probe()
			l.shows()
		}
		l.mu.Unlock()
		for _, d := range claimed {
			l.work <- job{due: d, claimed: asked, probe: probe}
		}
		switch {
		case len(claimed) == n:
			l.large = min(l.large+n, crowd)
			continue
		case sel.Urgency == l.sel.Urgency:
			l.large = 0
		}
		l.sleep(ctx, l.cfg.Poll, l.woken)
	}
}

// ask claims. A database that has gone silent costs a part of a lease, not the lane.
func (l *lane) ask(ctx context.Context, sel Selection, n int) ([]Due, error) {
	ctx, cancel := context.WithTimeout(ctx, l.cfg.Lease/4)
	defer cancel()
	return l.cfg.Store.Claim(ctx, sel, n)
}

// room is how many devices to claim now. If it is 0, it may be more after wait, or after something was freed.
func (l *lane) room(now time.Time) (n int, probe bool, wait time.Duration) {
	pace := l.pace.look(now, l.large >= crowd)
	l.mu.Lock()
	defer l.mu.Unlock()
	ok, probe, wait := l.breaker.admit(now)
	switch {
	case !ok && wait == 0:
		return 0, false, l.cfg.Lease
	case !ok:
		return 0, false, wait
	case probe:
		return 1, true, 0
	}
	target := 2 * l.Workers
	if l.mean > 0 {
		target = max(target, int(float64(l.Workers)*float64(claimAhead)/float64(l.mean)))
	}
	target = max(1, min(target, int(pace*claimAhead.Seconds()), mostClaimed))
	if 2*l.held > target { // few at a time would be many statements
		return 0, false, l.cfg.Lease
	}
	return target - l.held, false, 0
}

// sleep waits for at most d, for ctx or for a signal.
func (l *lane) sleep(ctx context.Context, d time.Duration, signal <-chan struct{}) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	case <-signal:
	}
}

// notify leaves a signal that may be there already.
func notify(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// send is a worker: ctx tells it to begin nothing more, out to give up.
func (l *lane) send(ctx, out context.Context) {
	for j := range l.work {
		wait, begins := l.begins(ctx, j)
		if !begins {
			l.mu.Lock()
			if j.probe {
				l.breaker.lost()
				l.shows()
			}
			l.mu.Unlock()
			l.done <- Result{Due: j.due, Wait: wait}
			notify(l.freed)
			continue
		}
		sent := time.Now()
		attempt, cancel := context.WithTimeout(out, l.cfg.Timeout)
		answer := l.Sender.Send(attempt, l.message(j.due))
		cancel()
		answered := time.Now()
		l.cfg.Metrics.attempts.WithLabelValues(l.Name, answer.Outcome.String(), answer.Reason).Inc()
		l.cfg.Metrics.seconds.WithLabelValues(l.Name).Observe(answered.Sub(sent).Seconds())
		results := l.judge(j, answer, sent, answered)
		l.mu.Lock()
		if l.mean == 0 {
			l.mean = answered.Sub(sent)
		}
		l.mean += (answered.Sub(sent) - l.mean) / 16
		l.mu.Unlock()
		for _, r := range results {
			l.done <- r
		}
		if j.probe {
			notify(l.freed)
		}
	}
}

// begins waits for the job's turn. If it must not be sent, the device waits instead.
func (l *lane) begins(ctx context.Context, j job) (wait time.Duration, ok bool) {
	// Behind that, the answer could not be settled within the lease (invariant 2).
	last := j.claimed.Add(l.cfg.Lease - l.cfg.Timeout - l.cfg.Hold - margin)
	turn, cancel := context.WithDeadline(ctx, last)
	defer cancel()
	if turn.Err() != nil || l.pace.wait(turn) != nil {
		return 0, false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.breaker.counts(j.probe) {
		return 0, true
	}
	return l.reopens(time.Now()), false
}

func (l *lane) message(d Due) Message {
	m := Message{Nudge: d.Nudge, App: d.App, Environment: d.Environment, Target: d.Target, Urgency: d.Urgency, TTL: l.cfg.TTL}
	if alert, ok := l.cfg.Alerts[d.App]; ok && d.Urgency >= Now {
		m.Alert = &alert
	}
	return m
}
