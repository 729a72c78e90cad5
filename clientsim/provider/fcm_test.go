package provider_test

import (
	"context"
	"crypto/tls"
	"net/http"
	"testing"
	"time"

	firebase "firebase.google.com/go/v4"
	"firebase.google.com/go/v4/messaging"
	"golang.org/x/oauth2"
	"golang.org/x/oauth2/google"
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

func TestFCMSDK(t *testing.T) {
	t.Parallel()
	p := start(t, provider.Config{})
	ph, err := p.AddPhone(provider.PhoneConfig{Platform: provider.Android, App: "com.example.app"})
	if err != nil {
		t.Fatal(err)
	}
	c := sdk(t, p, p.Accounts[0])
	ttl := time.Hour
	m := &messaging.Message{
		Token: ph.Target().Value, Data: map[string]string{"nudge": "p.1"},
		Android: &messaging.AndroidConfig{CollapseKey: "nudge", Priority: "normal", TTL: &ttl},
	}
	if _, err := c.Send(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	for _, e := range p.Log().Since(0) {
		t.Logf("%+v", e)
	}
	ph.Uninstall()
	if _, err := c.Send(t.Context(), m); !messaging.IsUnregistered(err) {
		t.Errorf("an uninstalled app's token: %v", err)
	}
}
