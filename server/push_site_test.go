package main

import (
	"bytes"
	"context"
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
	"github.com/jackc/pgx/v5"

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
	files, err := p.WriteFiles(filepath.Dir(s.yaml))
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(s.yaml)
	if err != nil {
		t.Fatal(err)
	}
	section := p.PushSection(files, fmt.Sprintf("grace: %v", pushGrace))
	writeFile(t, filepath.Dir(s.yaml), filepath.Base(s.yaml), string(text)+section)
	return p
}

func newPushSite(t *testing.T) *pushSite {
	t.Helper()
	s := newSite(t, pgtest.Database(t))
	p := configurePush(t, s)
	r := s.serve(t)
	awaitMarker(t, s.admin)
	return &pushSite{r, s, p}
}

// awaitMarker waits until the marker stands somewhere: devices that register before that are due for what they may not
// have.
func awaitMarker(t *testing.T, dsn string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.Background()) }()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for begun := false; !begun; <-tick.C {
		if err := conn.QueryRow(ctx, "select exists (select from nudge.marking)").Scan(&begun); err != nil {
			t.Fatal(err)
		}
	}
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
