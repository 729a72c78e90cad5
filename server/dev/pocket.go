package dev

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/nudgesync/nudge/clientsim/provider"
	"github.com/nudgesync/nudge/server/auth"
	"github.com/nudgesync/nudge/server/wire"
)

// PocketApp is the demo's app as Apple and Google know it, or would.
const PocketApp = "com.example.app"

const (
	// laterBy is what "an hour later" skips.
	laterBy = time.Hour
	// logWait is how long the page waits for news: less than the server gives a request.
	logWait = 10 * time.Second
)

// circumstances are the switches of a phone that the page has; nil leaves one as it is.
type circumstances struct {
	Offline      *bool `json:"offline"`
	ForceQuit    *bool `json:"force_quit"`
	NoBackground *bool `json:"no_background"`
	LowPower     *bool `json:"low_power"`
	Doze         *bool `json:"doze"`
	Open         *bool `json:"open"` // the app is on the screen
}

// pocket is a device's phone as the page sees it.
type pocket struct {
	Road        string          `json:"road"`
	App         string          `json:"app"`
	Environment string          `json:"environment"`
	Target      provider.Target `json:"target"`
	Switches    struct {
		Offline      bool `json:"offline"`
		ForceQuit    bool `json:"force_quit"`
		NoBackground bool `json:"no_background"`
		LowPower     bool `json:"low_power"`
		Doze         bool `json:"doze"`
		Open         bool `json:"open"`
	} `json:"switches"`
	Run int64 `json:"run"` // another one: the log has begun anew
}

// withPocket serves a request of the device that its token names.
func (a *App) withPocket(fn func(r *http.Request, who auth.Identity) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		token, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		who, err := a.cfg.Verifier.Verify(r.Context(), token)
		if err == nil && who.Device == "" {
			err = wire.NewProblem(wire.DeviceMismatch, "the token names no device")
		}
		var out any
		if err == nil {
			r.Body = http.MaxBytesReader(w, r.Body, maxBody)
			out, err = fn(r, who)
		}
		var p *wire.Problem
		switch {
		case err == nil:
			answer(w, out)
		case errors.As(err, &p):
			problem(w, p)
		default:
			a.away(w, "see to the phone", err)
		}
	}
}

