package main

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"

	"github.com/nudgesync/nudge/internal/bench"
	"github.com/nudgesync/nudge/notify/push"
	"github.com/nudgesync/nudge/notify/push/apns"
	"github.com/nudgesync/nudge/notify/push/fcm"
	"github.com/nudgesync/nudge/notify/push/webpush"
)

const app = "com.example.app"

// road is a provider, as the store, clientsim's phones and its addresses name it.
type road struct{ name, platform string }

// allRoads are the providers: the i-th device has the i-th, in turn.
func allRoads() [roads]road {
	return [roads]road{{push.APNs, "ios"}, {push.FCM, "android"}, {push.WebPush, "browser"}}
}

// addresses are where the providers are, as clientsim prints them, and what their senders need.
type addresses struct {
	APNs    string `json:"apns"`
	FCM     string `json:"fcm"`
	WebPush string `json:"webpush"`
	Control string `json:"control"`
	Teams   []struct {
		Team  string `json:"team"`
		KeyID string `json:"key_id"`
	} `json:"teams"`
	Files struct {
		CA       string            `json:"ca"`
		APNsKeys map[string]string `json:"apns_keys"`
		Accounts map[string]string `json:"service_accounts"`
		VAPID    string            `json:"vapid"`
	} `json:"files"`
}

// providers are clientsim's, at work.
type providers struct {
	*bench.Process

	addresses
}

func openProviders(ctx context.Context, clientsim string) (*providers, error) {
	p, err := bench.Start(exec.CommandContext(ctx, clientsim, "providers", "--json"), nil)
	if err != nil {
		return nil, err
	}
	out := &providers{Process: p}
	if err := json.Unmarshal([]byte(p.First), &out.addresses); err != nil {
		_ = p.Stop()
		return nil, fmt.Errorf("clientsim providers said %.200q: %w", p.First, err)
	}
	return out, nil
}

// ask calls the control API.
func (p *providers) ask(ctx context.Context, path string, body, answer any) error {
	text, err := json.Marshal(body)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, p.Control+path, bytes.NewReader(text))
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("providers' %s: %w", path, err)
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("providers' %s: %s", path, resp.Status)
	}
	return json.NewDecoder(resp.Body).Decode(answer)
}

// line sets a provider's network: up, silent or dead.
func (p *providers) line(ctx context.Context, road, line string) error {
	var none json.RawMessage
	return p.ask(ctx, "/lines/"+road+"/"+line, struct{}{}, &none)
}

// target is a device's.
type target struct {
	Road   string
	Value  string
	P256dh string
	Auth   string
}

// message is a push to the device, as the dispatcher would ask for it.
func (t target) message(nudge string) push.Message {
	m := push.Message{Nudge: nudge, App: app, Urgency: push.Now, TTL: day, Target: push.Target{Kind: "token", Value: t.Value, P256dh: t.P256dh, Auth: t.Auth}}
	switch t.Road {
	case push.APNs:
		m.Environment = push.Production
	case push.WebPush:
		m.Target.Kind = "webpush"
	}
	return m
}

// targets makes n phones, the roads in turn.
func (p *providers) targets(ctx context.Context, n int) ([]target, error) {
	out := make([]target, n)
	for i, road := range allRoads() {
		ask := map[string]any{
			"platform": road.platform, "app": app, "count": (n - i + roads - 1) / roads, "switches": map[string]bool{"foreground": true},
		}
		var phones []struct{ Target target }
		if err := p.ask(ctx, "/phones", ask, &phones); err != nil {
			return nil, err
		}
		for k, phone := range phones {
			phone.Target.Road = road.name
			out[k*roads+i] = phone.Target
		}
	}
	return out, nil
}

// sender is one that can be closed.
type sender interface {
	push.Sender
	Close()
}

// sender is a road's, over the provider's SDK. A recorder may stand for the provider.
func (a *addresses) sender(ctx context.Context, road string, workers int, r *recorder) (sender, error) {
	pem, err := os.ReadFile(a.Files.CA)
	if err != nil {
		return nil, fmt.Errorf("trust the providers: %w", err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	endpoint := map[string]string{push.APNs: a.APNs, push.FCM: a.FCM}[road]
	if r != nil {
		endpoint = r.URL
		roots.AddCert(r.Certificate())
	}
	switch road {
	case push.APNs:
		key, err := os.ReadFile(a.Files.APNsKeys[a.Teams[0].KeyID])
		if err != nil {
			return nil, fmt.Errorf("read the team's key: %w", err)
		}
		team, err := apns.NewTeam(apns.TeamConfig{ID: a.Teams[0].Team, KeyID: a.Teams[0].KeyID, Key: key})
		if err != nil {
			return nil, err
		}
		return apns.New(apns.Config{Team: team, Environment: push.Production, Endpoint: endpoint, RootCAs: roots})
	case push.FCM:
		account, err := os.ReadFile(a.Files.Accounts[project])
		if err != nil {
			return nil, fmt.Errorf("read the project's account: %w", err)
		}
		return fcm.New(ctx, fcm.Config{Project: project, Credentials: account, Endpoint: endpoint, RootCAs: roots, Workers: workers})
	}
	key, _, err := a.vapid()
	if err != nil {
		return nil, err
	}
	return webpush.New(webpush.Config{Subject: subject, Key: []byte(key), Workers: workers, AllowHosts: []string{"127.0.0.1"}, RootCAs: roots})
}

const (
	project = "demo" // clientsim's, if it is told of none
	subject = "mailto:bench@example.com"
)

// vapid is the key pair for Web Push.
func (a *addresses) vapid() (private, public string, err error) {
	text, err := os.ReadFile(a.Files.VAPID)
	if err != nil {
		return "", "", fmt.Errorf("read the VAPID key: %w", err)
	}
	var pair struct {
		Public  string `json:"public"`
		Private string `json:"private"`
	}
	if err := json.Unmarshal(text, &pair); err != nil {
		return "", "", fmt.Errorf("read the VAPID key: %w", err)
	}
	return pair.Private, pair.Public, nil
}
