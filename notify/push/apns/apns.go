// Package apns sends pushes through Apple, with sideshow/apns2 for the requests. Connections and provider tokens are
// its own, since Apple punishes what the SDK does with them: many streams on a cold connection, a token for each
// client, a lost status where the body is no JSON.
package apns

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/sideshow/apns2"
	"github.com/sideshow/apns2/payload"

	"github.com/nudgesync/nudge/notify/push"
)

// Config is a sender: a team in one of Apple's environments.
type Config struct {
	Team        *Team
	Environment string         // push.Production or push.Sandbox
	Endpoint    string         // an https URL; "": Apple's of the environment
	RootCAs     *x509.CertPool // nil: the system's
}

// Sender is a push.Sender. The app of a message is its topic, the bundle id.
type Sender struct {
	team        *Team
	environment string
	client      *apns2.Client
	connections *connections
}

// New returns a sender. It connects with the first push. Close it when nothing is sent any more.
func New(cfg Config) (*Sender, error) {
	endpoint := cfg.Endpoint
	switch {
	case cfg.Team == nil:
		return nil, fmt.Errorf("apns: no team")
	case cfg.Environment != push.Production && cfg.Environment != push.Sandbox:
		return nil, fmt.Errorf("apns: environment %q is neither production nor sandbox", cfg.Environment)
	case endpoint == "" && cfg.Environment == push.Production:
		endpoint = apns2.HostProduction
	case endpoint == "":
		endpoint = apns2.HostDevelopment
	}
	u, err := url.Parse(endpoint)
	if err != nil || u.Scheme != "https" || u.Host == "" {
		return nil, fmt.Errorf("apns: endpoint %q is no https URL", endpoint)
	}
	address := u.Host
	if u.Port() == "" {
		address += ":443"
	}
	s := &Sender{team: cfg.Team, environment: cfg.Environment}
	s.connections = newConnections(address, &tls.Config{
		RootCAs: cfg.RootCAs, ServerName: u.Hostname(), MinVersion: tls.VersionTLS12,
	})
	s.client = &apns2.Client{Host: strings.TrimSuffix(endpoint, "/"), HTTPClient: &http.Client{
		Transport:     s,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }, // it would take the provider token along
	}}
	return s, nil
}

// Close ends the connection.
func (s *Sender) Close() { s.connections.close() }

// Send is one attempt, as push.Sender says.
func (s *Sender) Send(ctx context.Context, m push.Message) push.Answer {
	if a, ok := s.unsendable(m); ok {
		return a
	}
	n := &apns2.Notification{
		ApnsID: uuid(), DeviceToken: m.Target.Value, Topic: m.App, CollapseID: "nudge",
		Expiration: time.Now().Add(m.TTL), PushType: apns2.PushTypeBackground, Priority: apns2.PriorityLow,
		Payload: payload.NewPayload().ContentAvailable().Custom("nudge", m.Nudge),
	}
	if m.Alert != nil {
		n.PushType, n.Priority = apns2.PushTypeAlert, apns2.PriorityHigh
		n.Payload = payload.NewPayload().ContentAvailable().AlertTitleLocKey(m.Alert.TitleLocKey).AlertLocKey(m.Alert.BodyLocKey).Custom("nudge", m.Nudge)
	}
	var got exchange
	if _, err := s.client.PushWithContext(context.WithValue(ctx, exchangeKey{}, &got), n); err != nil && got.status == 0 {
		return push.Broken(err)
	}
	return s.classify(&got)
}

// unsendable is the answer to what must not reach Apple, where bad tokens cost the connection.
func (s *Sender) unsendable(m push.Message) (push.Answer, bool) {
	raw, err := hex.DecodeString(m.Target.Value)
	switch {
	case m.Target.Kind != "token" || err != nil || len(raw) < 16 || len(raw) > 100:
		return push.Answer{Outcome: push.Disable, Reason: "malformed", Hint: "the app registered something that is no APNs device token"}, true
	case m.Environment != s.environment:
		return push.Answer{Outcome: push.Fault, Reason: "environment", Hint: "a device of the other environment"}, true
	}
	return push.Answer{}, false
}

// exchange is what Apple answered, beside the SDK, which loses the status where the body is no JSON and the
// milliseconds of a timestamp.
type exchange struct {
	status int
	id     string
	bearer string
	retry  time.Duration
	date   time.Time
	empty  bool
	body   struct {
		Reason    string `json:"reason"`
		Timestamp int64  `json:"timestamp"` // ms since 1970
	}
}

type exchangeKey struct{}

// RoundTrip is the SDK's way to the connection: it adds the provider token, tries once more on a new connection if the old
// one broke, and reads the answer to its end.
func (s *Sender) RoundTrip(req *http.Request) (*http.Response, error) {
	got := req.Context().Value(exchangeKey{}).(*exchange)
	bearer, err := s.team.current()
	if err != nil {
		return nil, err
	}
	got.bearer = bearer
	req = req.Clone(req.Context())
	req.Header.Set("authorization", "bearer "+bearer)
	resp, err := s.try(req, got)
	if err != nil && req.Context().Err() == nil {
		if req.Body, err = req.GetBody(); err == nil {
			resp, err = s.try(req, got)
		}
	}
	return resp, err
}

// mostAnswer is how much of an answer is read, in bytes. Apple's are smaller than 100.
const mostAnswer = 4096

func (s *Sender) try(req *http.Request, got *exchange) (*http.Response, error) {
	resp, settled, err := s.connections.roundTrip(req)
	if err != nil {
		return nil, err
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, mostAnswer))
	_ = resp.Body.Close()
	settled(err == nil && resp.StatusCode != http.StatusForbidden)
	if err != nil {
		return nil, fmt.Errorf("apns: reading the answer: %w", err)
	}
	got.status, got.id, got.empty = resp.StatusCode, resp.Header.Get("apns-id"), len(bytes.TrimSpace(body)) == 0
	got.retry = push.RetryAfter(resp.Header, time.Now())
	got.date, _ = http.ParseTime(resp.Header.Get("Date"))
	if json.Unmarshal(body, &got.body) != nil {
		body = nil
	}
	resp.Body = io.NopCloser(bytes.NewReader(body))
	return resp, nil
}

// uuid is a random apns-id, so that the ledger knows the push even if the answer is lost.
func uuid() string {
	var b [16]byte
	_, _ = rand.Read(b[:])                      // never fails
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80 // version 4, RFC 9562
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
