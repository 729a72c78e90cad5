package device_test

import (
	"encoding/json"
	"net/http"
	"testing"
	"time"

	"github.com/nudgesync/nudge/server/wire"
)

// An operator sends the sockets away: the device polls at the server's pace, hears its app at once all
// the same, and comes back to the socket when a page no longer says when to ask.
func TestPollAfter(t *testing.T) {
	r := newRig(t)
	p := r.first()
	r.refuse <- problem(wire.Polling, time.Minute)
	p.send(wire.Goaway{T: wire.TGoaway, AfterMS: 100, Reason: "polling"})
	p.close(wire.CloseDrain)
	r.waited().fire <- time.Time{}
	minute := 60
	says := func(pg *wire.Page, after *int) func(http.ResponseWriter) {
		pg.PollAfterS = after
		return func(w http.ResponseWriter) { _ = json.NewEncoder(w).Encode(pg) }
	}
	polls := func() wait {
		t.Helper()
		w := r.waited()
		if w.d != time.Minute {
			t.Errorf("waits %v, the server said a minute", w.d)
		}
		return w
	}
	take(t, "GET", r.gets).answer <- says(page("2", false, `upsert a t 2 {}`), &minute)
	polls().fire <- time.Time{}
	take(t, "GET", r.gets).answer <- func(w http.ResponseWriter) {
		w.Header().Set(wire.HeaderCursor, "3")
		w.Header().Set(wire.HeaderPollAfter, "60")
		w.WriteHeader(http.StatusNotModified)
	}
	polls()
	r.dev.Wrote() // the app does not wait for the clock
	take(t, "GET", r.gets).answer <- says(page("4", false), &minute)
	polls().fire <- time.Time{}
	take(t, "GET", r.gets).answer <- says(page("5", false), nil)
	r.waited().fire <- time.Time{}
	take(t, "socket", r.sockets).ready("5", false)
}
