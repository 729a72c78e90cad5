package push_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"strings"
	"testing"
	"time"

	"github.com/nudgesync/nudge/clientsim/provider"
	"github.com/nudgesync/nudge/notify/push"
)

// TestDecision is the table of what each answer means, a row a test: the fake provider answers over HTTP/2 and TLS, the
// provider's own SDK is in between.
func TestDecision(t *testing.T) {
	for _, row := range []struct {
		name string
		test func(*testing.T, *world)
	}{
		{"accepted", testAccepted},
		{"apns 410", testGone},
		{"apns BadDeviceToken", testBadDeviceToken},
		{"apns BadDeviceToken, many", testManyBadDeviceTokens},
		{"apns another topic", testOtherTopic},
		{"apns 400, 404, 405, 413", testFaults},
		{"apns ExpiredProviderToken", testExpiredProviderToken},
		{"apns ExpiredProviderToken, clock", testClock},
		{"apns InvalidProviderToken", testInvalidProviderToken},
		{"apns TooManyRequests", testTooManyRequests},
		{"apns TooManyProviderTokenUpdates", testTooManyUpdates},
		{"apns 500, 503", testUnavailable},
		{"transport, a cut", testCut},
		{"transport, deadline", testDeadline},
		{"fcm UNREGISTERED", testUnregistered},
		{"fcm 404 without the detail", testNotFound},
		{"fcm 400", testInvalidArgument},
		{"fcm SENDER_ID_MISMATCH", testSenderIDMismatch},
		{"fcm 401, 403, THIRD_PARTY_AUTH_ERROR", testCredentials},
		{"fcm 429", testQuota},
		{"fcm 500, 503", testFCMUnavailable},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			row.test(t, newWorld(t))
		})
	}
}

func testAccepted(t *testing.T, w *world) {
	w.senders()
	w.run()
	for _, platform := range []provider.Platform{provider.IOS, provider.Android} {
		ph := w.phone(platform)
		r := w.one(device(platform, ph.Target()))
		want(t, r, push.Sent, push.Accepted, "ok")
		if r.ID == "" || r.SentAt.IsZero() || r.AnsweredAt.Before(r.SentAt) {
			t.Errorf("the ledger would know %+v", r)
		}
		if _, err := w.Log().Wait(t.Context(), 0, func(e provider.Entry) bool {
			return e.Event == provider.EventWoken && e.Phone == ph.ID() && e.Nudge == r.Due.Nudge
		}); err != nil {
			t.Error(err)
		}
	}
}

func testGone(t *testing.T, w *world) {
	w.senders()
	w.run()
	ph := w.phone(provider.IOS)
	d := device(provider.IOS, ph.Target())
	ph.Uninstall()
	r := w.one(d)
	want(t, r, push.Disabled, push.Disable, "Unregistered")
	between(t, "gone since", time.Since(r.Gone), 0, 20*time.Second)

	again := d // the same token, registered since
	again.RegisteredAt = time.Now().Add(time.Second)
	want(t, w.one(again), push.Later, push.Disable, "Unregistered")

	ph = w.phone(provider.IOS)
	d = device(provider.IOS, ph.Target())
	if _, err := ph.Rotate(); err != nil {
		t.Fatal(err)
	}
	want(t, w.one(d), push.Disabled, push.Disable, "ExpiredToken")
}

func testBadDeviceToken(t *testing.T, w *world) {
	w.senders()
	w.run()
	want(t, w.one(device(provider.IOS, w.phone(provider.IOS).Target())), push.Sent, push.Accepted, "ok")
	r := w.one(device(provider.IOS, provider.Target{Kind: "token", Value: token(0)}))
	want(t, r, push.Disabled, push.Disable, "BadDeviceToken")
	if n := len(w.answered(provider.APNs)); n != 2 {
		t.Errorf("%d attempts", n)
	}
}

// A sender of the wrong environment.
func testManyBadDeviceTokens(t *testing.T, w *world) {
	team := w.team(nil)
	w.apns(team, push.Production, w.SandboxURL)
	w.fcm(w.Accounts[0], "demo")
	w.run()
	var devices []string
	for range 100 {
		devices = append(devices, w.store.due(1, device(provider.IOS, w.phone(provider.IOS).Target()))...)
	}
	// Sixteen, two for each worker, is what a lane claims at first.
	for _, r := range w.results(devices[:16]...) {
		if r.Verdict != push.Later || r.Wait < 4*time.Minute {
			t.Errorf("verdict %d, wait %v", r.Verdict, r.Wait)
		}
	}
	if n := len(w.answered(provider.Sandbox)); n > 5+8 {
		t.Errorf("%d bad tokens were sent", n)
	}
	if !strings.Contains(w.logged(), "wrong environment") {
		t.Errorf("the log does not say so:\n%s", w.logged())
	}
	want(t, w.one(device(provider.Android, w.phone(provider.Android).Target())), push.Sent, push.Accepted, "ok")
}

