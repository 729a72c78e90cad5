package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/nudgesync/nudge/clientsim/provider"
	"github.com/nudgesync/nudge/internal/devpg/pgtest"
	"github.com/nudgesync/nudge/server/api"
	"github.com/nudgesync/nudge/server/wire"
)

// pushGrace is long enough for an acknowledgement to be heard and written on a machine that is busy.
const pushGrace = 6 * time.Second

// pushSite is a node, the providers that it pushes through, and the phones behind them.
type pushSite struct {
	*running
	site      *site
	providers *provider.Providers
}

// configurePush starts providers and has the site's nudge.yaml name them.
func configurePush(t *testing.T, s *site) *provider.Providers {
	t.Helper()
	p, err := provider.Start(context.Background(), provider.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	dir := filepath.Dir(s.yaml)
	writeFile(t, dir, "ca.pem", string(p.CA))
	writeFile(t, dir, "apns.p8", string(p.APNsKeys[0].P8))
	writeFile(t, dir, "firebase.json", string(p.Accounts[0].JSON))
	writeFile(t, dir, "vapid.key", p.VAPID.Private)
	writeFile(t, dir, "token.key", base64.StdEncoding.EncodeToString([]byte(strings.Repeat("t", 32))))
	text, err := os.ReadFile(s.yaml)
	if err != nil {
		t.Fatal(err)
	}
	section := fmt.Sprintf(`push:
  grace: %v
  token_key_file: token.key
  apns: [{team: %s, key_id: %s, key_file: apns.p8, topics: [com.example.app], endpoint: %q, ca_file: ca.pem}]
  fcm: [{project: demo, credentials_file: firebase.json, apps: [com.example.app], endpoint: %q, ca_file: ca.pem}]
  webpush: {subject: "mailto:ops@example.com", vapid_key_file: vapid.key, allow_hosts: [127.0.0.1], ca_file: ca.pem}
`, pushGrace, p.APNsKeys[0].Team, p.APNsKeys[0].KeyID, p.APNsURL, p.FCMURL)
	writeFile(t, dir, filepath.Base(s.yaml), string(text)+section)
	return p
}

func newPushSite(t *testing.T) *pushSite {
	t.Helper()
	s := newSite(t, pgtest.Database(t))
	p := configurePush(t, s)
	return &pushSite{s.serve(t), s, p}
}

// pushedDevice is an app on a phone: woken, it pulls and acknowledges.
type pushedDevice struct {
	*pushSite
	user, name string
	phone      *provider.Phone
	silent     atomic.Bool // it does not acknowledge

	mu     sync.Mutex
	cursor string
}

// device adds a phone, pulls everything, and registers with the cursor of that.
func (p *pushSite) device(t *testing.T, user, name string, on provider.Platform) *pushedDevice {
	t.Helper()
	d := &pushedDevice{pushSite: p, user: user, name: name}
	var err error
	d.phone, err = p.providers.AddPhone(provider.PhoneConfig{ID: user + "/" + name, Platform: on, App: "com.example.app", Wake: d.wake})
	if err != nil {
		t.Fatal(err)
	}
	if err := d.pull(t.Context(), ""); err != nil {
		t.Fatal(err)
	}
	d.register(t)
	return d
}

func (d *pushedDevice) register(t *testing.T) {
	t.Helper()
	road := map[string]string{"ios": wire.RoadAPNs, "android": wire.RoadFCM, "browser": wire.RoadWebPush}
	target := d.phone.Target()
	body := wire.Registration{
		Road:   road[string(platformOf(target))],
		Target: &wire.Target{Kind: target.Kind, Value: target.Value, P256dh: target.P256dh, Auth: target.Auth},
		App:    "com.example.app", Environment: wire.Production, AppVersion: "1.0", Cursor: d.at(),
	}
	var answer wire.Device
	if err := d.do(t.Context(), http.MethodPut, "/v1/devices/"+d.name, body, &answer); err != nil {
		t.Fatal(err)
	}
	if answer.Status != "active" || answer.Device != d.name {
		t.Fatalf("%+v", answer)
	}
}

// platformOf tells a target's road by its form.
func platformOf(t provider.Target) provider.Platform {
	switch {
	case t.Kind == wire.KindWebPush:
		return provider.Browser
	case strings.ContainsAny(t.Value, ":-_") || strings.Trim(t.Value, "0123456789abcdef") != "":
		return provider.Android
	}
	return provider.IOS
}

func (d *pushedDevice) at() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.cursor
}

