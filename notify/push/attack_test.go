package push_test

import (
	"strings"
	"testing"
	"time"

	"github.com/nudgesync/nudge/clientsim/provider"
	"github.com/nudgesync/nudge/notify/push"
)

// What an app may register for a token: none of it reaches a provider, opens a breaker, or stands in the log.
func TestBadTokensReachNobody(t *testing.T) {
	w := newWorld(t)
	w.senders()
	w.run()
	good := w.phone(provider.Browser).Target()
	huge := strings.Repeat("ab", 50_000)
	var devices []string
	due := func(road string, targets ...push.Target) {
		for _, target := range targets {
			d := push.Due{Road: road, App: app, Environment: push.Production, Urgency: push.Soon, Target: target}
			if target.Value == "" {
				d.Target.Value = " "
			}
			devices = append(devices, w.store.due(1, d)...)
		}
	}
	for _, road := range []string{push.APNs, push.FCM} {
		for _, value := range []string{"", huge, "a b", "a\r\nb", "ab\x00", "töken", strings.Repeat("g", 5000)} {
			due(road, push.Target{Kind: "token", Value: value})
		}
		if road == push.APNs { // FCM's tokens have no form that one may rely on
			due(road, push.Target{Kind: "token", Value: "zz"}, push.Target{Kind: "token", Value: "../../3/device/x"}, push.Target{Kind: "token", Value: "ab"})
		}
		due(road, push.Target{Kind: "webpush", Value: token(1)}, push.Target{Value: token(1)})
	}
	sub := func(value, key, auth string) push.Target {
		return push.Target{Kind: "webpush", Value: value, P256dh: key, Auth: auth}
	}
	due(push.WebPush,
		sub("", good.P256dh, good.Auth), sub("http://127.0.0.1/push/x", good.P256dh, good.Auth), sub("https://", good.P256dh, good.Auth),
		sub("https://user:secret@127.0.0.1/", good.P256dh, good.Auth), sub("https://127.0.0.1/"+huge, good.P256dh, good.Auth),
		sub(good.Value, "", good.Auth), sub(good.Value, good.P256dh, ""), sub(good.Value, strings.Repeat("A", 87), good.Auth),
		sub(good.Value, good.P256dh, huge), sub(good.Value, "!", "!"), push.Target{Kind: "token", Value: good.Value},
	)
	for _, r := range w.results(devices...) {
		if r.Verdict != push.Disabled || r.Reason != "malformed" {
			t.Errorf("%s: %d, %s", r.Due.Road, r.Verdict, r.Reason)
		}
	}
	for _, name := range []provider.Name{provider.APNs, provider.FCM, provider.WebPush} {
		if got := w.answered(name); len(got) > 0 {
			t.Errorf("%s was asked: %v", name, got)
		}
	}
	if logs := w.logged(); strings.Contains(logs, "breaker") || strings.Contains(logs, "secret") || strings.Contains(logs, huge[:20]) {
		t.Error(logs)
	}
}

// Providers that answer HTML, garbage, nothing, or nothing at all: the devices stay due, the others' devices are reached,
// and no log line has a token.
func TestProvidersThatLie(t *testing.T) {
	for _, f := range []provider.Fault{
		{Kind: provider.FaultHTML},
		{Kind: provider.FaultHTML, Status: 200},
		{Kind: provider.FaultHTML, Status: 410},
		{Kind: provider.FaultHTML, Status: 302},
		{Kind: provider.FaultGarbage},
		{Kind: provider.FaultGarbage, Status: 400},
		{Kind: provider.FaultGarbage, Status: 204},
		{Kind: provider.FaultReset},
		{Kind: provider.FaultCut},
		{Kind: provider.FaultHang},
	} {
		for _, name := range []provider.Name{provider.APNs, provider.FCM} {
			t.Run(string(name)+" "+f.Kind+" "+push.Status(f.Status), func(t *testing.T) {
				t.Parallel()
				w := newWorld(t)
				w.senders()
				w.run()
				f.Provider = name
				w.fault(f)
				bad, good := device(provider.IOS, w.phone(provider.IOS).Target()), device(provider.Android, w.phone(provider.Android).Target())
				if name == provider.FCM {
					bad, good = good, bad
				}
				badOnes := w.store.due(12, bad) // fewer than a lane claims before the breaker opens
				for _, r := range w.push(15, good) {
					want(t, r, push.Sent, push.Accepted, "ok")
				}
				for _, r := range w.results(badOnes...) {
					if r.Verdict != push.Later || r.Attempted && r.Outcome != push.Retry {
						t.Errorf("verdict %d: %+v", r.Verdict, r)
					}
				}
				if logs := w.logged(); strings.Contains(logs, bad.Target.Value[:20]) || strings.Contains(logs, good.Target.Value[:20]) {
					t.Error(logs)
				}
			})
		}
	}
}

// A line that was cut, or swallows everything, is bridged within the time of an attempt once it is back; meanwhile other
// providers work.
func TestLines(t *testing.T) {
	for _, line := range []provider.Line{provider.LineDead, provider.LineSilent} {
		t.Run(string(line), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.senders()
			w.run()
			d, other := device(provider.IOS, w.phone(provider.IOS).Target()), device(provider.Android, w.phone(provider.Android).Target())
			want(t, w.one(d), push.Sent, push.Accepted, "ok")
			if err := w.SetLine(provider.APNs, line); err != nil {
				t.Fatal(err)
			}
			if r := w.one(d); r.Verdict != push.Later || r.Outcome != push.Retry {
				t.Errorf("%+v", r)
			}
			want(t, w.one(other), push.Sent, push.Accepted, "ok")
			if err := w.SetLine(provider.APNs, provider.LineUp); err != nil {
				t.Fatal(err)
			}
			sent := time.Now()
			for r := w.one(d); r.Verdict != push.Sent; r = w.one(d) {
				if time.Since(sent) > 15*time.Second {
					t.Fatalf("still %+v", r)
				}
			}
		})
	}
}

// A cold connection gets one request until that has succeeded, however many workers there are; all then share it. A
// GOAWAY costs no push.
func TestOneStreamUntilWarm(t *testing.T) {
	w := newWorld(t)
	w.senders()
	w.lanes[0].Workers = 50
	w.run()
	for range 3 {
		var devices []string
		for range 100 {
			devices = append(devices, w.store.due(1, device(provider.IOS, w.phone(provider.IOS).Target()))...)
		}
		for _, r := range w.results(devices...) {
			want(t, r, push.Sent, push.Accepted, "ok")
		}
		w.Goaway("Shutdown")
	}
	conns := map[int64]bool{}
	for _, e := range w.Log().Since(0) {
		if e.Provider == provider.APNs && e.Event == provider.EventConnected {
			conns[e.Conn] = true
		}
	}
	if len(conns) != 3 || w.mints.Load() != 1 {
		t.Errorf("%d connections and %d provider tokens, want 3 and 1", len(conns), w.mints.Load())
	}
}
