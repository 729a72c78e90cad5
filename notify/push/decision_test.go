package push_test

import (
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
		{"webpush 404, 410", testUnsubscribed},
		{"webpush 401, 403, 413", testWebPushFaults},
		{"webpush 429", testWebPushTooMany},
		{"webpush 5xx, transport", testWebPushUnwell},
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
	for _, platform := range []provider.Platform{provider.IOS, provider.Android, provider.Browser} {
		ph := w.phone(platform)
		r := w.one(device(platform, ph.Target()))
		want(t, r, push.Sent, push.Accepted, "ok")
		if (r.ID == "") != (platform == provider.Browser) || r.SentAt.IsZero() || r.AnsweredAt.Before(r.SentAt) {
			t.Errorf("the ledger would know %+v", r)
		}
		if _, err := w.Log().Wait(t.Context(), 0, func(e provider.Entry) bool {
			return e.Event == provider.EventWoken && e.Phone == ph.ID() && e.Nudge == r.Due.Nudge
		}); err != nil {
			t.Error(err)
		}
	}
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

func testCredentials(t *testing.T, _ *world) {
	for name, c := range map[string]struct {
		fault  provider.Fault
		reason string
	}{
		"401":                    {provider.Fault{Provider: provider.FCM, Kind: provider.FaultAnswer, Status: 401, Reason: "UNAUTHENTICATED"}, "401"},
		"THIRD_PARTY_AUTH_ERROR": {provider.Fault{Provider: provider.FCM, Kind: provider.FaultAnswer, Reason: "THIRD_PARTY_AUTH_ERROR"}, "THIRD_PARTY_AUTH_ERROR"},
		"403":                    {provider.Fault{Provider: provider.FCM, Kind: provider.FaultAnswer, Status: 403, Reason: "PERMISSION_DENIED"}, "403"},
		"oauth":                  {provider.Fault{Provider: provider.OAuth, Kind: provider.FaultHTML, Status: 400}, "oauth"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.fcm(w.Accounts[0], "demo")
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

func testUnsubscribed(t *testing.T, w *world) {
	w.senders()
	w.run()
	ph := w.phone(provider.Browser)
	d := device(provider.Browser, ph.Target())
	ph.Uninstall()
	want(t, w.one(d), push.Disabled, push.Disable, "410")
	d.Target.Value = w.WebPushURL + "/push/nobody"
	want(t, w.one(d), push.Disabled, push.Disable, "404")
}

func testWebPushFaults(t *testing.T, w *world) {
	w.senders()
	w.run()
	d := device(provider.Browser, w.phone(provider.Browser).Target())
	for status, reason := range map[int]string{400: "400", 401: "401", 403: "403", 413: "413"} {
		w.fault(provider.Fault{Provider: provider.WebPush, Kind: provider.FaultAnswer, Status: status, Times: 1})
		want(t, w.one(d), push.Later, push.Fault, reason)
	}
	want(t, w.one(d), push.Sent, push.Accepted, "ok")
}

func testWebPushTooMany(t *testing.T, w *world) {
	w.senders()
	w.run()
	d := device(provider.Browser, w.phone(provider.Browser).Target())
	w.fault(provider.Fault{Provider: provider.WebPush, Kind: provider.FaultAnswer, Status: 429, After: provider.Duration(3 * time.Minute), Times: 1})
	r := w.one(d)
	want(t, r, push.Later, push.Throttled, "429")
	between(t, "Retry-After", r.Wait, 3*time.Minute, 4*time.Minute)
}

// What a push service does wrong is its own devices' affair: however often, the breaker stays closed.
func testWebPushUnwell(t *testing.T, w *world) {
	w.senders()
	w.run()
	d := device(provider.Browser, w.phone(provider.Browser).Target())
	for _, f := range []provider.Fault{
		{Kind: provider.FaultHTML},
		{Kind: provider.FaultHTML, Status: 302},
		{Kind: provider.FaultCut},
		{Kind: provider.FaultAnswer, Status: 500},
		{Kind: provider.FaultGarbage, Status: 503},
	} {
		f.Provider = provider.WebPush
		w.fault(f)
		for range 3 {
			r := w.one(d)
			if r.Verdict != push.Later || r.Outcome != push.Throttled {
				t.Errorf("%s %d: %+v", f.Kind, f.Status, r)
			}
		}
		w.RemoveFault(0)
	}
	if strings.Contains(w.logged(), "breaker is open") {
		t.Error(w.logged())
	}
}