func testOtherTopic(t *testing.T, w *world) {
	w.senders()
	w.lanes[0].Apps = []string{app, "com.example.second", "com.example.foreign"}
	w.run()
	d := device(provider.IOS, w.phone(provider.IOS).Target())
	d.App = "com.example.second"
	want(t, w.one(d), push.Quarantined, push.Quarantine, "DeviceTokenNotForTopic")
	d.App = "com.example.foreign"
	want(t, w.one(d), push.Quarantined, push.Quarantine, "TopicDisallowed")
	if n := strings.Count(w.logged(), "outcome=quarantine"); n != 2 {
		t.Errorf("the log says so %d times:\n%s", n, w.logged())
	}
}

func testFaults(t *testing.T, w *world) {
	w.senders()
	w.run()
	d := device(provider.IOS, w.phone(provider.IOS).Target())
	for _, reason := range []string{"PayloadEmpty", "BadPath", "MethodNotAllowed", "PayloadTooLarge"} {
		w.fault(provider.Fault{Provider: provider.APNs, Kind: provider.FaultAnswer, Reason: reason, Times: 1})
		r := w.one(d)
		want(t, r, push.Later, push.Fault, reason)
		between(t, reason, r.Wait, 15*time.Minute, 20*time.Minute)
		if !strings.Contains(w.logged(), "reason="+reason) {
			t.Errorf("no alert of %s", reason)
		}
	}
	want(t, w.one(d), push.Sent, push.Accepted, "ok")
}

func testExpiredProviderToken(t *testing.T, w *world) {
	w.senders()
	w.run()
	d := device(provider.IOS, w.phone(provider.IOS).Target())
	want(t, w.one(d), push.Sent, push.Accepted, "ok")
	// It is 65 minutes later for Apple, 30 for us.
	w.Skew(65 * time.Minute)
	w.ahead(30 * time.Minute)
	// On the warm connection eight are refused at the same time.
	expired := 0
	for _, r := range w.push(8, d) {
		switch r.Reason {
		case "ExpiredProviderToken":
			want(t, r, push.Later, push.Retry, "ExpiredProviderToken")
			expired++
		default:
			want(t, r, push.Sent, push.Accepted, "ok")
		}
	}
	if expired == 0 || w.mints.Load() != 2 {
		t.Errorf("%d were refused; %d tokens were signed, want 2", expired, w.mints.Load())
	}
	want(t, w.one(d), push.Sent, push.Accepted, "ok")
}

func testClock(t *testing.T, w *world) {
	w.senders()
	w.run()
	w.Skew(2 * time.Hour)
	r := w.one(device(provider.IOS, w.phone(provider.IOS).Target()))
	want(t, r, push.Later, push.Misconfigured, "ExpiredProviderToken")
	if w.mints.Load() != 1 {
		t.Errorf("%d tokens were signed", w.mints.Load())
	}
	if !strings.Contains(w.logged(), "clock") {
		t.Errorf("the log does not say so:\n%s", w.logged())
	}
}

func testInvalidProviderToken(t *testing.T, w *world) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	w.apns(w.team(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})), push.Production, w.APNsURL)
	w.apns(w.team(nil), push.Sandbox, w.SandboxURL)
	w.run()
	for _, r := range w.push(16, device(provider.IOS, w.phone(provider.IOS).Target())) {
		if r.Verdict != push.Later || r.Wait < 50*time.Second || r.Attempted && r.Outcome != push.Misconfigured {
			t.Errorf("%+v", r)
		}
	}
	if n := len(w.answered(provider.APNs)); n > 8 { // as many as there are workers
		t.Errorf("%d requests with a bad provider token", n)
	}
	ph, err := w.AddPhone(provider.PhoneConfig{Platform: provider.IOS, App: app, Environment: provider.SandboxEnvironment})
	if err != nil {
		t.Fatal(err)
	}
	d := device(provider.IOS, ph.Target())
	d.Environment = push.Sandbox
	want(t, w.one(d), push.Sent, push.Accepted, "ok")
}

func testTooManyRequests(t *testing.T, w *world) {
	w.senders()
	w.run()
	d := device(provider.IOS, w.phone(provider.IOS).Target())
	w.fault(provider.Fault{Provider: provider.APNs, Token: d.Target.Value, Kind: provider.FaultAnswer, Reason: "TooManyRequests"})
	r := w.one(d)
	want(t, r, push.Later, push.Throttled, "TooManyRequests")
	between(t, "first", r.Wait, time.Minute, 67*time.Second)
	d.Attempts = 2
	between(t, "third", w.one(d).Wait, 4*time.Minute, 5*time.Minute)
	want(t, w.one(device(provider.IOS, w.phone(provider.IOS).Target())), push.Sent, push.Accepted, "ok")
}

