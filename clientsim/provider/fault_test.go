package provider_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/nudgesync/nudge/clientsim/provider"
)

func fault(t *testing.T, p *provider.Providers, f provider.Fault) int64 {
	t.Helper()
	id, err := p.AddFault(f)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// send posts a good APNs push or FCM message, within ctx.
func send(ctx context.Context, p *provider.Providers, c *http.Client, name provider.Name, bearer, token string) (int, string, http.Header, error) {
	url, body := p.APNsURL+"/3/device/"+token, background
	if name == provider.FCM {
		url, body = p.FCMURL+"/v1/projects/demo/messages:send", `{"message":{"token":"`+token+`","data":{"nudge":"p.1"}}}`
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		return 0, "", nil, err
	}
	for k, v := range map[string]string{
		"authorization": bearer, "apns-topic": app, "apns-push-type": "background", "apns-priority": "5",
	} {
		req.Header.Set(k, v)
	}
	res, err := c.Do(req)
	if err != nil {
		return 0, "", nil, err
	}
	text, err := io.ReadAll(res.Body)
	return res.StatusCode, string(text), res.Header, errors.Join(err, res.Body.Close())
}

func TestFaults(t *testing.T) {
	t.Parallel()
	p := start(t, provider.Config{FCMWithoutAuth: true})
	devices := map[provider.Name]string{
		provider.APNs: addPhone(t, p, provider.PhoneConfig{Platform: provider.IOS}).Target().Value,
		provider.FCM:  addPhone(t, p, provider.PhoneConfig{Platform: provider.Android}).Target().Value,
	}
	bearer := newApple(t, p).bearer
	const broken = 0 // no answer
	tests := []struct {
		fault  provider.Fault
		status int
		body   string
		after  string
	}{
		{provider.Fault{Provider: provider.APNs, Kind: "answer", Reason: "TooManyRequests", After: provider.Duration(90 * time.Second)}, 429, "TooManyRequests", "90"},
		{provider.Fault{Provider: provider.APNs, Kind: "answer", Reason: "Unregistered"}, 410, `"timestamp":1`, ""},
		{provider.Fault{Provider: provider.APNs, Kind: "answer", Reason: "New", Status: 418}, 418, "New", ""},
		{provider.Fault{Provider: provider.APNs, Kind: "html"}, 502, "<html>", ""},
		{provider.Fault{Provider: provider.APNs, Kind: "garbage"}, 200, "not json", ""},
		{provider.Fault{Provider: provider.APNs, Kind: "slow", Delay: provider.Duration(time.Millisecond)}, 200, "", ""},
		{provider.Fault{Provider: provider.APNs, Kind: "reset"}, broken, "", ""},
		{provider.Fault{Provider: provider.APNs, Kind: "cut"}, broken, "", ""},
		{provider.Fault{Provider: provider.FCM, Kind: "answer", Reason: "UNAVAILABLE", After: provider.Duration(1500 * time.Millisecond)}, 503, "UNAVAILABLE", "2"},
		{provider.Fault{Provider: provider.FCM, Kind: "answer", Reason: "THIRD_PARTY_AUTH_ERROR"}, 401, `"errorCode":"THIRD_PARTY_AUTH_ERROR"`, ""},
		{provider.Fault{Provider: provider.FCM, Kind: "answer", Reason: "INTERNAL", Status: 502}, 502, "INTERNAL", ""},
		{provider.Fault{Provider: provider.FCM, Kind: "html", Status: 404}, 404, "<html>", ""},
		{provider.Fault{Provider: provider.FCM, Kind: "garbage"}, 200, "not json", ""},
		{provider.Fault{Provider: provider.FCM, Kind: "reset"}, broken, "", ""},
		{provider.Fault{Provider: provider.FCM, Kind: "cut"}, broken, "", ""},
	}
	for _, tt := range tests {
		name := tt.fault.Provider
		id := fault(t, p, tt.fault)
		c := plain(t, p)
		status, body, head, err := send(t.Context(), p, c, name, bearer, devices[name])
		if status != tt.status || !strings.Contains(body, tt.body) || head.Get("Retry-After") != tt.after || (err != nil) != (tt.status == broken) {
			t.Errorf("%+v: %d %q %q %v", tt.fault, status, body, head.Get("Retry-After"), err)
		}
		if !p.RemoveFault(id) || p.RemoveFault(id) {
			t.Error("a fault is removed once")
		}
		if status, body, _, err := send(t.Context(), p, c, name, bearer, devices[name]); status != 200 || err != nil {
			t.Errorf("after %+v: %d %q %v", tt.fault, status, body, err)
		}
	}
}

func TestFaultHangsOneRequestOnly(t *testing.T) {
	t.Parallel()
	p := start(t, provider.Config{FCMWithoutAuth: true})
	token := addPhone(t, p, provider.PhoneConfig{Platform: provider.Android}).Target().Value
	fault(t, p, provider.Fault{Provider: provider.FCM, Kind: provider.FaultHang, Times: 1})
	c := plain(t, p)
	ctx, cancel := context.WithCancel(t.Context())
	over := make(chan error, 1)
	go func() {
		_, _, _, err := send(ctx, p, c, provider.FCM, "", token)
		over <- err
	}()
	if _, err := p.Log().Wait(t.Context(), 0, func(e provider.Entry) bool { return e.Event == provider.EventFault }); err != nil {
		t.Fatal(err)
	}
	if status, body, _, err := send(t.Context(), p, c, provider.FCM, "", token); status != 200 {
		t.Error(status, body, err)
	}
	cancel()
	if err := <-over; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestFaultConditions(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name  string
		fault provider.Fault
		want  string // of ten requests, those that fail
	}{
		{"all", provider.Fault{}, "xxxxxxxxxx"},
		{"other token", provider.Fault{Token: "-"}, ".........."},
		{"from", provider.Fault{From: 9}, "........xx"},
		{"to", provider.Fault{To: 1}, "x........."},
		{"times", provider.Fault{From: 2, Times: 3}, ".xxx......"},
		{"rate", provider.Fault{Rate: 0.5}, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			p := start(t, provider.Config{FCMWithoutAuth: true, Seed: 3})
			token := addPhone(t, p, provider.PhoneConfig{Platform: provider.Android}).Target().Value
			tt.fault.Provider, tt.fault.Kind, tt.fault.Reason = provider.FCM, provider.FaultAnswer, "INTERNAL"
			fault(t, p, tt.fault)
			c := plain(t, p)
			var got strings.Builder
			for range 10 {
				status, _, _, err := send(t.Context(), p, c, provider.FCM, "", token)
				if err != nil {
					t.Fatal(err)
				}
				got.WriteString(map[int]string{200: ".", 500: "x"}[status])
			}
			if n := strings.Count(got.String(), "x"); tt.want == "" && (n == 0 || n == 10) || tt.want != "" && got.String() != tt.want {
				t.Errorf("%s, want %s", got.String(), tt.want)
			}
		})
	}
	p := start(t, provider.Config{})
	for _, f := range []provider.Fault{
		{Provider: "telegram", Kind: "html"},
		{Provider: provider.FCM, Kind: "fire"},
		{Provider: provider.FCM, Kind: "answer", Reason: "Unregistered"},
		{Provider: provider.FCM, Kind: "goaway"},
		{Provider: provider.FCM, Kind: "html", Status: 42},
		{Provider: provider.FCM, Kind: "html", Rate: 2},
		{Provider: provider.FCM, Kind: "html", Delay: -1},
	} {
		if _, err := p.AddFault(f); err == nil {
			t.Errorf("%+v was taken", f)
		}
	}
}

