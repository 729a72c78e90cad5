package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/nudgesync/nudge/changefeed/change"
	"github.com/nudgesync/nudge/notify/device"
	"github.com/nudgesync/nudge/server/wire"
)

// Explanation is why a device is stale, or that it is not, for operators. Times that do not apply are absent.
type Explanation struct {
	Verdict string `json:"verdict"` // in one sentence
	User    string `json:"user"`
	wire.Device

	Head    string `json:"head"`              // the user's newest change
	Marked  string `json:"marked"`            // changes up to here have been looked at for pushing
	Acked   string `json:"acked,omitempty"`   // what the device acknowledged when it was last due
	Session string `json:"session,omitempty"` // that it was last heard over and that has not ended, on any node
	Here    bool   `json:"session_here"`      // it has one on the node that answers

	Due       string     `json:"due,omitempty"` // the newest change that it has not acknowledged; absent: none
	DueSince  *time.Time `json:"due_since,omitempty"`
	Urgency   string     `json:"urgency,omitempty"`
	NextAt    *time.Time `json:"next_at,omitempty"`    // when it may be pushed to
	HeldUntil *time.Time `json:"held_until,omitempty"` // a worker has it, or its provider wants it left alone
	NotBefore *time.Time `json:"not_before,omitempty"` // its budget is spent until then
	PushedAt  *time.Time `json:"pushed_at,omitempty"`  // the last push that a provider accepted
	Attempts  int        `json:"attempts"`             // in a row that none accepted
	Unheard   int        `json:"unheard"`              // accepted ones since it was last heard of
	Pushes    []Push     `json:"pushes"`               // newest first
}

// Push is a line of the ledger.
type Push struct {
	Nudge      string     `json:"nudge"`
	Road       string     `json:"road"`
	Head       string     `json:"head"`
	Status     string     `json:"status"`
	Reason     string     `json:"reason,omitempty"` // the provider's
	ID         string     `json:"id,omitempty"`     // the provider's
	SentAt     *time.Time `json:"sent_at,omitempty"`
	AnsweredAt *time.Time `json:"answered_at,omitempty"`
	PulledAt   *time.Time `json:"pulled_at,omitempty"`
	AckedAt    *time.Time `json:"acked_at,omitempty"`
}

