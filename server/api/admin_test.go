package api_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/nudgesync/nudge/notify/hub"
	"github.com/nudgesync/nudge/server/api"
	"github.com/nudgesync/nudge/server/wire"
)

func TestHealth(t *testing.T) {
	var waiting, still error
	w := tcp(t, func(c *api.Config) {
		c.Ready = func() error { return waiting }
		c.Waiting = func() error { return still }
	})
	for _, c := range []struct {
		path           string
		waiting, still error
		status         int
		body           string
	}{
		{"/livez", errors.New("feed"), nil, 200, `{"status":"ok"}`},
		{"/readyz", nil, nil, 200, `{"status":"ready"}`},
		{"/readyz", nil, errors.New("snapshots"), 200, `{"status":"ready","waiting_for":["snapshots"]}`},
		{"/readyz", errors.New("feed"), nil, 503, `{"status":"starting","waiting_for":["feed"]}`},
		{"/readyz", errors.Join(errors.New("feed"), errors.New("tail")), nil, 503, `{"status":"starting","waiting_for":["feed","tail"]}`},
	} {
		waiting, still = c.waiting, c.still
		res, body := w.ask("GET", c.path, "", "Authorization", "")
		if res.StatusCode != c.status || strings.TrimSpace(body) != c.body {
			t.Errorf("%s: %d %s", c.path, res.StatusCode, body)
		}
		admin := httptest.NewRecorder()
		r := httptest.NewRequestWithContext(t.Context(), "GET", c.path, nil)
		r.Host = "127.0.0.1:8081"
		w.api.Admin().ServeHTTP(admin, r)
		if admin.Code != c.status || strings.TrimSpace(admin.Body.String()) != c.body {
			t.Errorf("admin %s: %d %s", c.path, admin.Code, admin.Body)
		}
	}
}

func TestAdmin(t *testing.T) {
	trimmed := 0
	var trimErr error
	w := tcp(t, func(c *api.Config) {
		c.AdminHosts = []string{"nudge.internal"}
		c.MetricsHandler = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "m 1\n") })
		c.Trim = func(context.Context) error { trimmed++; return trimErr }
	})
	admin := w.api.Admin()
	ask := func(method, path, host string, headers ...string) (*http.Response, string) {
		r := httptest.NewRequestWithContext(t.Context(), method, path, nil)
		r.Host = host
		for i := 0; i < len(headers); i += 2 {
			r.Header.Set(headers[i], headers[i+1])
		}
		rec := httptest.NewRecorder()
		admin.ServeHTTP(rec, r)
		return rec.Result(), rec.Body.String()
	}
	for _, host := range []string{"127.0.0.1:8081", "localhost:8081", "localhost", "[::1]:8081", "10.0.0.7:8081", "NUDGE.internal:8081"} {
		if res, body := ask("GET", "/metrics", host); res.StatusCode != 200 || body != "m 1\n" {
			t.Errorf("%s: %d %s", host, res.StatusCode, body)
		}
	}
	const own = "127.0.0.1:8081"
	for _, c := range []struct {
		host    string
		headers []string
	}{
		{"rebound.example:8081", nil},
		{"", nil},
		{"localhost.evil.example", nil},
		{own, []string{"Origin", "https://evil.example"}},
		{own, []string{"Origin", "null"}},
		{own, []string{"Origin", "http://127.0.0.1:8080"}},
		{own, []string{"Sec-Fetch-Site", "cross-site"}},
		{own, []string{"Sec-Fetch-Site", "same-site"}},
	} {
		res, body := ask("POST", "/v1/admin/log/trim", c.host, c.headers...)
		wantProblem(t, res, body, 403, wire.OriginForbidden)
	}
	if trimmed != 0 {
		t.Errorf("trimmed %d times", trimmed)
	}
	if res, _ := ask("POST", "/v1/admin/log/trim", own, "Origin", "http://"+own, "Sec-Fetch-Site", "same-origin"); res.StatusCode != 204 || trimmed != 1 {
		t.Errorf("trim: %d, %d", res.StatusCode, trimmed)
	}
	trimErr = errors.New("secret")
	res, body := ask("POST", "/v1/admin/log/trim", own)
	wantProblem(t, res, body, 500, wire.Internal)
	res, body = ask("GET", "/v1/admin/log/trim", own)
	wantProblem(t, res, body, 405, wire.RequestInvalid)
	res, body = ask("GET", "/v1/changes", own)
	wantProblem(t, res, body, 404, wire.NotFound)
	if res, _ := ask("GET", "/debug/pprof/goroutine?debug=1", own); res.StatusCode != 200 {
		t.Errorf("pprof: %d", res.StatusCode)
	}
	// None of it is open to devices.
	for _, path := range []string{"/metrics", "/debug/pprof/", "/v1/admin/log/trim"} {
		res, body := w.ask("GET", path, "")
		wantProblem(t, res, body, 404, wire.NotFound)
	}
}

func TestNewRefuses(t *testing.T) {
	_, err := api.New(api.Config{})
	for _, want := range []string{"no Engine", "no Verifier", "no Hub", "no Log"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not say %q", err, want)
		}
	}
	for _, origin := range []string{"app.example", "https://app.example/", "https://*.example", "*", "https://"} {
		_, err := api.New(api.Config{
			Engine: &engine{}, Hub: hub.New(), Log: slog.New(slog.DiscardHandler), Origins: []string{origin},
		})
		if err == nil || !strings.Contains(err.Error(), "origin") {
			t.Errorf("origin %q: %v", origin, err)
		}
	}
}