// do makes a request as the device.
func (d *pushedDevice) do(ctx context.Context, method, path string, body, answer any) error {
	var text io.Reader = http.NoBody
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return err
		}
		text = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, d.url+path, text)
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+d.token(d.user))
	req.Header.Set(wire.HeaderDevice, d.name)
	res, err := d.client.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = res.Body.Close() }()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		return err
	}
	if res.StatusCode >= 300 {
		return fmt.Errorf("%s %s: %d %s", method, path, res.StatusCode, b)
	}
	if answer == nil {
		return nil
	}
	return json.Unmarshal(b, answer)
}

// pull applies what is new, page by page.
func (d *pushedDevice) pull(ctx context.Context, nudge string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	for more := true; more; {
		var page wire.Page
		err := d.do(ctx, http.MethodGet, "/v1/changes?"+url.Values{"since": {d.cursor}, "nudge": {nudge}}.Encode(), nil, &page)
		if err != nil {
			return err
		}
		d.cursor, more = page.Cursor, page.HasMore
	}
	return nil
}

// wake is the app's work after a push.
func (d *pushedDevice) wake(ctx context.Context, nudge string) {
	if err := d.pull(ctx, nudge); err != nil {
		d.t.Error(err)
	}
	if d.silent.Load() {
		return
	}
	if err := d.do(ctx, http.MethodPost, "/v1/ack", map[string]string{"cursor": d.at()}, nil); err != nil {
		d.t.Error(err)
	}
}

// explained waits until what is known of the device is as it should be, and returns it.
func (d *pushedDevice) explained(t *testing.T, what string, is func(e *api.Explanation) bool) api.Explanation {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		e := d.explain(t)
		if is(&e) {
			return e
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("%s/%s never was %s: %+v", d.user, d.name, what, e)
		}
	}
}

func (d *pushedDevice) explain(t *testing.T) api.Explanation {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, d.admin+"/v1/admin/explain?user="+d.user+"&device="+d.name, nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := d.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	var all []api.Explanation
	if err := json.NewDecoder(res.Body).Decode(&all); err != nil || len(all) != 1 {
		t.Fatalf("%d %v %+v", res.StatusCode, err, all)
	}
	return all[0]
}

func isDue(e *api.Explanation) bool { return e.Due != "" }

// isSettled: it acknowledged what it was due for.
func isSettled(e *api.Explanation) bool { return e.Due == "" && e.Acked != "" && e.Acked >= e.Head }

// woken waits until a push started the app.
func (d *pushedDevice) woken(t *testing.T, after int64) provider.Entry {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	e, err := d.providers.Log().Wait(ctx, after, func(e provider.Entry) bool {
		return e.Event == provider.EventWoken && e.Phone == d.user+"/"+d.name
	})
	if err != nil {
		t.Fatalf("%s/%s was not woken: %v; %+v", d.user, d.name, err, d.explain(t))
	}
	return e
}

