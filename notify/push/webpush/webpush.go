// Package webpush sends pushes to browsers and UnifiedPush distributors (RFC 8030, 8291, 8292), with
// SherClockHolmes/webpush-go for encryption and VAPID.
//
// Where a push goes is named by whoever registered the device. So the sender connects to public addresses only, over
// https, follows no redirect, and lets no host answer for the others: a host that is slow, dead or lies costs its own
// devices alone. None of its answers opens the lane's breaker.
package webpush

import (
	"context"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	webpush "github.com/SherClockHolmes/webpush-go"

	"github.com/nudgesync/nudge/notify/push"
)

// Config is a sender: a VAPID key.
type Config struct {
	Subject string // whom a push service may ask: a mail address, with or without "mailto:", or an https URL
	Key     []byte // the private VAPID key: 32 bytes as base64url, or PEM (PKCS 8 or SEC 1)
	Workers int    // how many send at the same time: 8

	// AllowHosts are host names that may have private addresses: a push service of one's own.
	AllowHosts []string
	RootCAs    *x509.CertPool // nil: the system's
}

// Sender is a push.Sender.
type Sender struct {
	options webpush.Options
	base    *http.Transport
	hosts   *hosts
}

// record is the size of the encrypted record in bytes: all pushes are padded to it. The id of a nudge and the
// keys of a text fit.
const record = 1024

// New returns a sender. Close it when nothing is sent any more.
func New(cfg Config) (*Sender, error) {
	key, err := privateKey(cfg.Key)
	if err != nil {
		return nil, err
	}
	subject := strings.TrimPrefix(cfg.Subject, "mailto:")
	if !strings.HasPrefix(subject, "https://") && !strings.Contains(subject, "@") {
		return nil, fmt.Errorf("webpush: subject %q is neither a mail address nor an https URL", cfg.Subject)
	}
	if cfg.Workers == 0 {
		cfg.Workers = 8
	}
	s := &Sender{hosts: newHosts(cfg.Workers)}
	s.base = &http.Transport{ // no proxy: it would resolve names that we must judge
		DialContext:       guarded(cfg.AllowHosts),
		TLSClientConfig:   &tls.Config{RootCAs: cfg.RootCAs, MinVersion: tls.VersionTLS12},
		ForceAttemptHTTP2: true, MaxIdleConns: 100, MaxIdleConnsPerHost: cfg.Workers, IdleConnTimeout: time.Minute,
		MaxResponseHeaderBytes: 16 << 10,
	}
	s.options = webpush.Options{
		HTTPClient: &http.Client{Transport: s.base, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }},
		Subscriber: subject, RecordSize: record, Topic: "nudge",
		VAPIDPrivateKey: base64.RawURLEncoding.EncodeToString(key.Bytes()),
		VAPIDPublicKey:  base64.RawURLEncoding.EncodeToString(key.PublicKey().Bytes()),
	}
	return s, nil
}

// privateKey reads a VAPID key. Its errors never quote it.
func privateKey(text []byte) (*ecdh.PrivateKey, error) {
	none := errors.New("webpush: the VAPID key is none: it must be a P-256 private key, as base64url or PEM")
	block, _ := pem.Decode(text)
	if block == nil {
		raw, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(strings.TrimSpace(string(text)), "="))
		if err != nil {
			return nil, none
		}
		key, err := ecdh.P256().NewPrivateKey(raw)
		if err != nil {
			return nil, none
		}
		return key, nil
	}
	var key *ecdsa.PrivateKey
	if any, err := x509.ParsePKCS8PrivateKey(block.Bytes); err == nil {
		key, _ = any.(*ecdsa.PrivateKey)
	} else {
		key, _ = x509.ParseECPrivateKey(block.Bytes)
	}
	if key == nil {
		return nil, none
	}
	out, err := key.ECDH()
	if err != nil || out.Curve() != ecdh.P256() {
		return nil, none
	}
	return out, nil
}

// PublicKey is the VAPID key that browsers subscribe with (applicationServerKey): base64url, uncompressed.
func (s *Sender) PublicKey() string { return s.options.VAPIDPublicKey }

// Close ends idle connections.
func (s *Sender) Close() { s.base.CloseIdleConnections() }

type text struct {
	TitleLocKey string `json:"title_loc_key,omitempty"`
	BodyLocKey  string `json:"body_loc_key,omitempty"`
}

