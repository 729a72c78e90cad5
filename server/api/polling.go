package api

import (
	"context"
	"encoding/json"
	"fmt"
	mathrand "math/rand/v2"
	"net/http"
	"time"

	"github.com/nudgesync/nudge/server/wire"
)

// Polling is where an operator's order to poll is kept, for every node. It is called concurrently.
type Polling interface {
	// PollAfter is the time between two pulls of a device; 0: devices hold sessions and are nudged.
	PollAfter(ctx context.Context) (time.Duration, error)
	// SetPollAfter sets it, durably.
	SetPollAfter(ctx context.Context, after time.Duration) error
}

// pollingEvery is how often a node looks for the order, and how long it may take.
const (
	pollingEvery  = time.Second
	pollingWithin = 5 * time.Second
)

// Bounds of a fleet's polling.
const (
	MinPollAfter = time.Second
	MaxPollAfter = 24 * time.Hour
)

// watchPolling follows the order until ctx ends. While it can't be read, what was read last stands.
func (a *API) watchPolling(ctx context.Context) {
	tick := time.NewTicker(pollingEvery)
	defer tick.Stop()
	for {
		if err := a.readPolling(ctx); err != nil {
			a.log.DebugContext(ctx, "whether devices are to poll is not known anew", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// readPolling follows the order as it is now. Reads come one after the other: an older one must not undo
// what a newer one found.
func (a *API) readPolling(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, pollingWithin)
	defer cancel()
	select {
	case a.readsPolling <- struct{}{}:
		defer func() { <-a.readsPolling }()
	case <-ctx.Done():
		return fmt.Errorf("read the order to poll: %w", ctx.Err())
	}
	after, err := a.cfg.Polling.PollAfter(ctx)
	if err != nil {
		return fmt.Errorf("read the order to poll: %w", err)
	}
	was := a.pollAfter.Swap(int64(after))
	if was == int64(after) {
		return nil
	}
	a.log.InfoContext(ctx, "devices are told how to ask", "poll_after", after, "before", time.Duration(was))
	if was == 0 {
		a.answerWaiters()
	}
	return nil
}

// answerWaiters ends the waits that the order to poll found under way: each answer says when to come again.
func (a *API) answerWaiters() {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, p := range a.waiters {
		p.shut(wire.CloseDrain, string(wire.Polling))
	}
}

// polling is the time between two pulls that devices are told; 0 while they are nudged.
func (a *API) polling() time.Duration { return time.Duration(a.pollAfter.Load()) }

// pollAfterS is what pages say of it.
func (a *API) pollAfterS() *int {
	after := a.polling()
	if after == 0 {
		return nil
	}
	s := int(after.Seconds())
	return &s
}

// pollInstead is the problem of a session that is not wanted for now.
func pollInstead(after time.Duration) *wire.Problem {
	return wire.NewProblem(wire.Polling, "").After(after + time.Duration(mathrand.Int64N(int64(after)/4+1)))
}

// pollOrder is the body of /v1/admin/poll.
type pollOrder struct {
	PollAfterS *int `json:"poll_after_s"`
}

// getPolling serves GET /v1/admin/poll: what this node tells devices.
func (a *API) getPolling(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(pollOrder{a.pollAfterS()}) // a client that is gone needs no answer
}

// putPolling serves PUT /v1/admin/poll.
func (a *API) putPolling(w http.ResponseWriter, r *http.Request) {
	var order pollOrder
	if err := decodeBody(w, r, &order); err != nil {
		a.fail(w, r, err)
		return
	}
	if s := order.PollAfterS; s == nil || *s < int(MinPollAfter.Seconds()) || *s > int(MaxPollAfter.Seconds()) {
		a.fail(w, r, invalid("poll_after_s is not a number of seconds from 1 to 86400",
			`Send {"poll_after_s": 60}; DELETE ends polling.`))
		return
	}
	a.setPolling(w, r, time.Duration(*order.PollAfterS)*time.Second)
}

// deletePolling serves DELETE /v1/admin/poll.
func (a *API) deletePolling(w http.ResponseWriter, r *http.Request) { a.setPolling(w, r, 0) }

func (a *API) setPolling(w http.ResponseWriter, r *http.Request, after time.Duration) {
	if err := a.cfg.Polling.SetPollAfter(r.Context(), after); err != nil {
		a.fail(w, r, err)
		return
	}
	if err := a.readPolling(r.Context()); err != nil { // 200 says that this node follows; the others do within a second
		a.fail(w, r, err)
		return
	}
	a.getPolling(w, r)
}