// A device without a socket is woken by a push, over any road, pulls, acknowledges, and is left alone. The one that
// wrote is not woken.
func TestPushWakes(t *testing.T) {
	p := newPushSite(t)
	devices := []*pushedDevice{
		p.device(t, "7", "phone", provider.IOS), p.device(t, "7", "tablet", provider.Android), p.device(t, "7", "browser", provider.Browser),
	}
	writer, other := p.device(t, "7", "writer", provider.IOS), p.device(t, "8", "phone-8", provider.IOS)
	execute(t, p.site.admin, `begin; select nudge.origin('writer'); insert into intakes values (10, 7, 'new'); commit`)
	for _, d := range devices {
		nudge := d.woken(t, 0).Nudge
		e := d.explained(t, "settled", func(e *api.Explanation) bool {
			return e.Due == "" && len(e.Pushes) == 1 && e.Pushes[0].AckedAt != nil
		})
		push := e.Pushes[0]
		if push.Nudge != nudge || !strings.HasPrefix(nudge, wire.PushNudge) || push.Status != "accepted" || push.PulledAt == nil || push.AnsweredAt == nil {
			t.Errorf("%s: the ledger has %+v for %s", d.name, push, nudge)
		}
		if e.NextAt != nil || !strings.Contains(e.Verdict, "up to date") {
			t.Errorf("%s: %+v", d.name, e)
		}
	}
	// All devices of a user are marked by one statement, so what it did to these is known by now.
	for _, d := range []*pushedDevice{writer, other} {
		if e := d.explain(t); e.Due != "" || len(e.Pushes) > 0 {
			t.Errorf("%s/%s: %+v", d.user, d.name, e)
		}
	}
	out := p.site.nudge(t, "explain", "7", "tablet")
	if out.status != exitOK || !strings.HasPrefix(out.stdout, "tablet of user 7: It is up to date") || !strings.Contains(out.stdout, "accepted") {
		t.Errorf("%+v", out)
	}
	var all []api.Explanation
	out = p.site.nudge(t, "explain", "7", "--json")
	if err := json.Unmarshal([]byte(out.stdout), &all); err != nil || len(all) != 4 {
		t.Errorf("%v %+v", err, out)
	}
	if out = p.site.nudge(t, "explain", "7", "none"); out.status != exitFailed || !strings.Contains(out.stderr, "hint: nudge explain 7") {
		t.Errorf("%+v", out)
	}
	metrics := metricsOf(t, strings.TrimPrefix(p.admin, "http://"))
	if n := metrics["nudge_push_marked_total"]; n != 3 {
		t.Errorf("%v devices marked", n)
	}

	if err := writer.do(t.Context(), http.MethodDelete, "/v1/devices/writer", nil, nil); err != nil {
		t.Error(err)
	}
	if err := writer.do(t.Context(), http.MethodGet, "/v1/devices/writer", nil, nil); err == nil || !strings.Contains(err.Error(), "not_found") {
		t.Error(err)
	}
}

// The writer of everything but what others wrote is told of that, and of nothing else (A17).
func TestA17PushesForTheOthersChanges(t *testing.T) {
	p := newPushSite(t)
	mine, theirs := p.device(t, "7", "mine", provider.Android), p.device(t, "7", "theirs", provider.Android)
	execute(t, p.site.admin, `begin; select nudge.origin('theirs'); insert into intakes values (10, 7, 'theirs'); commit`)
	execute(t, p.site.admin, `begin; select nudge.origin('mine'); insert into intakes values (11, 7, 'mine'); commit`)
	for _, d := range []*pushedDevice{mine, theirs} {
		d.woken(t, 0)
		d.explained(t, "settled", func(e *api.Explanation) bool { return e.Due == "" && e.Acked != "" })
	}
}

