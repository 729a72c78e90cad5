package provider_test

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/sideshow/apns2"
	"github.com/sideshow/apns2/token"

	"github.com/nudgesync/nudge/clientsim/provider"
)

const app = "com.example.app"

func start(t *testing.T, cfg provider.Config) *provider.Providers {
	t.Helper()
	p, err := provider.Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

func addPhone(t *testing.T, p *provider.Providers, cfg provider.PhoneConfig) *provider.Phone {
	t.Helper()
	if cfg.App == "" {
		cfg.App = app
	}
	ph, err := p.AddPhone(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return ph
}

// appleToken is a provider token, made by hand.
func appleToken(t *testing.T, key *provider.APNsKey, team string, iat time.Time) string {
	t.Helper()
	private, err := jwt.ParseECPrivateKeyFromPEM(key.P8)
	if err != nil {
		t.Fatal(err)
	}
	tok := jwt.NewWithClaims(jwt.SigningMethodES256, jwt.MapClaims{"iss": team, "iat": iat.Unix()})
	tok.Header["kid"] = key.KeyID
	signed, err := tok.SignedString(private)
	if err != nil {
		t.Fatal(err)
	}
	return signed
}

// apple is a sender without an SDK: one connection.
type apple struct {
	t      *testing.T
	client *http.Client
	url    string
	bearer string
}

func newApple(t *testing.T, p *provider.Providers) *apple {
	t.Helper()
	key := p.APNsKeys[0]
	return &apple{t: t, client: plain(t, p), url: p.APNsURL, bearer: "bearer " + appleToken(t, key, key.Team, time.Now())}
}

const background = `{"aps":{"content-available":1},"nudge":"p.1"}`

// push sends a good push, after edit has changed it, and returns the status and Apple's reason.
func (a *apple) push(device string, edit ...func(*http.Request)) (int, string, time.Time) {
	a.t.Helper()
	req, err := http.NewRequestWithContext(a.t.Context(), http.MethodPost, a.url+"/3/device/"+device, strings.NewReader(background))
	if err != nil {
		a.t.Fatal(err)
	}
	for k, v := range map[string]string{
		"authorization": a.bearer, "apns-topic": app, "apns-push-type": "background", "apns-priority": "5",
	} {
		req.Header.Set(k, v)
	}
	for _, e := range edit {
		e(req)
	}
	res, err := a.client.Do(req)
	if err != nil {
		a.t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	if res.Header.Get("apns-id") == "" {
		a.t.Error("no apns-id")
	}
	var body struct {
		Reason    string
		Timestamp int64
	}
	if res.StatusCode != http.StatusOK {
		if err := json.NewDecoder(res.Body).Decode(&body); err != nil {
			a.t.Error(err)
		}
	}
	return res.StatusCode, body.Reason, time.UnixMilli(body.Timestamp)
}

func (a *apple) wants(status int, reason, device string, edit ...func(*http.Request)) {
	a.t.Helper()
	if s, r, _ := a.push(device, edit...); s != status || r != reason {
		a.t.Errorf("answered %d %q, want %d %q", s, r, status, reason)
	}
}

func header(name, value string) func(*http.Request) {
	return func(r *http.Request) { r.Header[http.CanonicalHeaderKey(name)] = []string{value} }
}

func payload(text string) func(*http.Request) {
	return func(r *http.Request) {
		r.Body, r.ContentLength = io.NopCloser(strings.NewReader(text)), int64(len(text))
	}
}

// padded is a background push of exactly so many bytes.
func padded(size int) string {
	const frame = `{"aps":{"content-available":1},"pad":""}`
	return strings.Replace(frame, `""`, `"`+strings.Repeat("x", size-len(frame))+`"`, 1)
}

func TestAPNsChecksRequests(t *testing.T) {
	t.Parallel()
	p := start(t, provider.Config{})
	device := addPhone(t, p, provider.PhoneConfig{Platform: provider.IOS}).Target().Value
	a := newApple(t, p)
	tests := []struct {
		name   string
		status int
		reason string
		edit   func(*http.Request)
	}{
		{"good", 200, "", func(*http.Request) {}},
		{"method", 405, "MethodNotAllowed", func(r *http.Request) { r.Method = "PUT" }},
		{"path", 404, "BadPath", func(r *http.Request) { r.URL.Path = "/2/device/" + device }},
		{"no device", 400, "MissingDeviceToken", func(r *http.Request) { r.URL.Path = "/3/device/" }},
		{"id", 400, "BadMessageId", header("apns-id", "7")},
		{"expiration", 400, "BadExpirationDate", header("apns-expiration", "tomorrow")},
		{"priority", 400, "BadPriority", header("apns-priority", "7")},
		{"background at 10", 400, "BadPriority", header("apns-priority", "10")},
		{"background at the default", 400, "BadPriority", func(r *http.Request) { r.Header.Del("apns-priority") }},
		{"collapse id", 400, "BadCollapseId", header("apns-collapse-id", strings.Repeat("x", 65))},
		{"no topic", 400, "MissingTopic", header("apns-topic", "")},
		{"no such topic", 400, "BadTopic", header("apns-topic", "not a topic")},
		{"another team's topic", 400, "TopicDisallowed", header("apns-topic", "org.example.other")},
		{"push type", 400, "InvalidPushType", header("apns-push-type", "loud")},
		{"twice", 400, "DuplicateHeaders", func(r *http.Request) { r.Header.Add("apns-topic", app) }},
		{"background with an alert", 400, "InvalidPushType", payload(`{"aps":{"content-available":1,"alert":"x"}}`)},
		{"background without content-available", 400, "InvalidPushType", payload(`{"aps":{}}`)},
		{"empty", 400, "PayloadEmpty", func(r *http.Request) { r.Body, r.ContentLength = http.NoBody, 0 }},
		{"no JSON", 400, "PayloadEmpty", payload("{")},
		{"largest", 200, "", payload(padded(4096))},
		{"too large", 413, "PayloadTooLarge", payload(padded(4097))},
		{"very large", 413, "PayloadTooLarge", payload(padded(300_000))},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := *a
			b.t = t
			b.wants(tt.status, tt.reason, device, tt.edit)
		})
	}
}

func TestAPNsDeviceTokens(t *testing.T) {
	t.Parallel()
	p := start(t, provider.Config{Teams: []provider.Team{{ID: "TEAM000001", KeyID: "KEY0000001", Topics: []string{app, "com.example.two"}}}})
	a := newApple(t, p)
	a.wants(400, "BadDeviceToken", "zz")
	a.wants(400, "BadDeviceToken", strings.Repeat("ab", 32)) // never issued

	sandbox := addPhone(t, p, provider.PhoneConfig{Platform: provider.IOS, Environment: provider.SandboxEnvironment})
	a.wants(400, "BadDeviceToken", sandbox.Target().Value)
	s := newApple(t, p)
	s.url = p.SandboxURL
	s.wants(200, "", sandbox.Target().Value)

	ph := addPhone(t, p, provider.PhoneConfig{Platform: provider.IOS})
	a.wants(400, "DeviceTokenNotForTopic", ph.Target().Value, header("apns-topic", "com.example.two"))

	old := ph.Target().Value
	if _, err := ph.Rotate(); err != nil {
		t.Fatal(err)
	}
	a.wants(410, "ExpiredToken", old)
	a.wants(200, "", ph.Target().Value)

	before := time.Now().Truncate(time.Millisecond)
	ph.Uninstall()
	after := time.Now()
	status, reason, gone := a.push(ph.Target().Value)
	if status != 410 || reason != "Unregistered" || gone.Before(before) || gone.After(after) {
		t.Errorf("uninstalled between %v and %v: %d %q %v", before, after, status, reason, gone)
	}
	// The app is back with its token, and registers it; the provider is behind, and says when.
	ph.Restore(time.Minute)
	if _, reason, again := a.push(ph.Target().Value); reason != "Unregistered" || !again.Equal(gone) {
		t.Errorf("right after the app came back: %q %v", reason, again)
	}
	p.Advance(time.Minute)
	a.wants(200, "", ph.Target().Value)
}

func TestAPNsProviderTokens(t *testing.T) {
	t.Parallel()
	p := start(t, provider.Config{Teams: []provider.Team{
		{ID: "TEAM000001", KeyID: "KEY0000001", Topics: []string{app}}, {ID: "TEAM000002", KeyID: "KEY0000002", Topics: []string{app}},
	}})
	device := addPhone(t, p, provider.PhoneConfig{Platform: provider.IOS}).Target().Value
	now := time.Now()
	one, two := p.APNsKeys[0], p.APNsKeys[1]
	bearer := func(key *provider.APNsKey, team string, iat time.Time) func(*http.Request) {
		return header("authorization", "bearer "+appleToken(t, key, team, iat))
	}
	forged := *two
	forged.KeyID = one.KeyID

	a := newApple(t, p)
	a.wants(403, "MissingProviderToken", device, header("authorization", ""))
	a.wants(403, "InvalidProviderToken", device, header("authorization", "bearer x.y.z"))
	a.wants(403, "InvalidProviderToken", device, bearer(one, two.Team, now))
	a.wants(403, "InvalidProviderToken", device, bearer(&forged, one.Team, now))
	a.wants(403, "InvalidProviderToken", device, bearer(one, one.Team, now.Add(2*time.Hour)))
	a.wants(403, "ExpiredProviderToken", device, bearer(one, one.Team, now.Add(-61*time.Minute)))
	a.wants(200, "", device)
	a.wants(403, "InvalidProviderToken", device, bearer(two, two.Team, now)) // another team's, on this connection
	newApple(t, p).wants(200, "", device, bearer(two, two.Team, now))

	a.wants(429, "TooManyProviderTokenUpdates", device, bearer(one, one.Team, now.Add(-time.Minute)))
	p.Skew(20 * time.Minute)
	a.wants(200, "", device, bearer(one, one.Team, now.Add(-2*time.Minute)))
	p.Skew(2 * time.Hour) // our clock is two hours behind
	a.wants(403, "ExpiredProviderToken", device)
}

func TestAPNsLimitsOneToken(t *testing.T) {
	t.Parallel()
	p := start(t, provider.Config{})
	device := addPhone(t, p, provider.PhoneConfig{Platform: provider.IOS}).Target().Value
	a := newApple(t, p)
	sent := 0
	for ; sent < 1000; sent++ {
		if status, reason, _ := a.push(device); status != 200 {
			if status != 429 || reason != "TooManyRequests" || sent < 120 {
				t.Errorf("after %d: %d %q", sent, status, reason)
			}
			break
		}
	}
	if sent == 1000 {
		t.Error("no limit")
	}
	p.Advance(time.Minute)
	a.wants(200, "", device)
}

// apns-expiration is a date by the sender's clock, wherever the simulation's is.
func TestAPNsExpiration(t *testing.T) {
	t.Parallel()
	p := start(t, provider.Config{})
	p.Advance(24 * time.Hour)
	ph := addPhone(t, p, provider.PhoneConfig{Platform: provider.IOS, Switches: provider.Switches{Offline: true}})
	a := newApple(t, p)
	a.wants(200, "", ph.Target().Value, header("apns-expiration", "0"), payload(`{"aps":{"content-available":1},"nudge":"never"}`))
	a.wants(200, "", ph.Target().Value, func(r *http.Request) {
		r.Header.Set("apns-expiration", strconv.FormatInt(time.Now().Add(time.Hour).Unix(), 10))
	})
	p.Advance(50 * time.Minute)
	ph.Set(func(s *provider.Switches) { s.Offline = false })
	s := p.Log().Stats()[provider.APNs]
	if s["dropped expired"] != 1 || s[provider.EventWoken] != 1 {
		t.Errorf("%v", s)
	}
}

// hear is an app that passes on what it was woken for.
func hear(c chan<- string) func(context.Context, string) {
	return func(_ context.Context, nudge string) { c <- nudge }
}

func TestAPNsSDK(t *testing.T) {
	t.Parallel()
	p := start(t, provider.Config{})
	heard := make(chan string, 1)
	ph := addPhone(t, p, provider.PhoneConfig{Platform: provider.IOS, Wake: hear(heard)})
	key, err := token.AuthKeyFromBytes(p.APNsKeys[0].P8)
	if err != nil {
		t.Fatal(err)
	}
	c := apns2.NewTokenClient(&token.Token{AuthKey: key, KeyID: p.APNsKeys[0].KeyID, TeamID: p.APNsKeys[0].Team})
	c.Host, c.HTTPClient = p.APNsURL, plain(t, p)
	n := &apns2.Notification{
		DeviceToken: ph.Target().Value, Topic: app, PushType: apns2.PushTypeBackground, Priority: 5, Payload: []byte(background),
	}
	res, err := c.PushWithContext(t.Context(), n)
	if err != nil || !res.Sent() {
		t.Fatal(res, err)
	}
	if nudge := <-heard; nudge != "p.1" {
		t.Errorf("the app heard %q", nudge)
	}
	ph.Uninstall()
	res, err = c.PushWithContext(t.Context(), n)
	if err != nil || res.StatusCode != 410 || res.Reason != apns2.ReasonUnregistered || time.Since(res.Timestamp.Time) > time.Hour {
		t.Error(res, err)
	}
}