// putPocket gives the device a phone: PUT /demo/pocket {"platform":"ios"}. If it has one of that platform, it is
// that one; if it has one of another, that one is thrown away.
func (a *App) putPocket(r *http.Request, who auth.Identity) (any, error) {
	var body struct {
		Platform provider.Platform `json:"platform"`
	}
	if err := decode(r, &body); err != nil {
		return nil, err
	}
	if body.Platform != provider.IOS && body.Platform != provider.Android {
		return nil, wire.NewProblem(wire.RequestInvalid, "platform must be ios or android")
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	now, had := a.pockets[who.Device]
	if had && now == body.Platform {
		return a.view(a.phone(who.Device, now)), nil
	}
	if had {
		a.phone(who.Device, now).Uninstall()
	}
	phone := a.phone(who.Device, body.Platform)
	var err error
	if phone != nil {
		_, err = phone.Reinstall()
	} else {
		phone, err = a.cfg.Phones.AddPhone(provider.PhoneConfig{ID: phoneID(who.Device, body.Platform), Platform: body.Platform, App: PocketApp})
	}
	if err != nil {
		return nil, err
	}
	a.pockets[who.Device] = body.Platform
	return a.view(phone), nil
}

// phone is the device's phone of a platform, thrown away or not; nil if there never was one.
func (a *App) phone(device string, on provider.Platform) *provider.Phone {
	return a.cfg.Phones.Phone(phoneID(device, on))
}

func phoneID(device string, on provider.Platform) string { return device + "." + string(on) }

// present is the phone that the device has now. Its error is a *wire.Problem.
func (a *App) present(device string) (*provider.Phone, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	on, had := a.pockets[device]
	if !had {
		return nil, wire.NewProblem(wire.NotFound, "the device has no phone yet")
	}
	return a.phone(device, on), nil
}

func (a *App) view(phone *provider.Phone) pocket {
	v := pocket{Road: wire.RoadAPNs, App: PocketApp, Environment: wire.Production, Target: phone.Target(), Run: a.run}
	if strings.HasSuffix(phone.ID(), "."+string(provider.Android)) {
		v.Road = wire.RoadFCM
	}
	s := phone.Switches()
	v.Switches.Offline, v.Switches.ForceQuit, v.Switches.NoBackground = s.Offline, s.ForceQuit, s.NoBackground
	v.Switches.LowPower, v.Switches.Doze, v.Switches.Open = s.LowPower, s.Doze, s.Foreground
	return v
}

// switchPocket changes what the phone goes through: PATCH /demo/pocket {"offline":true}.
func (a *App) switchPocket(r *http.Request, who auth.Identity) (any, error) {
	var body circumstances
	if err := decode(r, &body); err != nil {
		return nil, err
	}
	phone, err := a.present(who.Device)
	if err != nil {
		return nil, err
	}
	if body.Open != nil && *body.Open {
		phone.Launch()
	}
	phone.Set(func(s *provider.Switches) {
		for _, c := range []struct {
			from *bool
			to   *bool
		}{
			{body.Offline, &s.Offline},
			{body.ForceQuit, &s.ForceQuit},
			{body.NoBackground, &s.NoBackground},
			{body.LowPower, &s.LowPower},
			{body.Doze, &s.Doze},
			{body.Open, &s.Foreground},
		} {
			if c.from != nil {
				*c.to = *c.from
			}
		}
	})
	return a.view(phone), nil
}

// later lets an hour pass, for the phones and for what nudge has put off: POST /demo/pocket/later.
func (a *App) later(r *http.Request, who auth.Identity) (any, error) {
	phone, err := a.present(who.Device)
	if err != nil {
		return nil, err
	}
	// The phones first: what an hour lets them do anyway needs no push.
	a.cfg.Phones.Advance(laterBy)
	_, err = a.cfg.DB.Exec(r.Context(), `update nudge.due
		set due_since = due_since - $2::interval, next_at = next_at - $2::interval, held_until = held_until - $2::interval,
		    not_before = not_before - $2::interval, pushed_at = pushed_at - $2::interval
		where device = $1`, who.Device, laterBy)
	if err != nil {
		return nil, err
	}
	return a.view(phone), nil
}

// entry is a line of the providers' log, as the page gets it.
type entry struct {
	Event  string `json:"event"`
	Status int    `json:"status,omitempty"`
	Reason string `json:"reason,omitempty"`
	Nudge  string `json:"nudge,omitempty"`
}

// pocketLog is what the providers and the phone have done since an entry: GET /demo/pocket/log?since=17. It waits
// for something to tell, though not forever.
func (a *App) pocketLog(r *http.Request, who auth.Identity) (any, error) {
	since, err := strconv.ParseInt(r.FormValue("since"), 10, 64)
	if err != nil || since < 0 {
		return nil, wire.NewProblem(wire.RequestInvalid, "since must be the number of an entry")
	}
	if _, err := a.present(who.Device); err != nil {
		return nil, err
	}
	own := func(e provider.Entry) bool {
		switch e.Event {
		case provider.EventSwitched, provider.EventToken: // the page did that itself
			return false
		}
		// Asked anew for each entry: the device may get another phone while the page waits.
		for _, on := range []provider.Platform{provider.IOS, provider.Android} {
			phone := a.phone(who.Device, on)
			if phone != nil && (e.Phone == phone.ID() || e.Token != "" && strings.HasPrefix(phone.Target().Value, e.Token)) {
				return true
			}
		}
		return false
	}
	ctx, cancel := context.WithTimeout(r.Context(), logWait)
	defer cancel()
	defer context.AfterFunc(a.closed, cancel)()
	_, _ = a.cfg.Phones.Log().Wait(ctx, since, own) // none in time: an empty list says so
	out := struct {
		Entries []entry `json:"entries"`
		Since   int64   `json:"since"` // for the next time
	}{Entries: []entry{}, Since: since}
	for _, e := range a.cfg.Phones.Log().Since(since) {
		out.Since = e.N
		if own(e) {
			out.Entries = append(out.Entries, entry{Event: e.Event, Status: e.Status, Reason: e.Reason, Nudge: e.Nudge})
		}
	}
	return out, nil
}

// why says why the device is stale: GET /demo/pocket/why.
func (a *App) why(r *http.Request, who auth.Identity) (any, error) {
	return a.cfg.Explain(r.Context(), who.User, who.Device)
}

// decode reads the body. Its error is a *wire.Problem.
func decode(r *http.Request, into any) error {
	dec := json.NewDecoder(r.Body)
	dec.DisallowUnknownFields()
	err := dec.Decode(into)
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		return wire.NewProblem(wire.TooLarge, "")
	case err != nil:
		return wire.NewProblem(wire.RequestInvalid, "the body is not the JSON that belongs here")
	}
	return nil
}
