package api

import (
	"encoding/json"
	"net/http"
	"time"

	"github.com/nudgesync/nudge/server/auth"
)

// revocation is the body of POST /v1/admin/revocations, and of its answer.
type revocation struct {
	Seq    int64      `json:"seq,omitempty"` // in answers alone
	User   string     `json:"user,omitempty"`
	Device string     `json:"device,omitempty"`
	JTI    string     `json:"jti,omitempty"`
	At     *time.Time `json:"at,omitempty"`    // RFC 3339; tokens issued later are good. Without one: now
	Until  *time.Time `json:"until,omitempty"` // RFC 3339; without one it holds for good
}

// revoke serves POST /v1/admin/revocations {user | user, device | jti, at?, until?}. When it answers 200, this
// node refuses them already, and the others do within a second.
func (a *API) revoke(w http.ResponseWriter, r *http.Request) {
	const hint = `Send {"user": …}, {"user": …, "device": …} or {"jti": …}, "until" as in 2026-01-02T15:04:05Z if it is to end, and "at", of a user or device, if it does not count from now.`
	var body revocation
	if err := decodeBody(w, r, &body); err != nil {
		if p := problemOf(err); p.Hint == "" {
			p.Hint = hint
		}
		a.fail(w, r, err)
		return
	}
	rev := auth.Revocation{User: body.User, Device: body.Device, JTI: body.JTI}
	if body.Until != nil {
		rev.Until = *body.Until
	}
	if body.At != nil {
		rev.At = *body.At
	}
	if err := rev.Validate(); err != nil {
		a.fail(w, r, invalid(err.Error(), hint))
		return
	}
	if body.Seq != 0 {
		a.fail(w, r, invalid("seq is ours to say", hint))
		return
	}
	rev, err := a.cfg.Revoke(r.Context(), rev)
	if err != nil {
		a.fail(w, r, err)
		return
	}
	a.log.Info("revoked", "seq", rev.Seq, "user", rev.User, "device", rev.Device, "jti", rev.JTI, "until", body.Until)
	answer := revocation{Seq: rev.Seq, User: rev.User, Device: rev.Device, JTI: rev.JTI, At: &rev.At}
	if !rev.Until.IsZero() {
		answer.Until = &rev.Until
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(answer)
}
