package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/nudgesync/nudge/internal/devpg/pgtest"
	"github.com/nudgesync/nudge/server/wire"
)

// identityProvider publishes keys and signs with them.
type identityProvider struct {
	t *testing.T

	mu   sync.Mutex
	keys map[string]*ecdsa.PrivateKey // by kid
}

func (p *identityProvider) add(kid string) {
	p.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		p.t.Fatal(err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.keys[kid] = key
}

func (p *identityProvider) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	keys := []map[string]string{}
	for kid, key := range p.keys {
		point, err := key.PublicKey.Bytes()
		if err != nil {
			panic(err)
		}
		keys = append(keys, map[string]string{
			"kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": kid,
			"x": base64.RawURLEncoding.EncodeToString(point[1:33]), "y": base64.RawURLEncoding.EncodeToString(point[33:]),
		})
	}
	_ = json.NewEncoder(w).Encode(map[string]any{"keys": keys})
}

func (p *identityProvider) token(kid, user string) string {
	p.t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	tok := jwt.NewWithClaims(jwt.SigningMethodES256, jwt.MapClaims{
		"sub": user, "iss": "me", "aud": "app", "iat": time.Now().Unix(), "exp": time.Now().Add(time.Hour).Unix(),
	})
	tok.Header["kid"] = kid
	s, err := tok.SignedString(p.keys[kid])
	if err != nil {
		p.t.Fatal(err)
	}
	return s
}

// A node takes its keys from a provider, beside a configured one, and learns a new one because somebody
// comes with it: that one is asked to come again, and let in.
func TestServeWithFetchedKeys(t *testing.T) {
	p := &identityProvider{t: t, keys: map[string]*ecdsa.PrivateKey{}}
	p.add("1")
	server := httptest.NewServer(p)
	t.Cleanup(server.Close)
	s := newSite(t, pgtest.Database(t))
	s.env = append(s.env, "NUDGE_AUTH_JWKS_URL="+server.URL)
	r := s.serve(t)
	r.answers("7", "mine") // by the configured key

	pull := func(token string) (int, wire.Problem) {
		var answer struct{ wire.Problem }
		status, _ := r.get(token, "", &answer)
		return status, answer.Problem
	}
	patience := time.Now().Add(time.Minute)
	again := func(token string, done func(int, wire.Problem) bool) {
		t.Helper()
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for {
			status, problem := pull(token)
			if done(status, problem) {
				return
			}
			if status != http.StatusServiceUnavailable || problem.Code != wire.TokenUnverifiable || problem.RetryAfterMS == 0 || time.Now().After(patience) {
				t.Fatalf("%d %+v", status, problem)
			}
			<-tick.C
		}
	}
	good := func(status int, _ wire.Problem) bool { return status == http.StatusOK }
	again(p.token("1", "7"), good) // readiness waits for one key, and there is the configured one
	p.add("2")
	again(p.token("2", "7"), good)

	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	conn := r.socket(ctx, p.token("2", "7"))
	r.hear(ctx, conn, wire.TReady, &wire.Ready{})
	// A kid that nobody has, on a socket: come back, and then it is bad.
	forged := strings.Split(p.token("2", "7"), ".")
	header := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"ES256","kid":"3"}`))
	bad := strings.Join(slices.Concat([]string{header}, forged[1:]), ".")
	r.wantClose(ctx, r.socket(ctx, bad), wire.CloseOverload, "token_unverifiable")
	again(bad, func(status int, p wire.Problem) bool {
		return status == http.StatusUnauthorized && p.Code == wire.TokenBad
	})
	r.wantClose(ctx, r.socket(ctx, bad), wire.CloseBadToken, "token_bad")
}
