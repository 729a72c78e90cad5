package api_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	devices "github.com/nudgesync/nudge/notify/device"
	"github.com/nudgesync/nudge/server/api"
	"github.com/nudgesync/nudge/server/wire"
)

// stale is a device that is due, and otherwise as it should be.
func stale(now time.Time, change func(*devices.Explanation)) devices.Explanation {
	e := devices.Explanation{
		Device: devices.Device{
			User: "7", Device: "phone", Road: "apns", App: "com.example.app", Environment: "production", RegisteredAt: now.Add(-time.Hour),
			Status: devices.Active,
		},
		Head: position(9), Marked: position(10), Listens: true, Acked: position(5), Due: position(9),
		DueSince: now.Add(-time.Minute), NextAt: now.Add(time.Minute), Urgency: devices.Soon,
	}
	change(&e)
	return e
}

// Each cause has its own words; the first that applies is said.
func TestVerdicts(t *testing.T) {
	now := time.Now()
	pushed := func(status, reason string) func(*devices.Explanation) {
		return func(e *devices.Explanation) {
			e.Wakes = []devices.Wake{{Nudge: "p.1", Status: status, Reason: reason, SentAt: now.Add(-time.Minute)}}
		}
	}
	for words, change := range map[string]func(*devices.Explanation){
		"Another installation has taken its push target": func(e *devices.Explanation) { e.Status, e.Reason = devices.Disabled, devices.ReasonMoved },
		"It was revoked": func(e *devices.Explanation) { e.Status, e.Reason = devices.Disabled, devices.ReasonRevoked },
		"It is quarantined, because its provider said BadTopic": func(e *devices.Explanation) { e.Status, e.Reason = devices.Quarantined, "BadTopic" },
		"It has no road for pushes":                             func(e *devices.Explanation) { e.Road = devices.RoadNone },
		"It has no delivery state":                              func(e *devices.Explanation) { e.Listens = false },
		"The newest change has not been looked at yet": func(e *devices.Explanation) {
			e.Due, e.Head = devices.Explanation{}.Due, position(11)
		},
		"It is up to date":     func(e *devices.Explanation) { e.Due = devices.Explanation{}.Due },
		"this is a fault":      func(e *devices.Explanation) { e.NextAt = time.Time{} },
		"A push is under way":  func(e *devices.Explanation) { pushed("sent", "")(e); e.HeldUntil = now.Add(time.Minute) },
		"failed (Unavailable)": pushed("later", "Unavailable"),
		"2 pushes were accepted": func(e *devices.Explanation) {
			pushed("accepted", "")(e)
			e.Unheard, e.PushedAt = 2, now.Add(-time.Hour)
		},
		"has not acknowledged what it was sent": func(e *devices.Explanation) {
			pushed("accepted", "")(e)
			e.Wakes[0].PulledAt = now.Add(-time.Second)
		},
		"budget lets the next push go in 1m0s":       func(e *devices.Explanation) { e.NotBefore = now.Add(time.Minute) },
		"is pushed to in 1m0s if it does not":        func(e *devices.Explanation) { e.Session = "s" },
		"since 1m0s ago, and is pushed to in 1m0s":   func(*devices.Explanation) {},
		"overdue since 5s: no worker takes it. Is a": func(e *devices.Explanation) { e.NextAt = now.Add(-5 * time.Second) },
	} {
		e := stale(now, change)
		if got := api.Explain(&e, now).Verdict; !strings.Contains(got, words) {
			t.Errorf("%q lacks %q", got, words)
		}
	}
}

func TestExplainDevices(t *testing.T) {
	now := time.Now()
	var failing error
	w := tcp(t, func(c *api.Config) {
		c.Explain = func(_ context.Context, user, name string) ([]devices.Explanation, error) {
			switch {
			case failing != nil:
				return nil, failing
			case user != "7" || name == "none":
				return nil, devices.ErrUnknown
			}
			return []devices.Explanation{stale(now, func(e *devices.Explanation) {
				e.Wakes = []devices.Wake{{Nudge: "p.1", Road: "apns", Status: "accepted", SentAt: now, AnsweredAt: now}}
			})}, nil
		}
	})
	ask := func(query string) (*http.Response, string) {
		r := httptest.NewRequestWithContext(t.Context(), "GET", "/v1/admin/explain"+query, nil)
		r.Host = "127.0.0.1:8081"
		got := httptest.NewRecorder()
		w.api.Admin().ServeHTTP(got, r)
		res := got.Result()
		theContract().check(t, r, res, got.Body.String())
		return res, got.Body.String()
	}
	if res, body := ask("?user=7&device=phone"); res.StatusCode != http.StatusOK || !strings.Contains(body, `"session_here":false`) || !strings.Contains(body, `"urgency":"soon"`) {
		t.Errorf("%d %s", res.StatusCode, body)
	}
	w.join("phone", "10")
	if _, body := ask("?user=7"); !strings.Contains(body, `"session_here":true`) {
		t.Error(body)
	}
	res, body := ask("")
	wantProblem(t, res, body, http.StatusBadRequest, wire.RequestInvalid)
	res, body = ask("?user=7&devise=x")
	wantProblem(t, res, body, http.StatusBadRequest, wire.RequestInvalid)
	res, body = ask("?user=8")
	wantProblem(t, res, body, http.StatusNotFound, wire.NotFound)
	failing = errors.New("secret SQL")
	if res, body = ask("?user=7"); strings.Contains(body, "SQL") {
		t.Error(body)
	}
	wantProblem(t, res, body, http.StatusInternalServerError, wire.Internal)
}
