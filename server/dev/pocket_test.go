package dev_test

import (
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nudgesync/nudge/clientsim/provider"
	"github.com/nudgesync/nudge/server/wire"
)

// pocket is what the backend says of a device's phone.
func (b *backend) pocket(t *testing.T, method, token, body string) (target string, answer map[string]any) {
	t.Helper()
	status, answer := b.call(t, method, "/demo/pocket", token, body)
	if status != http.StatusOK {
		t.Fatalf("%s %s: %d %v", method, body, status, answer)
	}
	target, _ = answer["target"].(map[string]any)["value"].(string)
	return target, answer
}

// A device has one phone at a time. Another one has another target, and the first one's is dead.
func TestPocketIsOnePhone(t *testing.T) {
	b := newBackend(t)
	token := b.sign("7", "pocket-1", time.Hour)
	iPhone, first := b.pocket(t, "PUT", token, `{"platform":"ios"}`)
	if first["road"] != wire.RoadAPNs || first["environment"] != wire.Production {
		t.Errorf("got %v", first)
	}
	if again, answer := b.pocket(t, "PUT", token, `{"platform":"ios"}`); again != iPhone || answer["run"] != first["run"] {
		t.Errorf("asked again, it is another phone: %v", answer)
	}
	android, answer := b.pocket(t, "PUT", token, `{"platform":"android"}`)
	if android == iPhone || answer["road"] != wire.RoadFCM {
		t.Errorf("got %v", answer)
	}
	gone := func() (n int) {
		for _, e := range b.phones.Log().Since(0) {
			if e.Event == provider.EventToken && e.Phone == "pocket-1.ios" && e.Reason == "uninstalled" {
				n++
			}
		}
		return n
	}
	if n := gone(); n != 1 {
		t.Errorf("the iPhone's app was uninstalled %d times", n)
	}
	if back, _ := b.pocket(t, "PUT", token, `{"platform":"ios"}`); back == iPhone {
		t.Error("it has the target that is dead")
	}
	if other, _ := b.pocket(t, "PUT", b.sign("7", "pocket-2", time.Hour), `{"platform":"ios"}`); other == iPhone || gone() != 1 {
		t.Error("two devices share a phone")
	}
}

func TestPocketSwitches(t *testing.T) {
	b := newBackend(t)
	token := b.sign("7", "pocket-1", time.Hour)
	b.pocket(t, "PUT", token, `{"platform":"android"}`)
	phone := b.phones.Phone("pocket-1.android")
	for _, c := range []struct {
		body string
		want provider.Switches
	}{
		{`{"offline":true,"doze":true}`, provider.Switches{Offline: true, Doze: true}},
		{`{"offline":false,"force_quit":true}`, provider.Switches{Doze: true, ForceQuit: true}},
		{`{"open":true}`, provider.Switches{Doze: true, Foreground: true}}, // which is the end of force-quit
		{`{"open":false,"low_power":true,"no_background":true}`, provider.Switches{Doze: true, LowPower: true, NoBackground: true}},
	} {
		_, answer := b.pocket(t, "PATCH", token, c.body)
		if got := phone.Switches(); got != c.want {
			t.Errorf("after %s: %+v, want %+v", c.body, got, c.want)
		}
		if s, _ := answer["switches"].(map[string]any); s["doze"] != true || s["open"] != c.want.Foreground || s["force_quit"] != c.want.ForceQuit {
			t.Errorf("%s is answered with %v", c.body, answer)
		}
	}
}

