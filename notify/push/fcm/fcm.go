// Package fcm sends pushes through Firebase Cloud Messaging, with Firebase's own SDK. The SDK's retries are
// switched off (they come sooner than Google asks for); the dispatcher has its own.
package fcm

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"sync/atomic"
	"time"

	"cloud.google.com/go/auth"
	"cloud.google.com/go/auth/credentials"
	firebase "firebase.google.com/go/v4"
	"firebase.google.com/go/v4/messaging"
	"google.golang.org/api/option"

	"github.com/nudgesync/nudge/notify/push"
)

// Config is a sender: a Firebase project.
type Config struct {
	Project     string
	Credentials []byte         // a service account's key file, or another kind of Google's credentials, as JSON
	Endpoint    string         // an https URL, without /v1; "": Google's
	RootCAs     *x509.CertPool // nil: the system's
	Workers     int            // how many send at the same time: 8

	// WithoutAuthentication needs no credentials. It is for tests, and refused unless Endpoint is loopback.
	WithoutAuthentication bool
}

// Sender is a push.Sender.
type Sender struct {
	client   *messaging.Client
	base     *http.Transport
	provider auth.TokenProvider // nil: no authentication

	// Whether a push of that form was accepted: then a refusal as invalid is about the target.
	good struct{ silent, alert atomic.Bool }
}

const scope = "https://www.googleapis.com/auth/firebase.messaging"

// New returns a sender. It connects with the first push. Close it when nothing is sent any more.
func New(ctx context.Context, cfg Config) (*Sender, error) {
	if cfg.Project == "" {
		return nil, errors.New("fcm: no project")
	}
	if cfg.Workers == 0 {
		cfg.Workers = 8
	}
	s := &Sender{base: &http.Transport{
		Proxy:             http.ProxyFromEnvironment,
		DialContext:       (&net.Dialer{KeepAlive: 15 * time.Second}).DialContext,
		TLSClientConfig:   &tls.Config{RootCAs: cfg.RootCAs, MinVersion: tls.VersionTLS12},
		ForceAttemptHTTP2: true, MaxIdleConnsPerHost: cfg.Workers, IdleConnTimeout: 10 * time.Minute,
		HTTP2: &http.HTTP2Config{SendPingTimeout: 5 * time.Second, PingTimeout: 3 * time.Second},
	}}
	opts := []option.ClientOption{option.WithHTTPClient(&http.Client{Transport: s, CheckRedirect: stay})}
	if cfg.Endpoint != "" {
		u, err := url.Parse(cfg.Endpoint)
		if err != nil || u.Scheme != "https" && (u.Scheme != "http" || !loopback(u)) || u.Host == "" {
			return nil, fmt.Errorf("fcm: endpoint %q is no https URL", cfg.Endpoint)
		}
		if cfg.WithoutAuthentication && !loopback(u) {
			return nil, fmt.Errorf("fcm: without authentication only a loopback endpoint may be used, not %s", u.Host)
		}
		opts = append(opts, option.WithEndpoint(cfg.Endpoint+"/v1"))
	} else if cfg.WithoutAuthentication {
		return nil, errors.New("fcm: Google wants authentication")
	}
	if !cfg.WithoutAuthentication {
		if err := s.authenticate(cfg); err != nil {
			return nil, err
		}
	}
	app, err := firebase.NewApp(ctx, &firebase.Config{ProjectID: cfg.Project}, opts...)
	if err != nil {
		return nil, fmt.Errorf("fcm: project %s: %w", cfg.Project, err)
	}
	if s.client, err = app.Messaging(ctx); err != nil {
		return nil, fmt.Errorf("fcm: project %s: %w", cfg.Project, err)
	}
	return s, nil
}

// authenticate reads the credentials. Its errors never quote them.
func (s *Sender) authenticate(cfg Config) error {
	var kind struct {
		Type    string `json:"type"`
		Project string `json:"project_id"`
	}
	if err := json.Unmarshal(cfg.Credentials, &kind); err != nil || kind.Type == "" {
		return fmt.Errorf("fcm: the credentials of project %s are none: it must be the JSON file of a service account's key", cfg.Project)
	}
	if kind.Project != "" && kind.Project != cfg.Project {
		return fmt.Errorf("fcm: the credentials are of project %s, not %s", kind.Project, cfg.Project)
	}
	creds, err := credentials.NewCredentialsFromJSON(credentials.CredType(kind.Type), cfg.Credentials, &credentials.DetectOptions{
		Scopes: []string{scope},
		Client: &http.Client{Transport: s.base, CheckRedirect: stay},
	})
	if err != nil {
		return fmt.Errorf("fcm: the credentials of project %s (%s) cannot be used: is it the JSON file of a service account's key?", cfg.Project, kind.Type)
	}
	s.provider = creds.TokenProvider
	return nil
}

