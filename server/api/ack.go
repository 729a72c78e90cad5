package api

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"

	"github.com/nudgesync/nudge/changefeed/change"
	"github.com/nudgesync/nudge/server/wire"
)

// ack serves POST /v1/ack: the device has saved this cursor.
func (a *API) ack(w http.ResponseWriter, r *http.Request) {
	id, device, err := a.identify(r)
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
	a.proved(deviceKey{id.User, device}, body.Cursor)
	a.settle(deviceKey{id.User, device}, pos)
	w.WriteHeader(http.StatusNoContent)
}

// settle takes back a nudge that waits to be sent to a device that has proven to hold what it is about.
func (a *API) settle(key deviceKey, pos change.Position) {
	if s := a.session(key); s != nil && !pos.IsZero() {
		s.settle(pos)
	}
}

// served tells a device's session what it was handed over HTTP.
func (a *API) served(key deviceKey, pos change.Position) {
	if s := a.session(key); s != nil && !pos.IsZero() {
		s.served(pos)
	}
}

// proved tells a device's session which cursor it has shown to hold over HTTP.
func (a *API) proved(key deviceKey, cursor string) {
	if s := a.session(key); s != nil && cursor != "" {
		s.proved(cursor)
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