// An hour later the phones' clock has moved, and what nudge has put off is due an hour earlier.
func TestPocketAnHourLater(t *testing.T) {
	b := newBackend(t)
	token := b.sign("7", "pocket-1", time.Hour)
	b.pocket(t, "PUT", token, `{"platform":"ios"}`)
	for _, device := range []string{"pocket-1", "pocket-2"} {
		exec(t, b.conn, `insert into nudge.devices (device, user_id, road, target, target_hash, app, environment, app_version, registered_at)
			values ($1, '7', 'apns', 'x', convert_to($1, 'UTF8'), 'app', 'production', '1', now())`, device)
		exec(t, b.conn, `insert into nudge.due (device, user_id, road, app, environment, due_epoch, due_lsn, due_seq, next_at, not_before)
			values ($1, '7', 'apns', 'app', 'production', 1, 1, 1, '2026-01-01 12:00Z', '2026-01-01 12:20Z')`, device)
	}
	before := b.phones.Now()
	if status, answer := b.call(t, "POST", "/demo/pocket/later", token, ""); status != http.StatusOK {
		t.Fatal(answer)
	}
	if passed := b.phones.Now().Sub(before); passed < time.Hour {
		t.Errorf("the phones are %v later", passed)
	}
	got := one[string](t, b.conn, `select string_agg(to_char(next_at at time zone 'UTC', 'HH24:MI') || ' ' || to_char(not_before at time zone 'UTC', 'HH24:MI'), ', ' order by device) from nudge.due`)
	if want := "11:00 11:20, 12:00 12:20"; got != want {
		t.Errorf("deadlines %s, want %s", got, want)
	}
}

// The log waits for what the phone does, tells of no other phone, and ends when the demo does.
func TestPocketLog(t *testing.T) {
	b := newBackend(t)
	token := b.sign("7", "pocket-1", time.Hour)
	b.pocket(t, "PUT", token, `{"platform":"ios"}`)
	b.pocket(t, "PUT", b.sign("7", "pocket-2", time.Hour), `{"platform":"ios"}`)
	b.Client().Timeout = 8 * time.Second // less than it would wait
	var waiting sync.WaitGroup
	waiting.Go(func() {
		status, answer := b.call(t, "GET", "/demo/pocket/log?since=0", token, "")
		if entries, _ := answer["entries"].([]any); status != http.StatusOK || len(entries) != 0 || answer["since"] == 0.0 {
			t.Errorf("got %d %v", status, answer)
		}
	})
	b.stop() // before or while it waits: it is answered at once
	waiting.Wait()
}

func TestPocketRefuses(t *testing.T) {
	b := newBackend(t)
	good, unbound := b.sign("7", "pocket-1", time.Hour), b.sign("7", "", time.Hour)
	b.pocket(t, "PUT", good, `{"platform":"ios"}`)
	for name, c := range map[string]struct {
		method, path, token, body string
		status                    int
		code                      wire.Code
	}{
		"no token":                {"PUT", "", "", `{"platform":"ios"}`, 401, wire.TokenMissing},
		"a token of no device":    {"PUT", "", unbound, `{"platform":"ios"}`, 403, wire.DeviceMismatch},
		"a browser in the pocket": {"PUT", "", good, `{"platform":"browser"}`, 400, wire.RequestInvalid},
		"no body":                 {"PUT", "", good, ``, 400, wire.RequestInvalid},
		"a long body":             {"PUT", "", good, `{"platform":"` + strings.Repeat("x", 2000) + `"}`, 413, wire.TooLarge},
		"an unknown switch":       {"PATCH", "", good, `{"latency":"1s"}`, 400, wire.RequestInvalid},
		"a device with no phone":  {"PATCH", "", b.sign("7", "pocket-9", time.Hour), `{"offline":true}`, 404, wire.NotFound},
		"no hour for no phone":    {"POST", "/later", b.sign("7", "pocket-9", time.Hour), ``, 404, wire.NotFound},
		"a log since never":       {"GET", "/log", good, ``, 400, wire.RequestInvalid},
		"a log since before":      {"GET", "/log?since=-1", good, ``, 400, wire.RequestInvalid},
	} {
		t.Run(name, func(t *testing.T) {
			status, answer := b.call(t, c.method, "/demo/pocket"+c.path, c.token, c.body)
			if status != c.status || answer["code"] != string(c.code) {
				t.Errorf("got %d %v, want %d %s", status, answer, c.status, c.code)
			}
		})
	}
	if b.phones.Phone("pocket-1.browser") != nil || b.phones.Phone("pocket-1.ios").Switches() != (provider.Switches{}) {
		t.Error("a refused request did something")
	}
}
