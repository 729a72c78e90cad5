package provider_test

import (
	"crypto/tls"
	"testing"

	"github.com/sideshow/apns2"
	"github.com/sideshow/apns2/token"
	"golang.org/x/net/http2"

	"github.com/nudgesync/nudge/clientsim/provider"
)

func start(t *testing.T, cfg provider.Config) *provider.Providers {
	t.Helper()
	p, err := provider.Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

func TestAPNsSDK(t *testing.T) {
	t.Parallel()
	p := start(t, provider.Config{})
	ph, err := p.AddPhone(provider.PhoneConfig{Platform: provider.IOS, App: "com.example.app"})
	if err != nil {
		t.Fatal(err)
	}
	key, err := token.AuthKeyFromBytes(p.APNsKeys[0].P8)
	if err != nil {
		t.Fatal(err)
	}
	c := apns2.NewTokenClient(&token.Token{AuthKey: key, KeyID: p.APNsKeys[0].KeyID, TeamID: p.APNsKeys[0].Team})
	c.Host = p.APNsURL
	tr := c.HTTPClient.Transport.(*http2.Transport)
	tr.TLSClientConfig = &tls.Config{RootCAs: p.Roots()}
	t.Cleanup(tr.CloseIdleConnections)
	n := &apns2.Notification{
		DeviceToken: ph.Target().Value, Topic: "com.example.app", PushType: apns2.PushTypeBackground, Priority: 5,
		Payload: []byte(`{"aps":{"content-available":1},"nudge":"p.1"}`),
	}
	for range 5 {
		res, err := c.PushWithContext(t.Context(), n)
		if err != nil || !res.Sent() {
			t.Fatal(res, err)
		}
	}
	for _, e := range p.Log().Since(0) {
		t.Logf("%+v", e)
	}
}
