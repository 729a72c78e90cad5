package provider_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/nudgesync/nudge/clientsim/provider"
)

// tell calls the control API and decodes its answer.
func tell(t *testing.T, c *http.Client, method, url, body string, want int, into any) {
	t.Helper()
	res, err := c.Do(request(t, method, url, body))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	if res.StatusCode != want {
		t.Errorf("%s %s %s: %d", method, url, body, res.StatusCode)
	}
	if into == nil {
		into = new(any)
	}
	if err := json.NewDecoder(res.Body).Decode(into); err != nil {
		t.Error(err)
	}
}

func TestControl(t *testing.T) {
	t.Parallel()
	hooked := make(chan map[string]string, 1)
	hook := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		var m map[string]string
		if err := json.NewDecoder(r.Body).Decode(&m); err != nil {
			t.Error(err)
		}
		hooked <- m
	}))
	defer hook.Close()
	p := start(t, provider.Config{FCMWithoutAuth: true})
	c := plain(t, p)
	url := p.ControlURL
	type view struct {
		ID       string
		Target   provider.Target
		Switches provider.Switches
		Held     int
		Woken    int64
	}
	var at provider.Addresses
	tell(t, c, "GET", url+"/", "", 200, &at)
	if at.APNs != p.APNsURL || at.Teams[0].Topics[0] != app || at.VAPID != p.VAPID.Public {
		t.Errorf("%+v", at)
	}

	var ph view
	tell(t, c, "POST", url+"/phones", `{"id":"a","platform":"android","app":"x","switches":{"doze":true},"wake_url":"`+hook.URL+`"}`, 200, &ph)
	if ph.ID != "a" || !ph.Switches.Doze || ph.Target.Value == "" {
		t.Errorf("%+v", ph)
	}
	var many []view
	tell(t, c, "POST", url+"/phones", `{"platform":"ios","app":"x","count":3}`, 200, &many)
	if len(many) != 3 || many[0].Target == many[1].Target {
		t.Errorf("%+v", many)
	}
	if status, body, _, err := send(t.Context(), p, c, provider.FCM, "", ph.Target.Value); status != 200 {
		t.Fatal(status, body, err)
	}
	tell(t, c, "GET", url+"/phones/a", "", 200, &ph)
	if ph.Held != 1 || ph.Woken != 0 {
		t.Errorf("in Doze: %+v", ph)
	}
	tell(t, c, "PATCH", url+"/phones/a", `{"latency":"1s"}`, 200, &ph)
	if !ph.Switches.Doze || time.Duration(ph.Switches.Latency) != time.Second {
		t.Errorf("%+v", ph)
	}
	var clock struct {
		Now  time.Time
		Skew string
	}
	tell(t, c, "POST", url+"/clock", `{"advance":"60m","skew":"2h"}`, 200, &clock)
	if d := time.Until(clock.Now); d < 59*time.Minute || clock.Skew != "2h0m0s" {
		t.Errorf("%+v", clock)
	}
	if m := <-hooked; m["phone"] != "a" || m["nudge"] != "p.1" {
		t.Errorf("hooked %v", m)
	}
	var entries []provider.Entry
	tell(t, c, "GET", url+"/log?event=done&phone=a&wait=10s", "", 200, &entries)
	if len(entries) != 1 || entries[0].Nudge != "p.1" {
		t.Errorf("%+v", entries)
	}
	tell(t, c, "GET", url+"/log?event=done&since="+jsonOf(t, entries[0].N), "", 200, &entries)
	if len(entries) != 0 {
		t.Errorf("after it: %+v", entries)
	}
	old := ph.Target
	for _, act := range []string{"rotate", "reinstall", "launch", "uninstall", "restore"} {
		tell(t, c, "POST", url+"/phones/a/"+act, "", 200, &ph)
		if changed := ph.Target != old; changed != (act == "rotate" || act == "reinstall") {
			t.Errorf("%s: changed %v", act, changed)
		}
		old = ph.Target
	}

	var f provider.Fault
	tell(t, c, "POST", url+"/faults", `{"provider":"fcm","kind":"html","delay":"1ms"}`, 200, &f)
	if status, _, _, err := send(t.Context(), p, c, provider.FCM, "", ph.Target.Value); status != 502 {
		t.Error(status, err)
	}
	var list []provider.Fault
	tell(t, c, "GET", url+"/faults", "", 200, &list)
	if len(list) != 1 || list[0] != f {
		t.Errorf("%+v, and %+v was made", list, f)
	}
	tell(t, c, "DELETE", url+"/faults/"+jsonOf(t, f.ID), "", 200, nil)
	tell(t, c, "POST", url+"/faults", `{"provider":"fcm","kind":"html"}`, 200, nil)
	tell(t, c, "DELETE", url+"/faults", "", 200, nil)
	tell(t, c, "GET", url+"/faults", "", 200, &list)
	if len(list) != 0 {
		t.Errorf("%+v", list)
	}
	tell(t, c, "POST", url+"/lines/fcm/dead", "", 200, nil)
	if _, _, _, err := send(t.Context(), p, c, provider.FCM, "", ph.Target.Value); err == nil {
		t.Error("a dead line answers")
	}
	tell(t, c, "POST", url+"/goaway", `{"reason":"Shutdown"}`, 200, nil)
	var stats map[provider.Name]map[string]int64
	tell(t, c, "GET", url+"/stats", "", 200, &stats)
	if stats[provider.FCM]["held doze"] != 1 {
		t.Errorf("%v", stats)
	}

	for _, bad := range [][3]string{
		{"POST", "/phones", `{"platform":"ios"}`},
		{"POST", "/phones", `{"platform":"palm","app":"x"}`},
		{"POST", "/phones", `{"platform":"ios","app":"x","colour":"red"}`},
		{"POST", "/phones", `{"platform":"ios","app":"x","environment":"staging"}`},
		{"POST", "/phones", `{"platform":"ios","app":"x","id":"a"}`},
		{"POST", "/phones", `{"platform":"ios","app":"x","count":0}`},
		{"POST", "/phones", `{"platform":"ios","app":"x","wake_url":"http://192.0.2.1/"}`},
		{"POST", "/phones", `{"platform":"ios","app":"x","switches":{"duplicate":2}}`},
		{"PATCH", "/phones/a", `{"duplicate":2}`},
		{"PATCH", "/phones/a", `{"on_fire":true}`},
		{"POST", "/faults", `{"provider":"fcm","kind":"fire"}`},
		{"POST", "/lines/fcm/crooked", ``},
		{"POST", "/clock", `{"advance":"-1s"}`},
		{"POST", "/clock", `{"advance":"soon"}`},
		{"GET", "/log?since=x", ``},
		{"GET", "/log?wait=x", ``},
	} {
		tell(t, c, bad[0], url+bad[1], bad[2], 400, nil)
	}
	for _, none := range [][2]string{{"GET", "/phones/b"}, {"PATCH", "/phones/b"}, {"POST", "/phones/b/launch"}, {"POST", "/phones/a/dance"}, {"DELETE", "/faults/77"}, {"GET", "/nowhere"}} {
		tell(t, c, none[0], url+none[1], "", 404, nil)
	}
}

func jsonOf(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestStartRefuses(t *testing.T) {
	t.Parallel()
	for _, cfg := range []provider.Config{
		{FCMAddr: "0.0.0.0:0"},
		{ControlAddr: "nowhere"},
		{BadTokens: -1},
		{Teams: []provider.Team{{ID: "A", KeyID: "1"}, {ID: "B", KeyID: "1"}}},
	} {
		if p, err := provider.Start(t.Context(), cfg); err == nil {
			p.Close()
			t.Errorf("%+v was taken", cfg)
		}
	}
	p := start(t, provider.Config{})
	if _, err := provider.Start(t.Context(), provider.Config{ControlAddr: p.ControlURL[len("http://"):]}); err == nil {
		t.Error("an address in use was taken")
	}
}