// stay follows no redirect: credentials would go along.
func stay(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

func loopback(u *url.URL) bool {
	ip := net.ParseIP(u.Hostname())
	return u.Hostname() == "localhost" || ip != nil && ip.IsLoopback()
}

// Close ends idle connections.
func (s *Sender) Close() { s.base.CloseIdleConnections() }

// Send is one attempt, as push.Sender says.
func (s *Sender) Send(ctx context.Context, m push.Message) push.Answer {
	if m.Target.Kind != "token" || !printable(m.Target.Value) {
		return push.Answer{Outcome: push.Disable, Reason: "malformed", Hint: "the app registered something that is no FCM registration token"}
	}
	var got exchange
	id, err := s.client.Send(context.WithValue(ctx, exchangeKey{}, &got), message(m))
	good := &s.good.silent
	if m.Alert != nil {
		good = &s.good.alert
	}
	switch {
	case got.err != nil:
		return broken(got.err)
	case got.status == 0 && err != nil:
		return push.Answer{Outcome: push.Fault, Reason: "invalid", Hint: "the SDK refuses the message: please report this"}
	case err == nil && id != "" && got.status == http.StatusOK:
		good.Store(true)
		return push.Answer{Outcome: push.Accepted, Reason: "ok", ID: id}
	}
	return classify(&got, good.Load())
}

// printable tells a token from what would be refused anyway, or make the request too large.
func printable(token string) bool {
	for _, c := range []byte(token) {
		if c <= ' ' || c > '~' {
			return false
		}
	}
	return len(token) > 0 && len(token) <= 4096
}

// collapse is the one key of all our pushes: a device holds one, the newest.
const collapse = "nudge"

func message(m push.Message) *messaging.Message {
	data := map[string]string{"nudge": m.Nudge}
	out := &messaging.Message{
		Token: m.Target.Value, Data: data,
		Android: &messaging.AndroidConfig{CollapseKey: collapse, Priority: "normal", TTL: &m.TTL},
		APNS: &messaging.APNSConfig{ // an iOS app that registered with Firebase
			Headers: map[string]string{
				"apns-priority": "5", "apns-push-type": "background", "apns-collapse-id": collapse,
				"apns-expiration": fmt.Sprint(time.Now().Add(m.TTL).Unix()),
			},
			Payload: &messaging.APNSPayload{Aps: &messaging.Aps{ContentAvailable: true}},
		},
	}
	if a := m.Alert; a != nil {
		out.Android.Priority = "high"
		out.Android.Notification = &messaging.AndroidNotification{TitleLocKey: a.TitleLocKey, BodyLocKey: a.BodyLocKey, Tag: collapse}
		out.APNS.Headers["apns-priority"], out.APNS.Headers["apns-push-type"] = "10", "alert"
		out.APNS.Payload.Aps.Alert = &messaging.ApsAlert{TitleLocKey: a.TitleLocKey, LocKey: a.BodyLocKey}
	}
	return out
}

// exchange is what Google answered, beside the SDK: its error tests fail on wrapped errors and know no HTML.
type exchange struct {
	err    error // there was no answer
	status int
	retry  time.Duration
	body   []byte
}

type exchangeKey struct{}

// mostAnswer is how much of an answer is read, in bytes.
const mostAnswer = 64 << 10

// RoundTrip is the SDK's way out. It authenticates, tries once more on a new connection if the old one broke, reads
// the answer to its end, and hands the SDK nothing that it would retry: no error, and no 503 without a long
// Retry-After.
func (s *Sender) RoundTrip(req *http.Request) (*http.Response, error) {
	got := req.Context().Value(exchangeKey{}).(*exchange)
	resp, err := s.exchange(req, got)
	if err != nil {
		got.err = err
		return &http.Response{StatusCode: 599, Header: http.Header{}, Body: http.NoBody, Request: req}, nil
	}
	resp.Header.Set("Retry-After", "86400")
	return resp, nil
}

func (s *Sender) exchange(req *http.Request, got *exchange) (*http.Response, error) {
	req = req.Clone(req.Context())
	if s.provider != nil {
		token, err := s.provider.Token(req.Context())
		if err != nil {
			return nil, &unauthenticated{err}
		}
		req.Header.Set("Authorization", "Bearer "+token.Value)
	}
	resp, err := s.try(req, got)
	if err != nil && req.Context().Err() == nil {
		s.base.CloseIdleConnections()
		if req.Body, err = req.GetBody(); err == nil {
			resp, err = s.try(req, got)
		}
	}
	return resp, err
}

func (s *Sender) try(req *http.Request, got *exchange) (*http.Response, error) {
	resp, err := s.base.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, mostAnswer))
	_ = resp.Body.Close()
	if err != nil {
		return nil, fmt.Errorf("fcm: reading the answer: %w", err)
	}
	got.status, got.body, got.retry = resp.StatusCode, body, push.RetryAfter(resp.Header, time.Now())
	resp.Body = io.NopCloser(bytes.NewReader(body))
	return resp, nil
}

// unauthenticated is that there is no access token.
type unauthenticated struct{ err error }

func (e *unauthenticated) Error() string { return "fcm: no access token: " + e.err.Error() }

func (e *unauthenticated) Unwrap() error { return e.err }
