package apns_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"strings"
	"testing"
	"time"

	"github.com/nudgesync/nudge/clientsim/provider"
	"github.com/nudgesync/nudge/notify/push"
	"github.com/nudgesync/nudge/notify/push/apns"
)

func pkcs8(t *testing.T, key any) []byte {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

// A file that is no key is refused at start, in words for whoever configured it, and without its content.
func TestKeyFiles(t *testing.T) {
	big, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	other, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	for want, key := range map[string][]byte{
		"not PEM":    []byte("SECRET"),
		"not PEM ":   nil,
		"no ECDSA":   pkcs8(t, other),
		"not on":     pkcs8(t, big),
		"no ECDSA k": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte("SECRET")}),
	} {
		_, err := apns.NewTeam(apns.TeamConfig{ID: "TEAM000001", KeyID: "KEY0000001", Key: key})
		if err == nil || !strings.Contains(err.Error(), strings.TrimSpace(want)) || strings.Contains(err.Error(), "SECRET") {
			t.Errorf("%s: %v", want, err)
		}
	}
	if _, err := apns.NewTeam(apns.TeamConfig{Key: pkcs8(t, big)}); err == nil {
		t.Error("a team without an id is accepted")
	}
}

func TestConfig(t *testing.T) {
	for name, cfg := range map[string]apns.Config{
		"no team": {Environment: push.Production}, "environment": {Team: new(apns.Team), Environment: "prod"},
		"http": {Team: new(apns.Team), Environment: push.Sandbox, Endpoint: "http://127.0.0.1"},
	} {
		if _, err := apns.New(cfg); err == nil {
			t.Errorf("%s is accepted", name)
		}
	}
}

// A device of the other environment is never sent to, and a visible push has what Apple asks of one.
func TestSend(t *testing.T) {
	p, err := provider.Start(t.Context(), provider.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	key := p.APNsKeys[0]
	team, err := apns.NewTeam(apns.TeamConfig{ID: key.Team, KeyID: key.KeyID, Key: key.P8})
	if err != nil {
		t.Fatal(err)
	}
	s, err := apns.New(apns.Config{Team: team, Environment: push.Production, Endpoint: p.APNsURL, RootCAs: p.Roots()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	ph, err := p.AddPhone(provider.PhoneConfig{Platform: provider.IOS, App: "com.example.app"})
	if err != nil {
		t.Fatal(err)
	}
	m := push.Message{
		Nudge: "p.1", App: "com.example.app", Environment: push.Production, TTL: time.Hour,
		Target: push.Target{Kind: "token", Value: ph.Target().Value},
	}
	if a := s.Send(t.Context(), m); a.Outcome != push.Accepted || a.ID == "" {
		t.Errorf("silent: %+v", a)
	}
	m.Alert = &push.Alert{TitleLocKey: "T", BodyLocKey: "B"}
	if a := s.Send(t.Context(), m); a.Outcome != push.Accepted {
		t.Errorf("visible: %+v", a)
	}
	if _, err := p.Log().Wait(t.Context(), 0, func(e provider.Entry) bool { return e.Event == provider.EventShown }); err != nil {
		t.Error(err)
	}
	m.Environment = push.Sandbox
	if a := s.Send(t.Context(), m); a.Outcome != push.Fault || a.Reason != "environment" {
		t.Errorf("of the other environment: %+v", a)
	}
}
