package webpush_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/nudgesync/nudge/clientsim/provider"
	"github.com/nudgesync/nudge/notify/push"
	"github.com/nudgesync/nudge/notify/push/webpush"
)

func start(t *testing.T) *provider.Providers {
	t.Helper()
	p, err := provider.Start(t.Context(), provider.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

func sender(t *testing.T, p *provider.Providers, allow ...string) *webpush.Sender {
	t.Helper()
	s, err := webpush.New(webpush.Config{
		Subject: "mailto:ops@example.com", Key: []byte(p.VAPID.Private), AllowHosts: allow, RootCAs: p.Roots(),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

func message(t *testing.T, p *provider.Providers) push.Message {
	t.Helper()
	ph, err := p.AddPhone(provider.PhoneConfig{Platform: provider.Browser, App: "web"})
	if err != nil {
		t.Fatal(err)
	}
	at := ph.Target()
	return push.Message{Nudge: "p.1", TTL: time.Hour, Target: push.Target{Kind: at.Kind, Value: at.Value, P256dh: at.P256dh, Auth: at.Auth}}
}

func TestSend(t *testing.T) {
	p := start(t)
	s := sender(t, p, "127.0.0.1")
	if s.PublicKey() != p.VAPID.Public {
		t.Errorf("public key %s, want %s", s.PublicKey(), p.VAPID.Public)
	}
	m := message(t, p)
	for u, alert := range map[int]*push.Alert{push.Lazy: nil, push.Soon: nil, push.Now: {TitleLocKey: "T", BodyLocKey: "B"}} {
		m.Urgency, m.Alert = u, alert
		if a := s.Send(t.Context(), m); a.Outcome != push.Accepted {
			t.Errorf("urgency %d: %+v", u, a)
		}
	}
	if _, err := p.Log().Wait(t.Context(), 0, func(e provider.Entry) bool { return e.Event == provider.EventWoken && e.Nudge == "p.1" }); err != nil {
		t.Error(err) // so the browser could decrypt it
	}
}

// A subscription cannot make the server connect to something inside.
func TestPrivateAddresses(t *testing.T) {
	p := start(t)
	s := sender(t, p)
	m := message(t, p)
	_, port, _ := strings.Cut(strings.TrimPrefix(p.WebPushURL, "https://"), ":")
	for _, host := range []string{"127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "10.0.0.1", "169.254.169.254", "0.0.0.0"} {
		m.Target.Value = "https://" + host + ":" + port + "/push/x"
		if a := s.Send(t.Context(), m); a.Outcome != push.Disable || a.Reason != "private_address" {
			t.Errorf("%s: %+v", host, a)
		}
	}
	for addr, want := range map[string]bool{
		"8.8.8.8": true, "2606:4700::1111": true, "100.64.0.1": false, "192.168.1.1": false, "172.16.0.1": false, "fc00::1": false,
		"fe80::1": false, "ff02::1": false, "64:ff9b::a00:1": false, "2002:a00:1::": false, "255.255.255.255": false, "::": false, "::10.0.0.1": false,
		"::ffff:0:127.0.0.1": false, "64:ff9b:1::a00:1": false, "fec0::1": false, "100::1": false, "3fff::1": false, "5f00::1": false,
		"4000::1": false, "168.63.129.16": false,
	} {
		if got := webpush.Public(netip.MustParseAddr(addr)); got != want {
			t.Errorf("%s: public is %v", addr, got)
		}
	}
}

// A host that does not answer gets a few workers, then a pause; others are reached all the time.
func TestHostsAreApart(t *testing.T) {
	p := start(t)
	s := sender(t, p, "127.0.0.1", "localhost")
	m := message(t, p)
	dead := m
	dead.Target.Value = "https://localhost:1/push/x"
	paused := false
	for range 10 {
		a := s.Send(t.Context(), dead)
		if a.Outcome != push.Throttled {
			t.Errorf("%+v", a)
		}
		paused = paused || a.Reason == "host" && a.RetryAfter > 20*time.Second
		if a := s.Send(t.Context(), m); a.Outcome != push.Accepted {
			t.Errorf("the other host: %+v", a)
		}
	}
	if !paused {
		t.Error("the dead host has no pause")
	}
}

// Of a host that is new and slow only a few workers wait.
func TestSlowHost(t *testing.T) {
	p := start(t)
	s := sender(t, p, "127.0.0.1")
	if _, err := p.AddFault(provider.Fault{Provider: provider.WebPush, Kind: provider.FaultHang}); err != nil {
		t.Fatal(err)
	}
	m := message(t, p)
	ctx, cancel := context.WithCancel(t.Context())
	answers := make(chan push.Answer)
	for range 8 {
		go func() { answers <- s.Send(ctx, m) }()
	}
	for range 6 {
		if a := <-answers; a.Outcome != push.Throttled || a.Reason != "host" {
			t.Errorf("%+v", a)
		}
	}
	cancel()
	for range 2 {
		if a := <-answers; a.Reason != "stopped" {
			t.Errorf("%+v", a)
		}
	}
}

// However many names a slow host has, others are reached meanwhile.
func TestSlowHostOfManyNames(t *testing.T) {
	p := start(t)
	s := sender(t, p, "127.0.0.1")
	good := message(t, p)
	if a := s.Send(t.Context(), good); a.Outcome != push.Accepted {
		t.Fatalf("%+v", a)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	answers := make(chan push.Answer)
	const names = 8
	for range names {
		bad := good // a host is a name and a port
		l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = l.Close() }()
		bad.Target.Value = "https://" + l.Addr().String() + "/push/x" // it takes the connection, and says nothing
		go func() { answers <- s.Send(ctx, bad) }()
	}
	for range names / 2 {
		if a := <-answers; a.Outcome != push.Throttled || a.Reason != "host" {
			t.Errorf("%+v", a)
		}
	}
	if a := s.Send(t.Context(), good); a.Outcome != push.Accepted {
		t.Errorf("%+v", a)
	}
	cancel()
	for range names / 2 {
		if a := <-answers; a.Reason != "stopped" {
			t.Errorf("%+v", a)
		}
	}
	// They are free again for others that are not known.
	ctx, cancel = context.WithCancel(t.Context())
	cancel()
	bad := good
	bad.Target.Value = "https://127.0.0.1:1/push/x"
	if a := s.Send(ctx, bad); a.Reason == "host" {
		t.Errorf("%+v", a)
	}
}

func TestKeys(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	sec1, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	p8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := key.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for name, text := range map[string][]byte{
		"SEC 1": pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: sec1}), "PKCS 8": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: p8}),
		"base64url": []byte(base64.RawURLEncoding.EncodeToString(raw) + "\n"), "padded": []byte(base64.URLEncoding.EncodeToString(raw)),
	} {
		s, err := webpush.New(webpush.Config{Subject: "https://example.com", Key: text})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		seen[s.PublicKey()] = true
	}
	if len(seen) != 1 {
		t.Errorf("one key is read as %d", len(seen))
	}
	for name, cfg := range map[string]webpush.Config{
		"empty": {Subject: "a@b"}, "text": {Subject: "a@b", Key: []byte("SECRET")}, "short": {Subject: "a@b", Key: []byte("AAAA")},
		"PEM":     {Subject: "a@b", Key: pem.EncodeToMemory(&pem.Block{Type: "X", Bytes: []byte("SECRET")})},
		"subject": {Subject: "ops", Key: []byte(base64.RawURLEncoding.EncodeToString(raw))},
	} {
		if _, err := webpush.New(cfg); err == nil || strings.Contains(err.Error(), "SECRET") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