// explainDevices serves GET /v1/admin/explain?user=&device=.
func (a *API) explainDevices(w http.ResponseWriter, r *http.Request) {
	query, err := readQuery(r, "user", "device")
	if err == nil && query["user"] == "" {
		err = invalid("user is missing", "Ask with user=, and device= for one of the user's devices.")
	}
	var known []device.Explanation
	if err == nil {
		known, err = a.cfg.Explain(r.Context(), query["user"], query["device"])
	}
	switch {
	case errors.Is(err, device.ErrUnknown):
		a.fail(w, r, wire.NewProblem(wire.NotFound, "no such device is registered"))
		return
	case err != nil:
		a.fail(w, r, err)
		return
	}
	now := time.Now()
	out := make([]Explanation, len(known))
	for i := range known {
		out[i] = Explain(&known[i], now)
		out[i].Here = a.session(deviceKey{known[i].User, known[i].Device.Device}) != nil
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(out)
}

// Explain puts what is known of a device into words.
func Explain(e *device.Explanation, now time.Time) Explanation {
	out := Explanation{
		Verdict: verdict(e, now), User: e.User, Device: registered(&e.Device),
		Head: place(e.Head), Marked: place(e.Marked), Acked: place(e.Acked), Session: e.Session, Due: place(e.Due),
		DueSince: moment(e.DueSince), NextAt: moment(e.NextAt), HeldUntil: moment(e.HeldUntil), NotBefore: moment(e.NotBefore),
		PushedAt: moment(e.PushedAt), Attempts: e.Attempts, Unheard: e.Unheard, Pushes: []Push{},
	}
	if !e.Due.IsZero() {
		out.Urgency = [...]string{"lazy", "soon", "now"}[min(max(e.Urgency, device.Lazy), device.Now)]
	}
	for _, k := range e.Wakes {
		out.Pushes = append(out.Pushes, Push{
			Nudge: k.Nudge, Road: k.Road, Head: place(k.Head), Status: k.Status, Reason: k.Reason, ID: k.ID,
			SentAt: moment(k.SentAt), AnsweredAt: moment(k.AnsweredAt), PulledAt: moment(k.PulledAt), AckedAt: moment(k.AckedAt),
		})
	}
	return out
}

// place is a position as operators see it, "" for none.
func place(p change.Position) string {
	if p.IsZero() {
		return ""
	}
	return p.String()
}

func moment(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}

// verdict says in one sentence what a device waits for. The first that applies is the cause.
func verdict(e *device.Explanation, now time.Time) string {
	var last device.Wake
	if len(e.Wakes) > 0 {
		last = e.Wakes[0]
	}
	in := func(t time.Time) string { return t.Sub(now).Round(time.Second).String() }
	ago := func(t time.Time) string { return now.Sub(t).Round(time.Second).String() }
	switch {
	case e.Status == device.Disabled && e.Reason == device.ReasonMoved:
		return "Another installation has taken its push target: this one is gone, or has to register again."
	case e.Status == device.Disabled && e.Reason == device.ReasonRevoked:
		return "It was revoked, and is not pushed to until it registers again."
	case e.Status != device.Active:
		return fmt.Sprintf("It is %s, because its provider said %s: no push reaches it until the app registers again.", e.Status, orNothing(e.Reason))
	case e.Road == device.RoadNone:
		return "It has no road for pushes: it hears over a socket, or when its app asks."
	case !e.Listens:
		return "It has no delivery state: it has to register again."
	case e.Due.IsZero() && !e.Head.IsZero() && !e.Head.Before(e.Marked):
		return "The newest change has not been looked at yet: is a node with the role push running?"
	case e.Due.IsZero():
		return "It is up to date: it has acknowledged every change that it did not make itself."
	case e.NextAt.IsZero():
		return "It is due and has no deadline: this is a fault of nudge."
	case last.Status == "sent" && e.HeldUntil.After(now):
		return fmt.Sprintf("A push is under way; if its worker was killed, the next one goes in %s.", in(e.HeldUntil))
	case (last.Status == string(device.Later) || last.Status == string(device.Disable)) && e.NextAt.After(now):
		return fmt.Sprintf("The last push failed (%s); the next one goes in %s.", orNothing(last.Reason), in(e.NextAt))
	case e.Unheard > 0 && e.NextAt.After(now):
		return fmt.Sprintf("%s accepted by its provider, the last one %s ago, and the device was not heard of since: it is off, offline, or its system holds the push back. The next one goes in %s.",
			counted(e.Unheard, "push was", "pushes were"), ago(e.PushedAt), in(e.NextAt))
	case !last.PulledAt.IsZero() && last.AckedAt.IsZero() && e.NextAt.After(now):
		return fmt.Sprintf("It pulled %s ago, after its last push, and has not acknowledged what it was sent. The next push goes in %s.", ago(last.PulledAt), in(e.NextAt))
	case e.NotBefore.After(now) && e.NextAt.After(now):
		return fmt.Sprintf("It has changes since %s ago, and its platform's budget lets the next push go in %s.", ago(e.DueSince), in(e.NextAt))
	case e.NextAt.After(now) && e.Session != "":
		return fmt.Sprintf("It was told over its session, and is pushed to in %s if it does not acknowledge.", in(e.NextAt))
	case e.NextAt.After(now):
		return fmt.Sprintf("It has changes since %s ago, and is pushed to in %s.", ago(e.DueSince), in(e.NextAt))
	}
	return fmt.Sprintf("Its push is overdue since %s: no worker takes it. Is a node with the role push running, and its provider's breaker closed?", ago(e.NextAt))
}

func orNothing(reason string) string {
	if reason == "" {
		return "nothing"
	}
	return strings.TrimSpace(reason)
}

func counted(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}
