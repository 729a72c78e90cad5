package push_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nudgesync/nudge/clientsim/provider"
	"github.com/nudgesync/nudge/notify/push"
	"github.com/nudgesync/nudge/notify/push/apns"
	"github.com/nudgesync/nudge/notify/push/fcm"
	"github.com/nudgesync/nudge/notify/push/webpush"
)

const app = "com.example.app"

// world is the fake providers and a dispatcher with the real SDKs in between.
type world struct {
	*provider.Providers
	t     *testing.T
	store *memory
	lanes []push.Lane
	mints atomic.Int64 // provider tokens of APNs

	mu   sync.Mutex
	logs bytes.Buffer
	off  time.Duration // how far the team's clock is ahead
}

func (w *world) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.logs.Write(p)
}

func (w *world) logged() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.logs.String()
}

// ahead moves the clock that provider tokens are signed by.
func (w *world) ahead(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.off = d
}

func newWorld(t *testing.T) *world {
	t.Helper()
	p, err := provider.Start(t.Context(), provider.Config{
		Teams:    []provider.Team{{ID: "TEAM000001", KeyID: "KEY0000001", Topics: []string{app, "com.example.second"}}},
		Projects: []string{"demo", "second"},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return &world{Providers: p, t: t, store: newMemory()}
}

// team signs with the key that the fake knows, or with another.
func (w *world) team(p8 []byte) *apns.Team {
	w.t.Helper()
	key := w.APNsKeys[0]
	if p8 == nil {
		p8 = key.P8
	}
	team, err := apns.NewTeam(apns.TeamConfig{
		ID: key.Team, KeyID: key.KeyID, Key: p8, Minted: func() { w.mints.Add(1) },
		Now: func() time.Time {
			w.mu.Lock()
			defer w.mu.Unlock()
			return time.Now().Add(w.off)
		},
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return team
}

func (w *world) apns(team *apns.Team, environment, url string) {
	w.t.Helper()
	s, err := apns.New(apns.Config{Team: team, Environment: environment, Endpoint: url, RootCAs: w.Roots()})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(s.Close)
	w.lanes = append(w.lanes, push.Lane{
		Name: "apns/TEAM000001/" + environment, Road: push.APNs, Environment: environment, Apps: []string{app}, Sender: s,
	})
}

func (w *world) fcm(account *provider.FCMAccount, project string) {
	w.t.Helper()
	s, err := fcm.New(w.t.Context(), fcm.Config{Project: project, Credentials: account.JSON, Endpoint: w.FCMURL, RootCAs: w.Roots()})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(s.Close)
	w.lanes = append(w.lanes, push.Lane{
		Name: "fcm/" + project, Road: push.FCM, Environment: push.Production, Apps: []string{app}, Sender: s, Floor: 10 * time.Second,
	})
}

// senders adds the usual ones.
func (w *world) senders() {
	w.t.Helper()
	team := w.team(nil)
	w.apns(team, push.Production, w.APNsURL)
	w.apns(team, push.Sandbox, w.SandboxURL)
	w.fcm(w.Accounts[0], "demo")
	w.webpush()
}

func (w *world) webpush() {
	w.t.Helper()
	s, err := webpush.New(webpush.Config{
		Subject: "ops@example.com", Key: []byte(w.VAPID.Private), AllowHosts: []string{"127.0.0.1"}, RootCAs: w.Roots(),
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(s.Close)
	w.lanes = append(w.lanes, push.Lane{Name: "webpush", Road: push.WebPush, Sender: s})
}

func (w *world) run() func() {
	w.t.Helper()
	_, stop := run(w.t, push.Config{
		Store: w.store, Lanes: w.lanes, Poll: 10 * time.Millisecond, Timeout: 2 * time.Second, Hold: time.Second,
		Log: slog.New(slog.NewTextHandler(w, nil)),
	})
	return stop
}

func (w *world) phone(platform provider.Platform) *provider.Phone {
	w.t.Helper()
	ph, err := w.AddPhone(provider.PhoneConfig{Platform: platform, App: app})
	if err != nil {
		w.t.Fatal(err)
	}
	return ph
}

// device is a due device of a phone, registered a while ago.
func device(platform provider.Platform, target provider.Target) push.Due {
	d := push.Due{
		App: app, Environment: push.Production, Urgency: push.Soon, RegisteredAt: time.Now().Add(-time.Hour),
		Target: push.Target{Kind: target.Kind, Value: target.Value, P256dh: target.P256dh, Auth: target.Auth},
	}
	d.Road = map[provider.Platform]string{provider.IOS: push.APNs, provider.Android: push.FCM, provider.Browser: push.WebPush}[platform]
	return d
}

func (w *world) fault(f provider.Fault) {
	w.t.Helper()
	if _, err := w.AddFault(f); err != nil {
		w.t.Fatal(err)
	}
}

// push makes the device due n times over, as n devices, and returns what became of each at first.
func (w *world) push(n int, d push.Due) []push.Result {
	w.t.Helper()
	return w.results(w.store.due(n, d)...)
}

// results waits until something became of each of the devices.
func (w *world) results(devices ...string) []push.Result {
	w.t.Helper()
	deadline := time.After(20 * time.Second)
	for {
		var out []push.Result
		for _, r := range w.store.taken() {
			if slices.Contains(devices, r.Due.Device) && !slices.ContainsFunc(out, func(o push.Result) bool { return o.Due.Device == r.Due.Device }) {
				out = append(out, r)
			}
		}
		if len(out) == len(devices) {
			return out
		}
		select {
		case <-w.store.settled:
		case <-deadline:
			w.t.Fatalf("%d of %d settled\n%s", len(out), len(devices), w.logged())
		}
	}
}

// one is push of one device.
func (w *world) one(d push.Due) push.Result { return w.push(1, d)[0] }

// want compares a result with what the decision table says.
func want(t *testing.T, r push.Result, v push.Verdict, o push.Outcome, reason string) {
	t.Helper()
	if r.Verdict != v || r.Outcome != o || r.Reason != reason {
		t.Errorf("verdict %d, outcome %v, reason %q; want %d, %v, %q", r.Verdict, r.Outcome, r.Reason, v, o, reason)
	}
}

func between(t *testing.T, what string, got, least, most time.Duration) {
	t.Helper()
	if got < least || got > most {
		t.Errorf("%s: %v, want %v to %v", what, got, least, most)
	}
}

// answered are the fake's answers of a provider since the entry of that number.
func (w *world) answered(name provider.Name) []provider.Entry {
	return slices.DeleteFunc(w.Log().Since(0), func(e provider.Entry) bool {
		return e.Provider != name || e.Event != provider.EventAnswered
	})
}

func token(n int) string { return fmt.Sprintf("%064x", n+1) }