func testTooManyUpdates(t *testing.T, w *world) {
	w.senders()
	w.run()
	d := device(provider.IOS, w.phone(provider.IOS).Target())
	want(t, w.one(d), push.Sent, push.Accepted, "ok")
	w.ahead(30 * time.Minute)
	w.fault(provider.Fault{Provider: provider.APNs, Kind: provider.FaultAnswer, Reason: "TooManyProviderTokenUpdates", Times: 1})
	want(t, w.one(d), push.Later, push.Retry, "TooManyProviderTokenUpdates")
	// For 20 minutes none is signed, even if Apple finds the old one expired.
	w.ahead(49 * time.Minute)
	w.fault(provider.Fault{Provider: provider.APNs, Kind: provider.FaultAnswer, Reason: "ExpiredProviderToken", Times: 1})
	want(t, w.one(d), push.Later, push.Misconfigured, "ExpiredProviderToken")
	if n := w.mints.Load(); n != 1 {
		t.Errorf("%d tokens were signed, want 1", n)
	}
}

func testUnavailable(t *testing.T, w *world) {
	w.senders()
	w.run()
	d := device(provider.IOS, w.phone(provider.IOS).Target())
	for _, reason := range []string{"InternalServerError", "ServiceUnavailable", "Shutdown"} {
		w.fault(provider.Fault{Provider: provider.APNs, Kind: provider.FaultAnswer, Reason: reason, Times: 1})
		r := w.one(d)
		want(t, r, push.Later, push.Retry, reason)
		between(t, reason, r.Wait, time.Second, 3*time.Second)
	}
	w.fault(provider.Fault{Provider: provider.APNs, Kind: provider.FaultAnswer, Reason: "ServiceUnavailable", After: provider.Duration(4 * time.Minute), Times: 1})
	between(t, "asked for", w.one(d).Wait, 4*time.Minute, 5*time.Minute)
}

// A connection that breaks under a push is replaced at once.
func testCut(t *testing.T, w *world) {
	w.senders()
	w.run()
	for platform, name := range map[provider.Platform]provider.Name{provider.IOS: provider.APNs, provider.Android: provider.FCM} {
		d := device(platform, w.phone(platform).Target())
		want(t, w.one(d), push.Sent, push.Accepted, "ok")
		w.fault(provider.Fault{Provider: name, Kind: provider.FaultCut, Times: 1})
		want(t, w.one(d), push.Sent, push.Accepted, "ok")
		w.fault(provider.Fault{Provider: name, Kind: provider.FaultCut, Times: 2})
		r := w.one(d)
		if r.Verdict != push.Later || r.Outcome != push.Retry {
			t.Errorf("two cuts: %+v", r)
		}
	}
}

func testDeadline(t *testing.T, w *world) {
	w.senders()
	w.run()
	for platform, name := range map[provider.Platform]provider.Name{provider.IOS: provider.APNs, provider.Android: provider.FCM} {
		d := device(platform, w.phone(platform).Target())
		w.fault(provider.Fault{Provider: name, Kind: provider.FaultHang, Times: 1})
		want(t, w.one(d), push.Later, push.Retry, "timeout")
		want(t, w.one(d), push.Sent, push.Accepted, "ok")
	}
}

func testUnregistered(t *testing.T, w *world) {
	w.senders()
	w.run()
	ph := w.phone(provider.Android)
	d := device(provider.Android, ph.Target())
	ph.Uninstall()
	want(t, w.one(d), push.Disabled, push.Disable, "UNREGISTERED")
}

func testNotFound(t *testing.T, w *world) {
	w.fcm(w.Accounts[0], "demo")
	w.run()
	d := device(provider.Android, w.phone(provider.Android).Target())
	w.fault(provider.Fault{Provider: provider.FCM, Kind: provider.FaultHTML, Status: 404, Times: 1})
	r := w.one(d)
	want(t, r, push.Later, push.Misconfigured, "404")
	between(t, "the breaker", r.Wait, 55*time.Second, 2*time.Minute)
	if !strings.Contains(w.logged(), "breaker is open") {
		t.Error("the breaker is not open")
	}
}

func testInvalidArgument(t *testing.T, w *world) {
	w.senders()
	w.run()
	bad := device(provider.Android, provider.Target{Kind: "token", Value: "no-token-of-google"})
	want(t, w.one(bad), push.Later, push.Fault, "INVALID_ARGUMENT") // it might be our payload
	good := device(provider.Android, w.phone(provider.Android).Target())
	want(t, w.one(good), push.Sent, push.Accepted, "ok")
	want(t, w.one(bad), push.Disabled, push.Disable, "INVALID_ARGUMENT")
	w.fault(provider.Fault{Provider: provider.FCM, Kind: provider.FaultAnswer, Status: 400, Reason: "INVALID", Times: 1})
	want(t, w.one(good), push.Later, push.Fault, "400") // without an FcmError it is
}