// A device that acknowledges over its socket is never pushed to. One whose socket is a black hole is, after the
// grace time and not before (A6).
func TestA06SocketFirst(t *testing.T) {
	p := newPushSite(t)
	there, gone := p.device(t, "7", "there", provider.IOS), p.device(t, "7", "gone", provider.IOS)
	hole := newBlackHole(t, strings.TrimPrefix(p.url, "http://"))
	conn := there.socket(t, p.url)
	_ = gone.socket(t, hole.url)
	for _, d := range []*pushedDevice{there, gone} {
		d.explained(t, "heard over its session", func(e *api.Explanation) bool { return e.Session != "" && e.Here })
	}
	hole.swallow.Store(true)
	execute(t, p.site.admin, `insert into intakes values (10, 7, 'new')`)

	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	p.hear(ctx, conn, wire.TNudge, &wire.Nudge{})
	cursor := there.at()
	p.say(ctx, conn, wire.Pull{T: wire.TPull, ID: 1, Cursor: &cursor})
	var page wire.Changes
	p.hear(ctx, conn, wire.TChanges, &page)
	p.say(ctx, conn, wire.Ack{T: wire.TAck, Cursor: page.Cursor})
	due := gone.explained(t, "due", isDue)
	if got := due.NextAt.Sub(*due.DueSince); got < pushGrace {
		t.Errorf("it is pushed to after %v", got)
	}
	if !strings.Contains(due.Verdict, "does not acknowledge") {
		t.Errorf("verdict %q", due.Verdict)
	}
	if e := there.explained(t, "settled", isSettled); len(e.Pushes) > 0 {
		t.Errorf("a device that acknowledged was pushed to: %+v", e)
	}
	gone.woken(t, 0)
	gone.explained(t, "settled", isSettled)
	if e := there.explain(t); len(e.Pushes) > 0 || e.Due != "" {
		t.Errorf("a device that acknowledged was pushed to: %+v", e)
	}
}

// A page that is served proves nothing: its device is due until it says that it has saved it (A6).
func TestA06AServedPageIsNoAcknowledgement(t *testing.T) {
	p := newPushSite(t)
	d := p.device(t, "7", "phone", provider.IOS)
	d.silent.Store(true)
	execute(t, p.site.admin, `insert into intakes values (10, 7, 'new')`)
	d.woken(t, 0)
	e := d.explained(t, "pulled", func(e *api.Explanation) bool { return len(e.Pushes) == 1 && e.Pushes[0].PulledAt != nil })
	if e.Due == "" || e.NextAt == nil || !strings.Contains(e.Verdict, "has not acknowledged") {
		t.Errorf("it was served a page, and is settled: %+v", e)
	}
	// The next pull proves it, as far as it goes.
	if err := d.pull(t.Context(), ""); err != nil {
		t.Fatal(err)
	}
	d.explained(t, "settled", isSettled)
}

// socket opens the device's socket and says hello with its cursor.
func (d *pushedDevice) socket(t *testing.T, base string) *websocket.Conn {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	conn, res, err := websocket.Dial(ctx, base+"/v1/socket", &websocket.DialOptions{HTTPClient: d.client, Subprotocols: []string{wire.Subprotocol}})
	if err != nil {
		t.Fatal(err)
	}
	if res.Body != nil {
		_ = res.Body.Close()
	}
	t.Cleanup(func() { _ = conn.CloseNow() })
	cursor := d.at()
	d.say(ctx, conn, wire.Hello{T: wire.THello, V: wire.Version, Token: d.token(d.user), Device: d.name, Cursor: &cursor})
	d.hear(ctx, conn, wire.TReady, &wire.Ready{})
	return conn
}

// blackHole is a network that forwards until it swallows everything, and closes nothing.
type blackHole struct {
	url     string
	swallow atomic.Bool
}

func newBlackHole(t *testing.T, to string) *blackHole {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h := &blackHole{url: "http://" + l.Addr().String()}
	ctx, cancel := context.WithCancel(context.Background())
	var work sync.WaitGroup
	work.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return // closed
			}
			server, err := new(net.Dialer).DialContext(ctx, "tcp", to)
			if err != nil {
				_ = client.Close()
				continue
			}
			context.AfterFunc(ctx, func() { _ = client.Close(); _ = server.Close() })
			work.Go(func() { h.forward(server, client) })
			work.Go(func() { h.forward(client, server) })
		}
	})
	t.Cleanup(func() {
		cancel()
		_ = l.Close()
		work.Wait()
	})
	return h
}

func (h *blackHole) forward(to io.Writer, from io.Reader) {
	b := make([]byte, 4096)
	for {
		n, err := from.Read(b)
		if err != nil {
			return
		}
		if h.swallow.Load() {
			continue
		}
		if _, err := to.Write(b[:n]); err != nil {
			return
		}
	}
}
