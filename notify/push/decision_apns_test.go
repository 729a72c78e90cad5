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