func testSenderIDMismatch(t *testing.T, w *world) {
	w.senders()
	w.run()
	want(t, w.one(device(provider.Android, w.phone(provider.Android).Target())), push.Sent, push.Accepted, "ok")
	foreign := func() push.Due {
		ph, err := w.AddPhone(provider.PhoneConfig{Platform: provider.Android, App: app, Project: "second"})
		if err != nil {
			t.Fatal(err)
		}
		return device(provider.Android, ph.Target())
	}
	want(t, w.one(foreign()), push.Disabled, push.Disable, "SENDER_ID_MISMATCH")
	var devices []string
	for range 30 {
		devices = append(devices, w.store.due(1, foreign())...)
	}
	for _, r := range w.results(devices[:16]...) {
		if r.Verdict != push.Later {
			t.Errorf("verdict %d after a jump", r.Verdict)
		}
	}
}

func testCredentials(t *testing.T, w *world) {
	w.run() // no lanes yet: the world's own run is not used
	for name, c := range map[string]struct {
		account int
		fault   provider.Fault
		reason  string
	}{
		"401":                    {0, provider.Fault{Provider: provider.FCM, Kind: provider.FaultAnswer, Status: 401, Reason: "UNAUTHENTICATED"}, "401"},
		"THIRD_PARTY_AUTH_ERROR": {0, provider.Fault{Provider: provider.FCM, Kind: provider.FaultAnswer, Reason: "THIRD_PARTY_AUTH_ERROR"}, "THIRD_PARTY_AUTH_ERROR"},
		"403":                    {0, provider.Fault{Provider: provider.FCM, Kind: provider.FaultAnswer, Status: 403, Reason: "PERMISSION_DENIED"}, "403"},
		"oauth":                  {0, provider.Fault{Provider: provider.OAuth, Kind: provider.FaultHTML, Status: 400}, "oauth"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.fcm(w.Accounts[c.account], "demo")
			w.fault(c.fault)
			w.run()
			r := w.one(device(provider.Android, w.phone(provider.Android).Target()))
			want(t, r, push.Later, push.Misconfigured, c.reason)
			between(t, "the breaker", r.Wait, 55*time.Second, 2*time.Minute)
		})
	}
}

func testQuota(t *testing.T, w *world) {
	w.senders()
	w.run()
	d := device(provider.Android, w.phone(provider.Android).Target())
	w.fault(provider.Fault{Provider: provider.FCM, Kind: provider.FaultAnswer, Reason: "QUOTA_EXCEEDED", Times: 1})
	r := w.one(d)
	want(t, r, push.Later, push.SlowDown, "QUOTA_EXCEEDED")
	between(t, "not said", r.Wait, time.Minute, 90*time.Second)
	w.fault(provider.Fault{Provider: provider.FCM, Kind: provider.FaultAnswer, Reason: "QUOTA_EXCEEDED", After: provider.Duration(5 * time.Minute), Times: 1})
	between(t, "Retry-After", w.one(d).Wait, 5*time.Minute, 8*time.Minute)
	// A device's own quota is its own affair: 20 of one collapse key, and one more every 3 minutes.
	var last push.Result
	for range 21 {
		last = w.one(d)
	}
	want(t, last, push.Later, push.Throttled, "QUOTA_EXCEEDED")
	between(t, "the device's", last.Wait, 2*time.Minute, 4*time.Minute)
}

func testFCMUnavailable(t *testing.T, w *world) {
	w.senders()
	w.run()
	d := device(provider.Android, w.phone(provider.Android).Target())
	for _, reason := range []string{"INTERNAL", "UNAVAILABLE"} {
		w.fault(provider.Fault{Provider: provider.FCM, Kind: provider.FaultAnswer, Reason: reason, Times: 1})
		r := w.one(d)
		want(t, r, push.Later, push.Retry, reason) // and the SDK has not tried again by itself
		between(t, reason, r.Wait, 10*time.Second, 30*time.Second)
	}
	w.fault(provider.Fault{Provider: provider.FCM, Kind: provider.FaultAnswer, Reason: "UNAVAILABLE", After: provider.Duration(2 * time.Minute), Times: 1})
	between(t, "asked for", w.one(d).Wait, 2*time.Minute, 3*time.Minute)
	w.fault(provider.Fault{Provider: provider.FCM, Kind: provider.FaultHTML, Times: 1})
	r := w.one(d)
	want(t, r, push.Later, push.Retry, "502")
	between(t, "a proxy's page", r.Wait, 10*time.Second, 30*time.Second)
}
