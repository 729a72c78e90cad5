package auth_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"log/slog"
	"math/big"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/nudgesync/nudge/server/auth"
	"github.com/nudgesync/nudge/server/wire"
)

// provider is an identity provider: its handler is what the test says, and it notes when it is asked.
type provider struct {
	mu      sync.Mutex
	handler http.HandlerFunc
	asked   []time.Time
}

func newProvider(h http.HandlerFunc) *provider {
	return &provider{handler: h}
}

func (p *provider) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	h := p.handler
	p.asked = append(p.asked, time.Now())
	p.mu.Unlock()
	h(w, r)
}

// count is how often it was asked.
func (p *provider) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.asked)
}

func (p *provider) now(h http.HandlerFunc) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.handler = h
}

// set answers with these keys.
func set(keys ...map[string]any) http.HandlerFunc {
	body, err := json.Marshal(map[string]any{"keys": keys})
	if err != nil {
		panic(err)
	}
	return text(string(body))
}

func text(body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(body)) }
}

func status(code int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }
}

func encode(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// jwkOf is a public key as a provider publishes it; changes come in pairs, a nil value takes a member out.
func jwkOf(kid string, key crypto.PublicKey, change ...any) map[string]any {
	m := map[string]any{"kid": kid, "use": "sig"}
	switch k := key.(type) {
	case *rsa.PublicKey:
		m["kty"], m["alg"] = "RSA", "RS256"
		m["n"], m["e"] = encode(k.N.Bytes()), encode(big.NewInt(int64(k.E)).Bytes())
	case *ecdsa.PublicKey:
		point, err := k.Bytes()
		if err != nil {
			panic(err)
		}
		size := (len(point) - 1) / 2
		m["kty"], m["alg"], m["crv"] = "EC", "ES256", k.Params().Name
		m["x"], m["y"] = encode(point[1:1+size]), encode(point[1+size:])
	case ed25519.PublicKey:
		m["kty"], m["alg"], m["crv"], m["x"] = "OKP", "EdDSA", "Ed25519", encode(k)
	}
	for i := 0; i < len(change); i += 2 {
		name, _ := change[i].(string)
		if m[name] = change[i+1]; m[name] == nil {
			delete(m, name)
		}
	}
	return m
}

// logged is a log that tests read.
type logged struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

// lines are those of this level and above, as "message reason".
func (l *logged) lines(at slog.Level) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []string
	for line := range strings.Lines(l.buf.String()) {
		var m struct {
			Level  slog.Level `json:"level"`
			Msg    string     `json:"msg"`
			Reason string     `json:"reason"`
		}
		if json.Unmarshal([]byte(line), &m) == nil && m.Level >= at {
			out = append(out, strings.TrimSpace(m.Msg+" "+m.Reason))
		}
	}
	return out
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// fetching is a Remote that runs, and a Verifier that has its keys.
type fetching struct {
	t        *testing.T
	provider *provider
	remote   *auth.Remote
	verifier *auth.Verifier
	metrics  *prometheus.Registry
	log      *logged
	changed  chan struct{} // a key went out of force
	stop     func()        // and wait
}

// fetchFrom runs against a real server on the loopback interface.
func fetchFrom(t *testing.T, p *provider, cfg auth.Config) *fetching {
	t.Helper()
	server := httptest.NewServer(p)
	t.Cleanup(server.Close)
	return startFetching(t, p, cfg, auth.RemoteConfig{URL: server.URL + "/keys?client_secret=hunter2"})
}

func startFetching(t *testing.T, p *provider, cfg auth.Config, rc auth.RemoteConfig) *fetching {
	t.Helper()
	f := &fetching{t: t, provider: p, metrics: prometheus.NewRegistry(), log: &logged{}, changed: make(chan struct{}, 100)}
	var err error
	if rc.Metrics, err = auth.NewMetrics(f.metrics); err != nil {
		t.Fatal(err)
	}
	rc.Log = slog.New(slog.NewJSONHandler(f.log, nil))
	rc.OnChange = func() { f.changed <- struct{}{} }
	if f.remote, err = auth.NewRemote(rc); err != nil {
		t.Fatal(err)
	}
	cfg.Remote = f.remote
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	f.verifier = verifier(t, cfg)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- f.remote.Run(ctx) }()
	f.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	t.Cleanup(f.stop)
	return f
}

// count is the value of a metric under a label.
func (f *fetching) count(name, label string) float64 {
	f.t.Helper()
	families, err := f.metrics.Gather()
	if err != nil {
		f.t.Fatal(err)
	}
	for _, family := range families {
		for _, m := range family.GetMetric() {
			if family.GetName() == name && (label == "" || m.GetLabel()[0].GetValue() == label) {
				return m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return 0
}

// until waits for something that happens in its own time.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	patience := time.NewTimer(time.Minute)
	defer patience.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-patience.C:
			t.Fatalf("waited in vain for: %s", what)
		}
	}
}

// fetches is how many came to this.
func (f *fetching) fetches(result string, n int) {
	f.t.Helper()
	until(f.t, result, func() bool { return f.count("nudge_jwks_fetches_total", result) >= float64(n) })
}

// fresh is a token of the issuer's RSA, EC or Ed25519 key, good for an hour from the real now.
func (is issuer) fresh(t *testing.T, kid, alg string, change ...any) string {
	t.Helper()
	claims := jwt.MapClaims{"iat": time.Now().Unix(), "exp": time.Now().Add(time.Hour).Unix()}
	for i := 0; i < len(change); i += 2 {
		name, _ := change[i].(string)
		claims[name] = change[i+1]
	}
	header := map[string]any{"kid": kid}
	if kid == "" {
		header = nil
	}
	switch alg {
	case auth.RS256:
		return sign(t, jwt.SigningMethodRS256, is.rsa, header, claims)
	case auth.ES256:
		return sign(t, jwt.SigningMethodES256, is.ec, header, claims)
	}
	return sign(t, jwt.SigningMethodEdDSA, is.ed, header, claims)
}

// wants verifies a token and holds the answer against a code; "" for a good one.
func (f *fetching) wants(what, token string, code wire.Code) {
	f.t.Helper()
	if _, err := f.verifier.Verify(context.Background(), token); codeOf(err) != code {
		f.t.Errorf("%s: %v, want %q", what, err, code)
	}
}

// comesBack holds that a token can't be verified now, and may be about that much later, in milliseconds.
func (f *fetching) comesBack(what, token string, low, high int64) {
	f.t.Helper()
	_, err := f.verifier.Verify(context.Background(), token)
	var p *wire.Problem
	if !errors.As(err, &p) || p.Code != wire.TokenUnverifiable || p.RetryAfterMS < low || p.RetryAfterMS > high {
		f.t.Errorf("%s: %+v, want token_unverifiable, and to come back in %d to %d ms", what, err, low, high)
	}
}
