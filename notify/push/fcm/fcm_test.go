package fcm_test

import (
	"strings"
	"testing"
	"time"

	"github.com/nudgesync/nudge/clientsim/provider"
	"github.com/nudgesync/nudge/notify/push"
	"github.com/nudgesync/nudge/notify/push/fcm"
)

// Credentials that are none, or another project's, are refused at start, without their content.
func TestCredentials(t *testing.T) {
	for name, cfg := range map[string]fcm.Config{
		"nothing":       {Project: "demo"},
		"no JSON":       {Project: "demo", Credentials: []byte("SECRET")},
		"no type":       {Project: "demo", Credentials: []byte(`{"private_key":"SECRET"}`)},
		"unknown type":  {Project: "demo", Credentials: []byte(`{"type":"nonsense","private_key":"SECRET"}`)},
		"no key":        {Project: "demo", Credentials: []byte(`{"type":"service_account","private_key":"SECRET","project_id":"demo"}`)},
		"other project": {Project: "demo", Credentials: []byte(`{"type":"service_account","project_id":"other","private_key":"SECRET"}`)},
		"no project":    {},
		"open":          {Project: "demo", WithoutAuthentication: true},
		"open, far":     {Project: "demo", WithoutAuthentication: true, Endpoint: "https://fcm.example.com"},
		"http, far":     {Project: "demo", WithoutAuthentication: true, Endpoint: "http://fcm.example.com"},
	} {
		if _, err := fcm.New(t.Context(), cfg); err == nil || strings.Contains(err.Error(), "SECRET") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestSend(t *testing.T) {
	p, err := provider.Start(t.Context(), provider.Config{FCMWithoutAuth: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	s, err := fcm.New(t.Context(), fcm.Config{Project: "demo", WithoutAuthentication: true, Endpoint: p.FCMURL, RootCAs: p.Roots()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	ph, err := p.AddPhone(provider.PhoneConfig{Platform: provider.Android, App: "com.example.app"})
	if err != nil {
		t.Fatal(err)
	}
	m := push.Message{Nudge: "p.1", App: "com.example.app", TTL: time.Hour, Target: push.Target{Kind: "token", Value: ph.Target().Value}}
	for _, alert := range []*push.Alert{nil, {TitleLocKey: "T", BodyLocKey: "B"}} {
		m.Alert = alert
		if a := s.Send(t.Context(), m); a.Outcome != push.Accepted || a.ID == "" {
			t.Errorf("%+v: %+v", alert, a)
		}
	}
}
