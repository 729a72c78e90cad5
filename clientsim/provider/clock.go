package provider

import (
	"container/heap"
	"context"
	"sync"
	"time"
)

// clock is the simulation's time: real time plus what it was advanced by. Phones, quotas and lifetimes
// follow it; what a sender compares with its own clock does not (see skew in the package comment).
type clock struct {
	kick chan struct{} // capacity 1: an earlier event than the loop waits for, or an advance

	turn sync.Mutex // held while events run, so that they run one at a time, in order

	mu     sync.Mutex
	offset time.Duration
	events events
	seq    int
}

func newClock() *clock { return &clock{kick: make(chan struct{}, 1)} }

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Now().Add(c.offset)
}

// at runs fn once the clock has reached t: from run or advance, never from here.
func (c *clock) at(t time.Time, fn func()) {
	c.mu.Lock()
	c.seq++
	heap.Push(&c.events, event{at: t, seq: c.seq, fn: fn})
	c.mu.Unlock()
	c.wake()
}

func (c *clock) wake() {
	select {
	case c.kick <- struct{}{}:
	default:
	}
}

// advance moves the clock on by d, through all events in between, each at its own time. It returns
// when they have run.
func (c *clock) advance(d time.Duration) {
	c.turn.Lock()
	defer c.turn.Unlock()
	c.mu.Lock()
	from := c.offset
	end := time.Now().Add(from + d)
	for len(c.events) > 0 && !c.events[0].at.After(end) {
		e := heap.Pop(&c.events).(event)
		c.offset = min(max(c.offset, from+d-end.Sub(e.at)), from+d)
		c.mu.Unlock()
		e.fn()
		c.mu.Lock()
	}
	c.offset = from + d
	c.mu.Unlock()
	c.wake()
}

// run runs the events that real time reaches, until ctx ends.
func (c *clock) run(ctx context.Context) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		timer.Reset(c.due())
		select {
		case <-ctx.Done():
			return
		case <-c.kick:
		case <-timer.C:
		}
	}
}

// due runs what is due and says how long it is until the next event.
func (c *clock) due() time.Duration {
	c.turn.Lock()
	defer c.turn.Unlock()
	for {
		c.mu.Lock()
		if len(c.events) == 0 {
			c.mu.Unlock()
			return time.Hour
		}
		if wait := c.events[0].at.Sub(time.Now().Add(c.offset)); wait > 0 {
			c.mu.Unlock()
			return wait
		}
		e := heap.Pop(&c.events).(event)
		c.mu.Unlock()
		e.fn()
	}
}

type event struct {
	at  time.Time
	seq int // keeps events of the same time in the order in which they were made
	fn  func()
}

type events []event

func (e events) Len() int { return len(e) }
func (e events) Less(i, j int) bool {
	if e[i].at.Equal(e[j].at) {
		return e[i].seq < e[j].seq
	}
	return e[i].at.Before(e[j].at)
}
func (e events) Swap(i, j int) { e[i], e[j] = e[j], e[i] }
func (e *events) Push(x any)   { *e = append(*e, x.(event)) }
func (e *events) Pop() any {
	last := len(*e) - 1
	x := (*e)[last]
	(*e)[last] = event{}
	*e = (*e)[:last]
	return x
}
