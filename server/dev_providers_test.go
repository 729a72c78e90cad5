package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/nudgesync/nudge/clientsim/provider"
	"github.com/nudgesync/nudge/server/dev"
	"github.com/nudgesync/nudge/server/wire"
)

// dev.json says where the simulated push services are, and a phone that is had from there is woken: for whoever
// develops an app, or a sender. The phones of one run are not those of the next.
func TestDevProviders(t *testing.T) {
	home := t.TempDir()
	openToAll(t, home)
	args := []string{"--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"}
	d := startDev(t, home, args...)
	at := d.state.Providers
	if at.APNs == "" || at.FCM == "" || at.WebPush == "" || len(at.Teams) != 1 || len(at.Projects) != 1 {
		t.Errorf("dev.json: %+v", at)
	}
	for _, c := range []struct{ platform, road string }{{"ios", wire.RoadAPNs}, {"android", wire.RoadFCM}, {"browser", wire.RoadWebPush}} {
		var phone struct {
			ID     string      `json:"id"`
			Target wire.Target `json:"target"`
		}
		ask(t, http.MethodPost, at.Control+"/phones", "", map[string]string{"platform": c.platform, "app": dev.PocketApp}, &phone)
		token := devToken(t, d, c.platform)
		var device wire.Device
		// Without a cursor it is told in any case.
		ask(t, http.MethodPut, d.state.URL+"/v1/devices/"+c.platform, token, wire.Registration{
			Road: c.road, Target: &phone.Target, App: dev.PocketApp, Environment: wire.Production,
		}, &device)
		var log []provider.Entry
		ask(t, http.MethodGet, at.Control+"/log?event=woken&wait=30s&phone="+phone.ID, "", nil, &log)
		if len(log) == 0 || device.Status != "active" {
			t.Errorf("%s: registered as %+v, woken %d times", c.platform, device, len(log))
		}
	}
	if status := d.stop(); status != exitOK {
		t.Fatalf("stopped with status %d", status)
	}
	d = startDev(t, home, args...)
	conn, err := pgx.Connect(t.Context(), d.state.DSN)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(t.Context()) }()
	var devices int
	if err := conn.QueryRow(t.Context(), "select count(*) from nudge.devices").Scan(&devices); err != nil || devices != 0 {
		t.Errorf("%d devices of the run before: %v", devices, err)
	}
}

// devToken is a token of the demo user's device.
func devToken(t *testing.T, d *runningDev, device string) string {
	t.Helper()
	var session struct {
		Token string `json:"token"`
	}
	ask(t, http.MethodGet, fmt.Sprintf("%s/demo/session?user=%d&device=%s", d.state.URL, dev.DemoUser, device), "", nil, &session)
	return session.Token
}

// ask makes a request, whose answer must be a good one.
func ask(t *testing.T, method, url, token string, body, answer any) {
	t.Helper()
	var text io.Reader = http.NoBody
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			t.Fatal(err)
		}
		text = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(t.Context(), method, url, text)
	if err != nil {
		t.Fatal(err)
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	client := &http.Client{Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	res, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	if res.StatusCode != http.StatusOK {
		t.Fatalf("%s %s: %d %s", method, url, res.StatusCode, b)
	}
	if err := json.Unmarshal(b, answer); err != nil {
		t.Fatalf("%s %s: %v in %s", method, url, err, b)
	}
}
