package push

import (
	"context"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// idle is what a lane may send a second without having grown to it, and crowd how many devices in one go are a large
// fan-out.
const (
	idle  = 200
	crowd = 200
)

// pace is a lane's bucket. It begins small, grows to the lane's rate while a large fan-out lasts, and halves when
// the provider asks for it: "ramp up over 60 seconds" (FCM, scaling best practices). Its methods may be
// called from any goroutine.
type pace struct {
	bucket     *rate.Limiter
	start, top float64 // pushes a second
	growth     float64 // a second, each second

	mu     sync.Mutex
	now    float64
	at     time.Time // of the last look
	halved time.Time
}

func newPace(l Lane, now time.Time) *pace {
	p := &pace{bucket: rate.NewLimiter(0, 1), start: min(l.Rate, idle), top: l.Rate, at: now}
	ramp := l.Ramp
	if ramp < 0 {
		p.start, ramp = l.Rate, time.Minute
	}
	p.growth = max(p.top-p.start, p.start) / ramp.Seconds()
	p.set(p.start)
	return p
}

func (p *pace) set(perSecond float64) {
	p.now = perSecond
	p.bucket.SetLimit(rate.Limit(perSecond))
	p.bucket.SetBurst(max(1, int(perSecond/50))) // 20 ms: on a busy machine timers are no finer
}

// look lets time pass. In a large fan-out, or after the provider asked for less, the pace grows; else it
// begins anew. It returns the pace.
func (p *pace) look(now time.Time, large bool) float64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	elapsed := now.Sub(p.at).Seconds()
	p.at = now
	if large || p.now < p.start {
		p.set(min(p.top, p.now+p.growth*elapsed))
	} else {
		p.set(p.start)
	}
	return p.now
}

// slow halves the pace, once a second at most: the answers of one moment ask once.
func (p *pace) slow(now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if now.Sub(p.halved) < time.Second {
		return
	}
	p.halved = now
	p.set(max(1, p.now/2))
}

// wait waits for a push's turn. It fails if that would come after ctx's deadline, or when ctx ends.
func (p *pace) wait(ctx context.Context) error { return p.bucket.Wait(ctx) }

// quiet is whether it is one of the minutes in which everybody's cron jobs send: around :00, :15, :30 and :45.
func quiet(now time.Time) bool {
	const quarter, minute = 15 * 60, 60
	second := now.Unix() % quarter
	return second < minute || second >= quarter-minute
}
