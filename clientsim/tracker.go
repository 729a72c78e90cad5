package main

import (
	"encoding/json"
	"slices"
	"sync"
	"time"

	"github.com/nudgesync/nudge/clientsim/device"
)

// row names a row, as every device of its user knows it.
type row struct{ table, key string }

// idKey is the key of a row whose key is one uuid column id, in canonical JSON.
func idKey(uuid string) string { return `{"id":"` + uuid + `"}` }

// expected is a write that a device has yet to show.
type expected struct {
	row      row
	version  time.Time // the row's updated_at; a device that shows a later one shows this write too
	deleted  bool
	intended time.Time // when the write was meant to be sent
	own      bool      // the device's own write: waited for, not measured
}

// tracker knows which writes one device has yet to show, and whether a nudge can have any cause but the
// device's own. Safe for concurrent use.
type tracker struct {
	mu      sync.Mutex
	online  bool
	pending map[row][]expected
	foreign bool // another device wrote since the newest nudge that found nothing pending
	own     bool // so did this one

	// Of a device without a socket, for judging the pushes that were sent to it.
	since     time.Time // when it came
	foreignAt time.Time // the newest write of another device
	ownAt     time.Time // of its own
	settledAt time.Time // it had said to have everything, and no write of another one was on its way
}

// expect notes a write before it commits. It is not measured for a device that is away: its delay would
// be the absence.
func (t *tracker) expect(e expected) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if e.own {
		t.own, t.ownAt = true, time.Now()
	} else {
		t.foreign, t.foreignAt = true, time.Now()
	}
	if !t.online {
		return
	}
	if e.deleted && len(t.pending[e.row]) > 0 {
		// The device may not have the row yet, so its absence would prove nothing.
		delete(t.pending, e.row)
		return
	}
	if t.pending == nil {
		t.pending = map[row][]expected{}
	}
	t.pending[e.row] = append(t.pending[e.row], e)
}

// withdraw takes back an expectation whose transaction failed.
func (t *tracker) withdraw(e expected) {
	t.mu.Lock()
	defer t.mu.Unlock()
	list := t.pending[e.row]
	for i := range list {
		if list[i] == e {
			t.pending[e.row] = append(list[:i:i], list[i+1:]...)
			break
		}
	}
	if len(t.pending[e.row]) == 0 {
		delete(t.pending, e.row)
	}
}

// connected and left bound what is measured.
func (t *tracker) connected() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.online, t.since = true, time.Now()
}

func (t *tracker) left() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.online, t.pending = false, nil
}

// nudged reports whether the nudge can only come from the device's own write: no other device of its
// user wrote since the last nudge that left nothing to wait for. It errs towards false.
func (t *tracker) nudged() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.awaits(false) {
		return false
	}
	only := t.own && !t.foreign
	t.foreign, t.own = false, false
	return only
}

// What the server can't know yet: what it was told a moment ago, and what a device missed that has just come back.
const (
	heardWithin = 5 * time.Second
	backFor     = 15 * time.Second
)

// acknowledged notes that the device has just said what it holds.
func (t *tracker) acknowledged(now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.online && now.Sub(t.since) >= backFor && !t.awaits(false) {
		t.settledAt = now
	}
}

// spared reports whether a push that was sent at that time can have no cause but the device's own writes: it had
// everything of the others, had said so long enough before, and only it has written since. settled is when it had
// said so. It errs towards false.
func (t *tracker) spared(sent time.Time) (settled time.Time, only bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.settledAt, !t.settledAt.IsZero() && t.foreignAt.Before(t.settledAt) && !t.awaits(false) &&
		t.ownAt.After(t.settledAt) && t.ownAt.Before(sent) && sent.Sub(t.settledAt) > heardWithin
}

// awaits reports whether a write, of the device's own or of another one, has yet to show. mu is held.
func (t *tracker) awaits(own bool) bool {
	for _, list := range t.pending {
		if slices.ContainsFunc(list, func(e expected) bool { return e.own == own }) {
			return true
		}
	}
	return false
}

// owes reports whether the device has yet to show a write of its own.
func (t *tracker) owes() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.awaits(true)
}

// waiting is how many rows the device has yet to show.
func (t *tracker) waiting() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.pending)
}

// shown strikes out what the rows show, and reports the intended times of those writes that others made.
func (t *tracker) shown(rows []device.Row) []time.Time {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.pending) == 0 {
		return nil
	}
	versions := make(map[row]time.Time, len(t.pending))
	for _, r := range rows {
		id := row{r.Table, r.Key}
		if _, ok := t.pending[id]; !ok {
			continue
		}
		var v struct {
			UpdatedAt time.Time `json:"updated_at"`
		}
		// A row without a readable version stays pending; the final comparison names it.
		_ = json.Unmarshal(r.Columns, &v)
		versions[id] = v.UpdatedAt
	}
	var done []time.Time
	strike := func(e expected) {
		if !e.own {
			done = append(done, e.intended)
		}
	}
	for id, list := range t.pending {
		version, held := versions[id]
		var rest []expected
		for _, e := range list {
			if e.deleted && !held || !e.deleted && held && !version.Before(e.version) {
				strike(e)
			} else {
				rest = append(rest, e)
			}
		}
		switch {
		case !held && len(rest) < len(list), len(rest) == 0: // deleted: nothing older can come
			for _, e := range rest {
				strike(e)
			}
			delete(t.pending, id)
		default:
			t.pending[id] = rest
		}
	}
	return done
}