func TestLines(t *testing.T) {
	t.Parallel()
	p := start(t, provider.Config{FCMWithoutAuth: true})
	devices := map[provider.Name]string{
		provider.APNs: addPhone(t, p, provider.PhoneConfig{Platform: provider.IOS}).Target().Value,
		provider.FCM:  addPhone(t, p, provider.PhoneConfig{Platform: provider.Android}).Target().Value,
	}
	bearer := newApple(t, p).bearer
	for name, device := range devices {
		c := plain(t, p)
		works := func(ctx context.Context, c *http.Client) error {
			_, _, _, err := send(ctx, p, c, name, bearer, device)
			return err
		}
		line := func(l provider.Line) {
			t.Helper()
			if err := p.SetLine(name, l); err != nil {
				t.Fatal(err)
			}
		}
		if err := works(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		line(provider.LineDead)
		if err := works(t.Context(), c); err == nil {
			t.Errorf("%s: dead, and answers", name)
		}
		line(provider.LineUp)
		if err := works(t.Context(), c); err != nil {
			t.Errorf("%s: up again: %v", name, err)
		}
		line(provider.LineSilent)
		for _, client := range []*http.Client{c, plain(t, p)} { // on an old connection, and on none
			ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
			if err := works(ctx, client); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%s: silent, and answers: %v", name, err)
			}
			cancel()
		}
		line(provider.LineUp)
		if err := works(t.Context(), plain(t, p)); err != nil {
			t.Errorf("%s: heard again: %v", name, err)
		}
	}
	if err := p.SetLine("telegram", provider.LineUp); err == nil {
		t.Error("a line of no provider")
	}
	if err := p.SetLine(provider.FCM, "crooked"); err == nil {
		t.Error("a line that is none")
	}
}
