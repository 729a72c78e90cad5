package api

import (
	"context"
	"crypto/rand"
	mathrand "math/rand/v2"
	"net/http"
	"sync"
	"time"

	"github.com/nudgesync/nudge/changefeed/change"
	"github.com/nudgesync/nudge/notify/device"
	"github.com/nudgesync/nudge/notify/hub"
	"github.com/nudgesync/nudge/server/auth"
	"github.com/nudgesync/nudge/server/pull"
	"github.com/nudgesync/nudge/server/wire"
)

// waiter is a pull over HTTP that waits for something new (GET /v1/changes?wait=). It implements
// hub.Session: one slot for the newest head and one bell (I8), and no goroutine but its handler.
//
// It hears of its own device's changes like of any other: who waits has come for them.
type waiter struct {
	device string
	bell   chan struct{} // rung when head or over change; of capacity 1

	herd *herd

	mu    sync.Mutex
	head  change.Position // newest that was heard of, zero for none
	crowd hub.Crowd       // who else heard of it
	over  bool            // it is to be answered now, with what there is
}

// Device is the asking device's id.
func (p *waiter) Device() string { return p.device }

// Nudge notes that there is something to pull. It does not block.
func (p *waiter) Nudge(head change.Position, with hub.Crowd) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !covers(p.head, head) {
		p.head = head
		p.crowd = larger(p.crowd, with)
		p.ring()
	}
}

// Own is Nudge: whoever wrote it, the waiting device does not have it.
func (p *waiter) Own(head change.Position) { p.Nudge(head, hub.Crowd{}) }

// leave does nothing: a pull can't be told to go, only be answered.
func (p *waiter) leave(time.Duration) {}

// shut ends the wait. Nobody is told why: the answer is a page like any other.
func (p *waiter) shut(int, string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.over = true
	p.ring()
}

// ring wakes the handler. mu is held.
func (p *waiter) ring() {
	select {
	case p.bell <- struct{}{}:
	default: // it rings already
	}
}

// await returns when something past pos is there to be pulled; until says when to give up.
func (p *waiter) await(ctx context.Context, pos change.Position, until <-chan struct{}) (news bool) {
	for {
		p.mu.Lock()
		news = !p.head.IsZero() && !covers(pos, p.head)
		p.head = change.Position{} // what it announced is in the next page, or was in the last one
		over, crowd := p.over, p.crowd
		p.crowd = hub.Crowd{}
		p.mu.Unlock()
		if news && !over {
			p.spread(ctx, p.herd.within(time.Now(), crowd), until)
		}
		if news || over {
			return news
		}
		select {
		case <-p.bell:
		case <-until:
			return false
		case <-ctx.Done():
			return false
		}
	}
}

// spread lets a random part of within pass, as a device with a session does, but not what goes past the pull's own
// time.
func (p *waiter) spread(ctx context.Context, within time.Duration, until <-chan struct{}) {
	if within == 0 {
		return
	}
	timer := time.NewTimer(time.Duration(mathrand.Int64N(int64(within))))
	defer timer.Stop()
	for over := false; !over; {
		select {
		case <-p.bell: // more news can wait as well; an end can't
			p.mu.Lock()
			over = p.over
			p.mu.Unlock()
		case <-timer.C:
			return
		case <-until:
			return
		case <-ctx.Done():
			return
		}
	}
}

// longPoll answers a pull that may wait. It registers first and looks after, so that what is committed in
// between wakes it. waited is the time that passed for want of news.
func (a *API) longPoll(w http.ResponseWriter, r *http.Request, id auth.Identity, ask asked) (ans *pull.Answer, waited time.Duration, err error) {
	p := &waiter{device: ask.Device, bell: make(chan struct{}, 1), herd: a.herd}
	key := deviceKey{ask.User, ask.Device}
	if full := a.admitWaiter(key, p); full != nil {
		// To wait takes a place; what there is already does not.
		if ans, err = a.pullOnce(r.Context(), ask.Request); err == nil && ans.NothingNew {
			return nil, 0, full
		}
		return ans, 0, err
	}
	defer a.dismissWaiter(key, p)
	defer a.cfg.Hub.Register(pull.Scopes(ask.User), p)()
	if a.cfg.Hears != nil { // to wait is to be there, as with a session
		presence := rand.Text()
		a.hear(key, device.Event{Session: presence})
		defer func() { a.hear(key, device.Event{Session: presence, Ended: true}) }()
	}

	// The server's own deadline is for requests that are answered at once.
	_ = http.NewResponseController(w).SetWriteDeadline(time.Time{})
	defer limitWrite(w, 0)

	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	defer context.AfterFunc(a.base, cancel)()
	// A context's end, unlike a timer's, is there for everyone who looks for it.
	until, stop := context.WithTimeout(context.Background(), min(ask.wait, time.Until(id.Expires)))
	defer stop()
	for {
		if ans, err = a.pullOnce(ctx, ask.Request); err != nil || !ans.NothingNew {
			return ans, waited, err
		}
		a.hear(key, device.Event{Acked: ans.Acked}) // the answer may be half a minute away
		began := time.Now()
		news := p.await(ctx, ans.Upto, until.Done())
		waited += time.Since(began)
		if r.Context().Err() != nil {
			return nil, waited, errGone
		}
		// It is long ago that the token was looked at: it may have ended, or been revoked.
		if _, _, err := a.identify(r); err != nil {
			return nil, waited, err
		}
		if !news {
			return ans, waited, nil
		}
	}
}

// admitWaiter takes a place for a waiting pull, or says why there is none. It costs about what a socket
// does, so it is one of them; but not a handshake, or a fleet of pollers would use those up. An older one
// of the same device, which has given it up, is answered.
func (a *API) admitWaiter(key deviceKey, p *waiter) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case a.draining:
		return wire.NewProblem(wire.Draining, "")
	case a.open >= a.limits.MaxSockets:
		return busy("this node holds as many sockets as it may")
	}
	if err := a.occupy(key.user); err != nil {
		return err
	}
	a.open++
	if older := a.waiters[key]; older != nil {
		older.shut(wire.CloseReplaced, wire.CauseReplaced)
	}
	a.waiters[key] = p
	if a.polling() > 0 { // the order came just now
		p.shut(wire.CloseDrain, string(wire.Polling))
	}
	a.metrics.waiting.Inc()
	return nil
}

func (a *API) dismissWaiter(key deviceKey, p *waiter) {
	a.mu.Lock()
	if a.waiters[key] == p {
		delete(a.waiters, key)
	}
	a.vacate(key.user)
	a.mu.Unlock()
	a.metrics.waiting.Dec()
	a.release()
}
