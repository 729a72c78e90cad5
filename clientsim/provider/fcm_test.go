package provider_test

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	firebase "firebase.google.com/go/v4"
	"firebase.google.com/go/v4/messaging"
	"golang.org/x/oauth2"
	"golang.org/x/oauth2/google"
	jwtconfig "golang.org/x/oauth2/jwt"
	"google.golang.org/api/option"

	"github.com/nudgesync/nudge/clientsim/provider"
)

// plain is an HTTP client that trusts the providers.
func plain(t *testing.T, p *provider.Providers) *http.Client {
	t.Helper()
	tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: p.Roots()}, ForceAttemptHTTP2: true}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

// sdk is Firebase's client with the service account's credentials.
func sdk(t *testing.T, p *provider.Providers, account *provider.FCMAccount) *messaging.Client {
	t.Helper()
	ctx := context.WithValue(t.Context(), oauth2.HTTPClient, plain(t, p))
	config, err := google.JWTConfigFromJSON(account.JSON, "https://www.googleapis.com/auth/firebase.messaging")
	if err != nil {
		t.Fatal(err)
	}
	app, err := firebase.NewApp(ctx, &firebase.Config{ProjectID: account.Project},
		option.WithEndpoint(p.FCMURL+"/v1"), option.WithHTTPClient(config.Client(ctx)))
	if err != nil {
		t.Fatal(err)
	}
	c, err := app.Messaging(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestFCMSDK has the real SDK see what the service says, and judge it.
func TestFCMSDK(t *testing.T) {
	t.Parallel()
	p := start(t, provider.Config{Projects: []string{"demo", "other"}})
	heard := make(chan string, 1)
	ph := addPhone(t, p, provider.PhoneConfig{Platform: provider.Android, Wake: hear(heard)})
	foreign := addPhone(t, p, provider.PhoneConfig{Platform: provider.Android, Project: "other"})
	c := sdk(t, p, p.Accounts[0])
	ttl := time.Hour
	m := &messaging.Message{
		Token: ph.Target().Value, Data: map[string]string{"nudge": "p.1"},
		Android: &messaging.AndroidConfig{CollapseKey: "nudge", Priority: "normal", TTL: &ttl},
	}
	if _, err := c.Send(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	if nudge := <-heard; nudge != "p.1" {
		t.Errorf("the app heard %q", nudge)
	}
	m.Token = foreign.Target().Value
	if _, err := c.Send(t.Context(), m); !messaging.IsSenderIDMismatch(err) {
		t.Errorf("another project's token: %v", err)
	}
	m.Token = "short"
	if _, err := c.Send(t.Context(), m); !messaging.IsInvalidArgument(err) {
		t.Errorf("no token: %v", err)
	}
	ph.Uninstall()
	m.Token = ph.Target().Value
	if _, err := c.Send(t.Context(), m); !messaging.IsUnregistered(err) {
		t.Errorf("an uninstalled app's token: %v", err)
	}
	for reason, is := range map[string]func(error) bool{
		"THIRD_PARTY_AUTH_ERROR": messaging.IsThirdPartyAuthError, "QUOTA_EXCEEDED": messaging.IsQuotaExceeded,
		"INTERNAL": messaging.IsInternal,
	} {
		id := fault(t, p, provider.Fault{Provider: provider.FCM, Kind: provider.FaultAnswer, Reason: reason})
		if _, err := c.Send(t.Context(), m); !is(err) {
			t.Errorf("%s: %v", reason, err)
		}
		p.RemoveFault(id)
	}
}

// fcmSend posts a body and returns the status, Google's, the FcmError's code and the field that is named.
func fcmSend(t *testing.T, p *provider.Providers, c *http.Client, project, bearer, body string) (code int, status, reason, field, after string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, p.FCMURL+"/v1/projects/"+project+"/messages:send", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", bearer)
	res, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	var answer struct {
		Name  string
		Error struct {
			Status  string
			Details []struct {
				ErrorCode       string
				FieldViolations []struct{ Field string }
			}
		}
	}
	if err := json.NewDecoder(res.Body).Decode(&answer); err != nil {
		t.Fatal(err)
	}
	if (answer.Name == "") == (res.StatusCode == 200) {
		t.Errorf("%d with the name %q", res.StatusCode, answer.Name)
	}
	for _, d := range answer.Error.Details {
		reason += d.ErrorCode
		for _, f := range d.FieldViolations {
			field += f.Field
		}
	}
	return res.StatusCode, answer.Error.Status, reason, field, res.Header.Get("Retry-After")
}

func TestFCMChecksMessages(t *testing.T) {
	t.Parallel()
	p := start(t, provider.Config{FCMWithoutAuth: true})
	token := addPhone(t, p, provider.PhoneConfig{Platform: provider.Android}).Target().Value
	c := plain(t, p)
	big := strings.Repeat("x", 4092)
	tests := []struct {
		name, project, body   string
		code                  int
		status, reason, field string
	}{
		{name: "good", body: `{"message":{"token":"T","data":{"k":"v"},"android":{"ttl":"3600s","priority":"NORMAL"}}}`, code: 200},
		{name: "largest", body: `{"message":{"token":"T","data":{"data":"` + big + `"}}}`, code: 200},
		{name: "validate only", body: `{"validate_only":true,"message":{"token":"T"}}`, code: 200},
		{name: "too large", body: `{"message":{"token":"T","data":{"data":"` + big + `y"}}}`, code: 400, status: "INVALID_ARGUMENT", reason: "INVALID_ARGUMENT"},
		{name: "reserved key", body: `{"message":{"token":"T","data":{"google.x":"v"}}}`, code: 400, status: "INVALID_ARGUMENT", reason: "INVALID_ARGUMENT"},
		{name: "no target", body: `{"message":{}}`, code: 400, status: "INVALID_ARGUMENT", reason: "INVALID_ARGUMENT"},
		{name: "two targets", body: `{"message":{"token":"T","topic":"x"}}`, code: 400, status: "INVALID_ARGUMENT", reason: "INVALID_ARGUMENT"},
		{name: "malformed token", body: `{"message":{"token":"short"}}`, code: 400, status: "INVALID_ARGUMENT", reason: "INVALID_ARGUMENT"},
		{name: "number for text", body: `{"message":{"token":"T","data":{"k":1}}}`, code: 400, status: "INVALID_ARGUMENT", field: "message.data"},
		{name: "unknown key", body: `{"message":{"token":"T","urgent":true}}`, code: 400, status: "INVALID_ARGUMENT"},
		{name: "bad ttl", body: `{"message":{"token":"T","android":{"ttl":"1h"}}}`, code: 400, status: "INVALID_ARGUMENT", field: "message.android.ttl"},
		{name: "bad priority", body: `{"message":{"token":"T","android":{"priority":"5"}}}`, code: 400, status: "INVALID_ARGUMENT", field: "message.android.priority"},
		{name: "no JSON", body: `{`, code: 400, status: "INVALID_ARGUMENT"},
		{name: "unknown token", body: `{"message":{"token":"x:` + strings.Repeat("x", 140) + `"}}`, code: 404, status: "NOT_FOUND", reason: "UNREGISTERED"},
		{name: "unknown project", project: "none", body: `{"message":{"token":"T"}}`, code: 404, status: "NOT_FOUND"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			project := tt.project
			if project == "" {
				project = "demo"
			}
			code, status, reason, field, _ := fcmSend(t, p, c, project, "", strings.ReplaceAll(tt.body, `"T"`, `"`+token+`"`))
			if code != tt.code || status != tt.status || reason != tt.reason || field != tt.field {
				t.Errorf("%d %q %q %q", code, status, reason, field)
			}
		})
	}
	if got := p.Log().Stats()[provider.FCM][provider.EventWoken]; got != 2 {
		t.Errorf("%d messages arrived, want the two good ones", got)
	}
	res, err := c.Do(request(t, http.MethodPost, p.FCMURL+"/fcm/send", "")) // the legacy API, shut down
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	if res.StatusCode != 404 || !strings.HasPrefix(res.Header.Get("Content-Type"), "text/html") {
		t.Error(res.StatusCode, res.Header)
	}
}

func request(t *testing.T, method, url, body string) *http.Request {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	return req
}

func TestFCMQuotas(t *testing.T) {
	t.Parallel()
	p := start(t, provider.Config{FCMWithoutAuth: true})
	token := addPhone(t, p, provider.PhoneConfig{Platform: provider.Android}).Target().Value
	c := plain(t, p)
	collapsing := `{"message":{"token":"` + token + `","data":{"nudge":"n"},"android":{"collapse_key":"k"}}}`
	single := `{"message":{"token":"` + token + `","data":{"nudge":"n"}}}`
	wants := func(body string, want int, reason, after string) {
		t.Helper()
		code, _, got, _, retry := fcmSend(t, p, c, "demo", "", body)
		if code != want || got != reason || after != "" && retry != after {
			t.Fatalf("%d %q, Retry-After %q", code, got, retry)
		}
	}
	for range 20 {
		wants(collapsing, 200, "", "")
	}
	wants(collapsing, 429, "QUOTA_EXCEEDED", "")
	wants(single, 200, "", "") // what does not collapse has room
	p.Advance(3 * time.Minute)
	wants(collapsing, 200, "", "")
	wants(collapsing, 429, "QUOTA_EXCEEDED", "")
	for sent := 0; ; sent++ {
		if code, _, _, _, retry := fcmSend(t, p, c, "demo", "", single); code == 429 {
			if sent < 219 || retry != "1" {
				t.Errorf("after %d messages, Retry-After %q", sent, retry)
			}
			break
		}
		if sent == 5000 {
			t.Fatal("no limit")
		}
	}
	p.Advance(time.Minute)
	wants(single, 200, "", "")
}

func TestFCMAuthorization(t *testing.T) {
	t.Parallel()
	p := start(t, provider.Config{Projects: []string{"demo", "other"}})
	token := addPhone(t, p, provider.PhoneConfig{Platform: provider.Android}).Target().Value
	c := plain(t, p)
	body := `{"message":{"token":"` + token + `"}}`
	ctx := context.WithValue(t.Context(), oauth2.HTTPClient, c)
	bearer := func(account *provider.FCMAccount, edit func(*jwtconfig.Config)) (string, error) {
		config, err := google.JWTConfigFromJSON(account.JSON, "https://www.googleapis.com/auth/firebase.messaging")
		if err != nil {
			t.Fatal(err)
		}
		edit(config)
		access, err := config.TokenSource(ctx).Token()
		if err != nil {
			return "", err
		}
		return "Bearer " + access.AccessToken, nil
	}
	same := func(*jwtconfig.Config) {}
	own, err := bearer(p.Accounts[0], same)
	if err != nil {
		t.Fatal(err)
	}
	others, err := bearer(p.Accounts[1], same)
	if err != nil {
		t.Fatal(err)
	}
	wants := func(bearer string, want int, status string) {
		t.Helper()
		if code, got, reason, _, _ := fcmSend(t, p, c, "demo", bearer, body); code != want || got != status || reason != "" {
			t.Errorf("%d %q %q, want %d %q", code, got, reason, want, status)
		}
	}
	wants(own, 200, "")
	wants("", 401, "UNAUTHENTICATED")
	wants("Bearer ya29.x", 401, "UNAUTHENTICATED")
	wants(others, 403, "PERMISSION_DENIED")
	p.Skew(61 * time.Minute)
	wants(own, 401, "UNAUTHENTICATED") // it has expired
	if _, err := bearer(p.Accounts[0], same); err == nil {
		t.Error("an assertion an hour old was taken")
	}
	p.Skew(0)
	for name, edit := range map[string]func(*jwtconfig.Config){
		"another's key":  func(c *jwtconfig.Config) { c.Email = p.Accounts[1].Email },
		"no account":     func(c *jwtconfig.Config) { c.Email = "nobody@example.com" },
		"other audience": func(c *jwtconfig.Config) { c.Audience = "https://example.com" },
		"other scope":    func(c *jwtconfig.Config) { c.Scopes = []string{"https://www.googleapis.com/auth/drive"} },
		"too long":       func(c *jwtconfig.Config) { c.Expires = 3 * time.Hour },
	} {
		if _, err := bearer(p.Accounts[0], edit); err == nil || !strings.Contains(err.Error(), "invalid_grant") {
			t.Errorf("%s: %v", name, err)
		}
	}
	fault(t, p, provider.Fault{Provider: provider.OAuth, Kind: provider.FaultHTML})
	if _, err := bearer(p.Accounts[0], same); err == nil {
		t.Error("a proxy's page was a token")
	}
}
