package api_test

import (
	"context"
	"crypto/ecdh"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	devices "github.com/nudgesync/nudge/notify/device"
	"github.com/nudgesync/nudge/server/api"
	"github.com/nudgesync/nudge/server/wire"
)

// registry remembers what it is asked, and keeps devices by id.
type registry struct {
	mu      sync.Mutex
	known   map[string]devices.Registration
	failing error
	hold    chan struct{} // not nil: Register waits for it
}

func (g *registry) Register(ctx context.Context, r devices.Registration) (devices.Device, error) {
	if g.hold != nil {
		select {
		case <-g.hold:
		case <-ctx.Done():
			return devices.Device{}, ctx.Err()
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.failing != nil {
		return devices.Device{}, g.failing
	}
	if known, ok := g.known[r.Device]; ok && known.User != r.User && !r.Take {
		return devices.Device{}, devices.ErrForeign
	}
	g.known[r.Device] = r
	return standing(r), nil
}

func standing(r devices.Registration) devices.Device {
	return devices.Device{
		User: r.User, Device: r.Device, Road: r.Road, App: r.App, Environment: r.Environment, AppVersion: r.AppVersion,
		RegisteredAt: time.Date(2026, 1, 2, 3, 4, 5, 678000, time.UTC), Status: devices.Active,
	}
}

func (g *registry) Get(_ context.Context, user, name string) (devices.Device, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	r, ok := g.known[name]
	if !ok || r.User != user {
		return devices.Device{}, devices.ErrUnknown
	}
	d := standing(r)
	d.Status, d.Reason = devices.Disabled, "Unregistered"
	return d, nil
}

func (g *registry) Remove(_ context.Context, user, name string) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if r, ok := g.known[name]; !ok || r.User != user {
		return devices.ErrUnknown
	}
	delete(g.known, name)
	return nil
}

func (g *registry) registered(name string) devices.Registration {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.known[name]
}

// registering has an API with a registry, which reaches com.example.app by any road.
func registering(g *registry) func(*api.Config) {
	g.known = map[string]devices.Registration{}
	return func(c *api.Config) {
		c.Devices = g
		c.Reaches = func(_, app string) bool { return app == "com.example.app" }
		c.Limits.Registrations = 1000
	}
}

const apnsToken = "00fc13adff785122b4ad28809a3420982341241421348097878e577c991de8f0"

const apnsBody = `{"road":"apns","target":{"kind":"token","value":"` + apnsToken + `"},"app":"com.example.app","environment":"sandbox","app_version":"1.2","cursor":"7"}`

func TestRegister(t *testing.T) {
	g := &registry{}
	w := tcp(t, registering(g))
	res, body := w.ask("PUT", "/v1/devices/phone", strings.Replace(apnsBody, apnsToken, strings.ToUpper(apnsToken), 1))
	if res.StatusCode != http.StatusOK || strings.Contains(strings.ToLower(body), apnsToken) {
		t.Fatalf("%d %s", res.StatusCode, body)
	}
	want := devices.Registration{
		User: "7", Device: "phone", Road: "apns", Target: devices.Target{Kind: "token", Value: apnsToken}, App: "com.example.app",
		Environment: "sandbox", AppVersion: "1.2", Cursor: position(7),
	}
	if d := cmp.Diff(want, g.registered("phone")); d != "" {
		t.Errorf("registered (-want +got):\n%s", d)
	}
	const told = `{"device":"phone","road":"apns","app":"com.example.app","environment":"sandbox","app_version":"1.2","registered_at":"2026-01-02T03:04:05.000678Z","status":"active","reason":null}`
	if strings.TrimSpace(body) != told {
		t.Errorf("told %s", body)
	}
	res, body = w.ask("GET", "/v1/devices/phone", "")
	var d wire.Device
	if err := json.Unmarshal([]byte(body), &d); err != nil || res.StatusCode != 200 || d.Status != "disabled" || d.Reason == nil || *d.Reason != "Unregistered" {
		t.Errorf("%d %s", res.StatusCode, body)
	}
	for range 2 { // the answer to the first may be lost
		if res, body = w.ask("DELETE", "/v1/devices/phone", ""); res.StatusCode != http.StatusNoContent {
			t.Errorf("%d %s", res.StatusCode, body)
		}
	}
	res, body = w.ask("GET", "/v1/devices/phone", "")
	wantProblem(t, res, body, http.StatusNotFound, wire.NotFound)
}

// A device with a session is told of as one that has it.
func TestRegisterWithASession(t *testing.T) {
	g := &registry{}
	w := tcp(t, registering(g))
	d := w.dial()
	d.say(wire.Hello{T: wire.THello, V: 1, Token: w.token(), Device: "phone"})
	session := hear[wire.Ready](d, wire.TReady).Session
	if res, body := w.ask("PUT", "/v1/devices/phone", apnsBody); res.StatusCode != http.StatusOK {
		t.Fatalf("%d %s", res.StatusCode, body)
	}
	if got := g.registered("phone").Session; got != session {
		t.Errorf("registered with session %q, not %q", got, session)
	}
}

// Whose device it is: the token's word counts, and without one the first user's.
func TestDeviceOfAnotherUser(t *testing.T) {
	g := &registry{}
	w := tcp(t, registering(g))
	as := func(claims ...string) []string { return []string{"Authorization", "Bearer " + w.token(claims...)} }
	if res, body := w.ask("PUT", "/v1/devices/phone", apnsBody, as()...); res.StatusCode != http.StatusOK {
		t.Fatal(body)
	}
	res, body := w.ask("PUT", "/v1/devices/phone", apnsBody, as("sub", "8")...)
	if p := wantProblem(t, res, body, http.StatusForbidden, wire.DeviceMismatch); !strings.Contains(p.Hint, "delete") {
		t.Errorf("hint %q", p.Hint)
	}
	res, body = w.ask("GET", "/v1/devices/phone", "", as("sub", "8")...)
	wantProblem(t, res, body, http.StatusNotFound, wire.NotFound)
	if res, _ = w.ask("DELETE", "/v1/devices/phone", "", as("sub", "8")...); res.StatusCode != http.StatusNoContent || g.registered("phone").User != "7" {
		t.Error("another user deleted it")
	}
	if res, body = w.ask("PUT", "/v1/devices/phone", apnsBody, as("sub", "8", "did", "phone")...); res.StatusCode != http.StatusOK || g.registered("phone").User != "8" {
		t.Errorf("the token vouches for it: %d %s", res.StatusCode, body)
	}
	// The token names the device, so the header need not.
	if res, body = w.ask("GET", "/v1/devices/phone", "", append(as("sub", "8", "did", "phone"), wire.HeaderDevice, "")...); res.StatusCode != http.StatusOK {
		t.Errorf("%d %s", res.StatusCode, body)
	}
	for name, headers := range map[string][]string{
		"another one by the header": {wire.HeaderDevice, "tablet"},
		"another one by the token":  append(as("did", "tablet"), wire.HeaderDevice, "tablet"),
		"the token's another":       as("did", "tablet"),
	} {
		for _, method := range []string{"GET", "PUT", "DELETE"} {
			res, body := w.ask(method, "/v1/devices/phone", apnsBody, headers...)
			if wantProblem(t, res, body, http.StatusForbidden, wire.DeviceMismatch); res.StatusCode != http.StatusForbidden {
				t.Errorf("%s of %s", method, name)
			}
		}
	}
}

func TestRegisterRefuses(t *testing.T) {
	g := &registry{}
	w := tcp(t, registering(g))
	key, err := ecdh.P256().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	point, secret := base64.RawURLEncoding.EncodeToString(key.PublicKey().Bytes()), base64.StdEncoding.EncodeToString(make([]byte, 16))
	reg := func(road, value, p256dh, auth, environment string) wire.Registration {
		kind := wire.KindToken
		if road == wire.RoadWebPush {
			kind = wire.KindWebPush
		}
		return wire.Registration{
			Road: road, Target: &wire.Target{Kind: kind, Value: value, P256dh: p256dh, Auth: auth}, App: "com.example.app", Environment: environment,
		}
	}
	with := func(r wire.Registration, change func(*wire.Registration)) wire.Registration {
		target := *r.Target
		r.Target = &target
		change(&r)
		return r
	}
	apns, fcm := reg("apns", apnsToken, "", "", "production"), reg("fcm", "a:token_of-FCM", "", "", "")
	web := reg("webpush", "https://push.example/x?y", point, secret, "production")
	for name, good := range map[string]wire.Registration{
		"apns": apns, "fcm": fcm, "webpush": web, "none": {Road: "none"}, "the longest of FCM": reg("fcm", strings.Repeat("x", 4096), "", "", ""),
	} {
		b, err := json.Marshal(good)
		if err != nil {
			t.Fatal(err)
		}
		if res, body := w.ask("PUT", "/v1/devices/phone", string(b)); res.StatusCode != http.StatusOK {
			t.Errorf("%s: %d %s", name, res.StatusCode, body)
		}
	}
	if env := g.registered("phone").Environment; env != "production" {
		t.Errorf("environment %q", env)
	}
	for name, bad := range map[string]wire.Registration{
		"no road":                   reg("", apnsToken, "", "", "production"),
		"another road":              reg("sms", apnsToken, "", "", "production"),
		"no target":                 {Road: "apns", App: "com.example.app", Environment: "production"},
		"a target without a road":   with(apns, func(r *wire.Registration) { r.Road = "none" }),
		"another kind":              with(apns, func(r *wire.Registration) { r.Target.Kind = "webpush" }),
		"no kind":                   with(fcm, func(r *wire.Registration) { r.Target.Kind = "" }),
		"a token with keys":         with(fcm, func(r *wire.Registration) { r.Target.Auth = secret }),
		"no hexadecimal":            reg("apns", strings.Repeat("xy", 32), "", "", "production"),
		"half a byte":               reg("apns", apnsToken[1:], "", "", "production"),
		"a short token":             reg("apns", "00ff", "", "", "production"),
		"a huge token":              reg("apns", strings.Repeat("00", 300), "", "", "production"),
		"no environment":            reg("apns", apnsToken, "", "", ""),
		"another environment":       reg("apns", apnsToken, "", "", "staging"),
		"a sandbox of FCM":          reg("fcm", "token", "", "", "sandbox"),
		"an empty token":            reg("fcm", "", "", "", ""),
		"a token with a blank":      reg("fcm", "to ken", "", "", ""),
		"a token with a line break": reg("fcm", "to\nken", "", "", ""),
		"a huge token of FCM":       reg("fcm", strings.Repeat("x", 4097), "", "", ""),
		"an endpoint without TLS":   reg("webpush", "http://push.example/x", point, secret, ""),
		"an endpoint that is none":  reg("webpush", "push", point, secret, ""),
		"an endpoint with a user":   reg("webpush", "https://u:p@push.example/x", point, secret, ""),
		"a point off the curve":     reg("webpush", "https://push.example/x", base64.RawURLEncoding.EncodeToString(make([]byte, 65)), secret, ""),
		"no point":                  reg("webpush", "https://push.example/x", "", secret, ""),
		"a short secret":            reg("webpush", "https://push.example/x", point, secret[:4], ""),
		"no app":                    with(apns, func(r *wire.Registration) { r.App = "" }),
		"an app in another script":  with(apns, func(r *wire.Registration) { r.App = "com.exämple" }),
		"a long version":            with(apns, func(r *wire.Registration) { r.AppVersion = strings.Repeat("1", 65) }),
	} {
		b, err := json.Marshal(bad)
		if err != nil {
			t.Fatal(err)
		}
		res, body := w.ask("PUT", "/v1/devices/phone", string(b))
		if p := wantProblem(t, res, body, http.StatusBadRequest, wire.RequestInvalid); p.Status != http.StatusBadRequest {
			t.Errorf("%s: %s", name, body)
		}
		if v := bad.Target; v != nil && len(v.Value) > 4 && strings.Contains(body, v.Value) {
			t.Errorf("%s: the target is repeated: %s", name, body)
		}
	}
	res, body := w.ask("PUT", "/v1/devices/phone", strings.Replace(apnsBody, "com.example.app", "com.example.other", 1))
	wantProblem(t, res, body, http.StatusNotFound, wire.PushUnconfigured)
	res, body = w.ask("PUT", "/v1/devices/phone", strings.Replace(apnsBody, `"7"`, `"foreign"`, 1))
	wantProblem(t, res, body, http.StatusConflict, wire.CursorForeign)
	res, body = w.ask("PUT", "/v1/devices/phone", strings.Replace(apnsBody, `"7"`, `"?"`, 1))
	wantProblem(t, res, body, http.StatusBadRequest, wire.CursorMalformed)
	res, body = w.ask("PUT", "/v1/devices/phone", `{"road":`)
	wantProblem(t, res, body, http.StatusBadRequest, wire.RequestInvalid)
	res, body = w.ask("PUT", "/v1/devices/phone", `{"road":"`+strings.Repeat("x", wire.MaxClientFrame)+`"}`)
	wantProblem(t, res, body, http.StatusRequestEntityTooLarge, wire.TooLarge)
	res, body = w.ask("PUT", "/v1/devices/phone", apnsBody, "Authorization", "")
	wantProblem(t, res, body, http.StatusUnauthorized, wire.TokenMissing)
}

func TestRegisterWithoutPush(t *testing.T) {
	w := tcp(t)
	for _, method := range []string{"GET", "PUT", "DELETE"} {
		res, body := w.ask(method, "/v1/devices/phone", apnsBody)
		if p := wantProblem(t, res, body, http.StatusNotFound, wire.PushUnconfigured); p.Hint == "" {
			t.Errorf("%s: %s", method, body)
		}
	}
}

// What fails in the database is not told, nor is a target logged.
func TestRegistryFails(t *testing.T) {
	var log strings.Builder
	g := &registry{failing: errors.New("secret SQL")}
	w := tcp(t, registering(g), func(c *api.Config) { c.Log = slog.New(slog.NewTextHandler(&log, nil)) })
	res, body := w.ask("PUT", "/v1/devices/phone", apnsBody)
	if p := wantProblem(t, res, body, http.StatusServiceUnavailable, wire.DatabaseAway); p.RetryAfterMS < 1 || strings.Contains(body, "SQL") {
		t.Errorf("%s", body)
	}
	w.stop()
	if !strings.Contains(log.String(), "secret SQL") || strings.Contains(log.String(), apnsToken) {
		t.Errorf("log %s", &log)
	}
}

// A device registers as often as an app has reason to, and a user not with any number of devices.
func TestRegistrationRates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := piped(t, registering(&registry{}), func(c *api.Config) { c.Limits.Registrations = 2 })
		put := func(name string) int {
			res, body := w.ask("PUT", "/v1/devices/"+name, apnsBody, wire.HeaderDevice, name)
			if res.StatusCode != http.StatusOK {
				wantProblem(t, res, body, http.StatusTooManyRequests, wire.RateLimited)
			}
			return res.StatusCode
		}
		if a, b, c := put("a"), put("a"), put("a"); a != 200 || b != 200 || c != 429 {
			t.Errorf("three of a device: %d %d %d", a, b, c)
		}
		for i := range 8 {
			if got := put(string(rune('b' + i))); got != 200 {
				t.Errorf("device %d: %d", i, got)
			}
		}
		if got := put("z"); got != 429 {
			t.Errorf("an eleventh registration of the user: %d", got)
		}
		time.Sleep(31 * time.Second)
		if a, z := put("a"), put("z"); a != 200 || z != 200 {
			t.Errorf("half a minute later: %d %d", a, z)
		}
	})
}

// Phones that all register at once wait in a line of their own, and not for long.
func TestRegistrationsWaitInLine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &registry{hold: make(chan struct{})}
		w := piped(t, registering(g))
		var all sync.WaitGroup
		status := make(chan int, 5)
		for i := range 5 {
			name := string(rune('a' + i))
			all.Go(func() {
				res, _ := w.ask("PUT", "/v1/devices/"+name, apnsBody, wire.HeaderDevice, name)
				status <- res.StatusCode
			})
		}
		for range 3 { // two are being served
			if got := <-status; got != http.StatusServiceUnavailable {
				t.Errorf("status %d", got)
			}
		}
		close(g.hold)
		all.Wait()
		for range 2 {
			if got := <-status; got != http.StatusOK {
				t.Errorf("status %d", got)
			}
		}
	})
}
