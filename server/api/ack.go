package api

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"

	"github.com/nudgesync/nudge/changefeed/change"
	"github.com/nudgesync/nudge/notify/device"
	"github.com/nudgesync/nudge/server/wire"
)

// ack serves POST /v1/ack: the device has saved this cursor.
func (a *API) ack(w http.ResponseWriter, r *http.Request) {
	id, name, err := a.identify(r)
	if err != nil {
		a.fail(w, r, err)
		return
	}
	var body struct {
		Cursor string `json:"cursor"`
	}
	if err := decodeBody(w, r, &body); err != nil {
		a.fail(w, r, err)
		return
	}
	if body.Cursor == "" {
		a.fail(w, r, invalid("the body names no cursor", `Send {"cursor": "…"}, as it was received.`))
		return
	}
	pos, err := a.cfg.Engine.Saved(id.User, body.Cursor)
	if err != nil {
		a.fail(w, r, err)
		return
	}
	key := deviceKey{id.User, name}
	a.heard(key, body.Cursor, pos, change.Position{})
	a.hear(key, device.Event{Acked: pos})
	w.WriteHeader(http.StatusNoContent)
}

// heard tells a device's session what happened over HTTP: the cursor that the device has shown to hold, the
// position that this proves, which takes back a nudge that waits to be sent, and what it was handed. Each may be
// none.
func (a *API) heard(key deviceKey, cursor string, acked, upto change.Position) {
	s := a.session(key)
	if s == nil {
		return
	}
	if cursor != "" {
		s.proved(cursor)
	}
	if !acked.IsZero() {
		s.settle(acked)
	}
	if !upto.IsZero() {
		s.served(upto)
	}
}

// session is the device's session here; nil if it has none.
func (a *API) session(key deviceKey) *session {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.byDevice[key]
}

// decodeBody reads one JSON value of at most a frame's size.
func decodeBody(w http.ResponseWriter, r *http.Request, into any) error {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, wire.MaxClientFrame))
	if tooLarge := (*http.MaxBytesError)(nil); errors.As(err, &tooLarge) {
		return wire.NewProblem(wire.TooLarge, "the body is above 16 KiB")
	}
	if err != nil {
		return invalid("the body ended early", "")
	}
	if json.Unmarshal(body, into) != nil {
		return invalid("the body is not the JSON that belongs here", "")
	}
	return nil
}