// Send is one attempt, as push.Sender says. The browser gets {"nudge":"…"}, and "alert" with the keys of a text
// if it is to show one.
func (s *Sender) Send(ctx context.Context, m push.Message) push.Answer {
	host, ok := check(m.Target)
	if !ok {
		return push.Answer{Outcome: push.Disable, Reason: "malformed", Hint: "the app registered something that is no subscription"}
	}
	body := struct {
		Nudge string `json:"nudge"`
		Alert *text  `json:"alert,omitempty"`
	}{Nudge: m.Nudge}
	if m.Alert != nil {
		body.Alert = &text{m.Alert.TitleLocKey, m.Alert.BodyLocKey}
	}
	payload, err := json.Marshal(body)
	if err != nil {
		return push.Answer{Outcome: push.Fault, Reason: "invalid"}
	}
	o := s.options
	o.TTL = int(m.TTL / time.Second)
	o.Urgency = urgency(m.Urgency)
	sub := &webpush.Subscription{Endpoint: m.Target.Value, Keys: webpush.Keys{P256dh: m.Target.P256dh, Auth: m.Target.Auth}}

	now := time.Now()
	wait, stranger := s.hosts.enter(host, now)
	if wait > 0 {
		return push.Answer{Outcome: push.Throttled, Reason: "host", RetryAfter: wait}
	}
	resp, err := webpush.SendNotificationWithContext(ctx, payload, sub, &o)
	if err == nil {
		_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 4096)) // so that the connection can be used again
		_ = resp.Body.Close()
	}
	s.hosts.leave(host, stranger, time.Now(), time.Since(now), err == nil && resp.StatusCode < 500)
	if err != nil {
		return broken(err)
	}
	return classify(resp, time.Now())
}

func urgency(u int) webpush.Urgency {
	switch {
	case u >= push.Now:
		return webpush.UrgencyHigh
	case u == push.Soon:
		return webpush.UrgencyNormal
	default:
		return webpush.UrgencyLow
	}
}

// check is whether the target is a subscription, and at which host.
func check(t push.Target) (host string, ok bool) {
	u, err := url.Parse(t.Value)
	if t.Kind != "webpush" || err != nil || u.Scheme != "https" || u.Hostname() == "" || u.User != nil || len(t.Value) > 2048 {
		return "", false
	}
	key, err := decode(t.P256dh)
	if err != nil {
		return "", false
	}
	if _, err := ecdh.P256().NewPublicKey(key); err != nil {
		return "", false
	}
	auth, err := decode(t.Auth)
	return strings.ToLower(u.Host), err == nil && len(auth) == 16
}

// decode reads base64 in any of the forms that browsers and libraries write.
func decode(s string) ([]byte, error) {
	s = strings.NewReplacer("+", "-", "/", "_").Replace(strings.TrimRight(s, "="))
	return base64.RawURLEncoding.DecodeString(s)
}

// classify says what a push service's answer means (RFC 8030, sections 5 and 8.4).
func classify(resp *http.Response, now time.Time) push.Answer {
	a := push.Answer{Reason: push.Status(resp.StatusCode), RetryAfter: push.RetryAfter(resp.Header, now)}
	switch status := resp.StatusCode; {
	case status == http.StatusCreated || status == http.StatusOK || status == http.StatusAccepted || status == http.StatusNoContent:
		// The Location, which names the push, is a secret of the push service's.
		a.Outcome, a.Reason = push.Accepted, "ok"
	case status == http.StatusNotFound || status == http.StatusGone:
		a.Outcome = push.Disable
	case status == http.StatusUnauthorized || status == http.StatusForbidden:
		a.Outcome, a.Hint = push.Fault, "the subscription was made with another VAPID key: apps must subscribe anew when it changes"
	case status == http.StatusTooManyRequests || status < 400 || status >= 500:
		a.Outcome = push.Throttled
	default:
		a.Outcome, a.Hint = push.Fault, "a push service refuses the request"
	}
	return a
}

func broken(err error) push.Answer {
	if errors.Is(err, errPrivate) {
		return push.Answer{Outcome: push.Disable, Reason: "private_address", Hint: "a subscription at an address that is not public: if it is a push service of yours, put its host under allow_hosts"}
	}
	a := push.Broken(err)
	if a.Reason == "stopped" {
		return a
	}
	a.Outcome = push.Throttled
	return a
}
