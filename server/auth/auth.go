// Package auth verifies the JWTs that devices bring (RFC 7519), on this machine alone: no request
// ever waits for an identity provider.
//
// A key verifies its own algorithm and no other, whatever a token's header asks for; "none" is not
// among them. What a token says is believed only after its signature held.
package auth

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/nudgesync/nudge/server/wire"
)

// Leeway is how far the issuer's clock may run ahead of ours: it is allowed to nbf and iat, never to
// exp, because a session ends at exp exactly.
const Leeway = 30 * time.Second

// Config is what a Verifier holds tokens against.
type Config struct {
	// Keys that tokens may be signed with, at least one. Ids, where given, are unique.
	Keys []Key

	// Issuer is the exact iss of an acceptable token; "" accepts any, also none.
	Issuer string
	// Audience has to be among a token's aud; "" accepts any, also none.
	Audience string

	// UserClaim names the claim that carries the user; "" means sub.
	UserClaim string
	// DeviceClaim and LaneClaim name the claims that carry device and lane; "" means that tokens
	// name none.
	DeviceClaim string
	LaneClaim   string

	// Now is the clock, time.Now if nil.
	Now func() time.Time
}

// Identity is who a verified token speaks for.
type Identity struct {
	User    string    // never empty
	Device  string    // "" if the token names none
	Lane    string    // "" if the token names none
	JTI     string    // the token's own id, "" if it has none
	Expires time.Time // the token's exp
}

// Verifier verifies tokens. It is safe for concurrent use.
type Verifier struct {
	byID   map[string]Key
	sole   map[string]Key // by algorithm: the one key of it, if there is exactly one
	claims claimNames
	parser *jwt.Parser
	now    func() time.Time
	cache  *cache
}

// New makes a Verifier, or says what is wrong with the keys.
func New(cfg Config) (*Verifier, error) {
	if len(cfg.Keys) == 0 {
		return nil, errors.New("no key to verify tokens with")
	}
	v := &Verifier{
		byID:   map[string]Key{},
		sole:   map[string]Key{},
		claims: claimNames{user: cfg.UserClaim, device: cfg.DeviceClaim, lane: cfg.LaneClaim},
		now:    cfg.Now,
		cache:  newCache(cacheSize),
	}
	if v.now == nil {
		v.now = time.Now
	}
	if v.claims.user == "" {
		v.claims.user = "sub"
	}
	count := map[string]int{}
	for i, k := range cfg.Keys {
		if err := k.check(); err != nil {
			return nil, fmt.Errorf("key %d (%q): %w", i, k.ID, err)
		}
		if _, twice := v.byID[k.ID]; twice && k.ID != "" {
			return nil, fmt.Errorf("two keys have the id %q", k.ID)
		}
		if k.ID != "" {
			v.byID[k.ID] = k
		}
		count[k.Algorithm]++
		v.sole[k.Algorithm] = k
	}
	var algorithms []string
	for alg, n := range count {
		algorithms = append(algorithms, alg)
		if n > 1 {
			delete(v.sole, alg)
		}
	}
	options := []jwt.ParserOption{
		jwt.WithValidMethods(algorithms),
		jwt.WithIssuedAt(),
		jwt.WithLeeway(Leeway),
		jwt.WithTimeFunc(v.now),
		jwt.WithJSONNumber(),
		jwt.WithStrictDecoding(),
	}
	if cfg.Issuer != "" {
		options = append(options, jwt.WithIssuer(cfg.Issuer))
	}
	if cfg.Audience != "" {
		options = append(options, jwt.WithAudience(cfg.Audience))
	}
	v.parser = jwt.NewParser(options...)
	return v, nil
}

// Verify returns whom a token speaks for. Its errors are of type *wire.Problem: token_missing,
// token_bad, or token_expired when nothing but the time is wrong. They never repeat what the token
// holds. Static keys verify without waiting for anything, so the context is not consulted.
func (v *Verifier) Verify(_ context.Context, token string) (Identity, error) {
	if token == "" {
		return Identity{}, wire.NewProblem(wire.TokenMissing, "")
	}
	if len(token) > wire.MaxToken {
		return Identity{}, bad(fmt.Sprintf("the token is longer than %d bytes", wire.MaxToken))
	}
	now := v.now()
	sum := digest(token)
	id, known := v.cache.get(sum)
	if !known {
		claims := jwt.MapClaims{}
		if _, err := v.parser.ParseWithClaims(token, claims, v.key); err != nil {
			return Identity{}, problemOf(err)
		}
		var err error
		if id, err = v.claims.identity(claims); err != nil {
			return Identity{}, err
		}
	}
	if !now.Before(id.Expires) { // also of a cached token, at every use
		return Identity{}, wire.NewProblem(wire.TokenExpired, "exp has passed")
	}
	if !known {
		v.cache.put(sum, id)
	}
	return id, nil
}

// key finds what a token is to be verified with. The parser has only looked at the header so far.
func (v *Verifier) key(t *jwt.Token) (any, error) {
	if _, ok := t.Header["crit"]; ok { // RFC 7515 §4.1.11: we understand no extension
		return nil, bad("the header demands an extension (crit)")
	}
	alg := t.Method.Alg()
	kid, named := t.Header["kid"]
	var key Key
	if named {
		name, ok := kid.(string)
		if !ok {
			return nil, bad("kid is not a string")
		}
		// These keys are all there will be, so an unknown kid is not a matter of waiting.
		if key, ok = v.byID[name]; !ok {
			return nil, bad("no key has the token's kid")
		}
	} else {
		var ok bool
		if key, ok = v.sole[alg]; !ok {
			return nil, bad("the token has no kid, and several keys have its algorithm")
		}
	}
	if key.Algorithm != alg { // algorithm confusion: the key decides, not the header
		return nil, bad("the token's algorithm is not that of its key")
	}
	return key.verification(), nil
}

// problemOf tells an expired token from every other defect. An expired one with a second defect is
// bad: a fresh one of its kind would be no better.
func problemOf(err error) error {
	var p *wire.Problem
	if errors.As(err, &p) {
		return p
	}
	defects := []struct {
		is     error
		detail string
	}{
		{jwt.ErrTokenMalformed, "the token is not a JWT"},
		{jwt.ErrTokenSignatureInvalid, "the signature or its algorithm is not accepted"},
		{jwt.ErrTokenUnverifiable, "the algorithm is unknown"},
		{jwt.ErrTokenInvalidIssuer, "iss is not the configured issuer"},
		{jwt.ErrTokenInvalidAudience, "aud does not hold the configured audience"},
		{jwt.ErrTokenRequiredClaimMissing, "iss or aud is missing"},
		{jwt.ErrTokenNotValidYet, "nbf lies in the future"},
		{jwt.ErrTokenUsedBeforeIssued, "iat lies in the future"},
	}
	for _, d := range defects {
		if errors.Is(err, d.is) {
			return bad(d.detail)
		}
	}
	if errors.Is(err, jwt.ErrTokenExpired) {
		return wire.NewProblem(wire.TokenExpired, "exp has passed")
	}
	return bad("the claims are not valid")
}

func bad(detail string) *wire.Problem { return wire.NewProblem(wire.TokenBad, detail) }
