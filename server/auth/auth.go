// Package auth verifies the JWTs that devices bring (RFC 7519), on this machine alone: no request
// ever waits for an identity provider, or for the database.
//
// A key verifies its own algorithm and no other, whatever a token's header asks for; "none" is not
// among them. What a token says is believed only after its signature held.
//
// Keys are configured, or fetched in the background (see Remote). A token is good for as long as its
// key is in force, its exp has not passed, and nobody revoked it (see Revocations): Verify asks all
// three at every use, also of a token that it knows, and Check asks them of somebody who was let in.
package auth

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/nudgesync/nudge/server/wire"
)

// Leeway is how far the issuer's clock may run ahead of ours: it is allowed to nbf and iat, never to
// exp, because a session ends at exp exactly.
const Leeway = 30 * time.Second

// maxDate is the last moment that a token may name, in seconds since 1970: the end of the year 9999.
// What lies beyond is a mistake, and overflows.
const maxDate = 253402300799

// Config is what a Verifier holds tokens against.
type Config struct {
	// Keys that tokens may be signed with. Ids, where given, are unique.
	Keys []Key
	// Remote has further keys; nil for none. A kid that Keys has is theirs alone.
	Remote *Remote

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

	// Revoked is the *wire.Problem of an identity that is no longer good, or nil. It must not block.
	// A nil func revokes nobody.
	Revoked func(Identity) error

	// Now is the clock, time.Now if nil.
	Now func() time.Time
}

// Identity is who a verified token speaks for.
type Identity struct {
	User    string    // never empty
	Device  string    // "" if the token names none
	Lane    string    // "" if the token names none
	JTI     string    // the token's own id, "" if it has none
	Issued  time.Time // the token's iat, or when it was first seen if that is earlier; zero without iat
	Expires time.Time // the token's exp

	key fingerprint // that the token is signed with
}

// Verifier verifies tokens. It is safe for concurrent use.
type Verifier struct {
	static    []Key
	remote    *Remote
	claims    claimNames
	parser    *jwt.Parser
	validator *jwt.Validator
	revoked   func(Identity) error
	now       func() time.Time
	cache     *cache
	keys      atomic.Pointer[keyring]
}

// New makes a Verifier, or says what is wrong with the keys.
func New(cfg Config) (*Verifier, error) {
	if len(cfg.Keys) == 0 && cfg.Remote == nil {
		return nil, errors.New("no key to verify tokens with")
	}
	v := &Verifier{
		static:  slices.Clone(cfg.Keys),
		remote:  cfg.Remote,
		claims:  claimNames{user: cfg.UserClaim, device: cfg.DeviceClaim, lane: cfg.LaneClaim},
		revoked: cfg.Revoked,
		now:     cfg.Now,
		cache:   newCache(cacheSize),
	}
	if v.now == nil {
		v.now = time.Now
	}
	if v.revoked == nil {
		v.revoked = func(Identity) error { return nil }
	}
	if v.claims.user == "" {
		v.claims.user = "sub"
	}
	ids := map[string]bool{}
	var algorithms []string
	for i, k := range cfg.Keys {
		if err := k.check(); err != nil {
			return nil, fmt.Errorf("key %d (%q): %w", i, k.ID, err)
		}
		if ids[k.ID] {
			return nil, fmt.Errorf("two keys have the id %q", k.ID)
		}
		ids[k.ID] = k.ID != ""
		algorithms = append(algorithms, k.Algorithm)
	}
	if v.remote != nil {
		algorithms = append(algorithms, v.remote.algorithms...)
	}
	v.keys.Store(newKeyring(v.static, nil))
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
	v.parser, v.validator = jwt.NewParser(options...), jwt.NewValidator(options...)
	return v, nil
}

// Ready says what a Verifier that can let nobody in waits for; nil if it has a key.
func (v *Verifier) Ready() error {
	if len(v.keyring().prints) == 0 {
		return errors.New("keys: none has been fetched yet")
	}
	return nil
}

// keyring is what is in force now.
func (v *Verifier) keyring() *keyring {
	ring := v.keys.Load()
	if v.remote == nil {
		return ring
	}
	if set := v.remote.current(); set != ring.fetched {
		ring = newKeyring(v.static, set)
		v.keys.Store(ring) // another goroutine's is as good
	}
	return ring
}

// Verify returns whom a token speaks for. Its errors are, or wrap, a *wire.Problem: token_missing;
// token_bad; token_expired when nothing but the time is wrong; token_revoked; and token_unverifiable
// when a key that may be the token's is still to be fetched, or when it can't be known who is revoked.
// They never repeat what the token holds. It waits for nothing, so the context is not consulted.
func (v *Verifier) Verify(_ context.Context, token string) (Identity, error) {
	if token == "" {
		return Identity{}, wire.NewProblem(wire.TokenMissing, "")
	}
	if len(token) > wire.MaxToken {
		return Identity{}, bad(fmt.Sprintf("the token is longer than %d bytes", wire.MaxToken))
	}
	ring, sum := v.keyring(), digest(token)
	id, known := v.cache.get(sum)
	if !known || !ring.prints[id.key] { // a key that is gone takes along what it let in
		var err error
		if id, err = v.parse(ring, token, sum); err != nil {
			return Identity{}, err
		}
		known = false
	}
	if !v.now().Before(id.Expires) { // also of a cached token, at every use
		return Identity{}, wire.NewProblem(wire.TokenExpired, "exp has passed")
	}
	if !known {
		v.cache.put(sum, id) // before it is known to be revoked: refusing it again is cheap, too
	}
	if err := v.revoked(id); err != nil {
		return Identity{}, err
	}
	return id, nil
}

// Check says whether somebody whom Verify let in may stay: nil, or the *wire.Problem that ends it. If
// the key is gone that is token_unverifiable: whether the token is bad is for its next Verify to find. While
// the node is blind it is that, too, and wraps ErrBlind.
func (v *Verifier) Check(id Identity) error {
	switch {
	case !v.now().Before(id.Expires):
		return wire.NewProblem(wire.TokenExpired, "exp has passed")
	case !v.keyring().prints[id.key]:
		return wire.NewProblem(wire.TokenUnverifiable, "the token's key is no longer in force")
	}
	return v.revoked(id)
}

// parse is Verify without what it remembers.
func (v *Verifier) parse(ring *keyring, token string, sum [sha256.Size]byte) (Identity, error) {
	var keys []heldKey
	var claims jwt.MapClaims
	var named bool
	var algorithm string
	var err error
	try := 0
	for again := true; again; {
		claims = jwt.MapClaims{}
		_, err = v.parser.ParseWithClaims(token, claims, func(t *jwt.Token) (any, error) {
			err := checkDates(claims) // the library's arithmetic overflows, differently on every processor
			if err == nil && try == 0 {
				_, named = t.Header["kid"]
				algorithm = t.Method.Alg()
				keys, err = ring.find(t)
			}
			if err != nil {
				return nil, err
			}
			return keys[try].verification(), nil
		})
		if again = try+1 < len(keys) && errors.Is(err, jwt.ErrTokenSignatureInvalid); again {
			try++
		}
	}
	// One that does not say which key it needs may need the one that is fetched next.
	fetched := v.remote != nil && slices.Contains(v.remote.algorithms, algorithm)
	missing := !named && len(keys) > 0 && fetched && errors.Is(err, jwt.ErrTokenSignatureInvalid)
	if missing || errors.Is(err, errUnknownKey) {
		return Identity{}, v.unknown(claims, sum, fetched)
	}
	if err != nil {
		return Identity{}, problemOf(err)
	}
	if !wholePayload(token) {
		return Identity{}, bad("the claims are not one JSON object")
	}
	id, err := v.claims.identity(claims)
	if err != nil {
		return Identity{}, err
	}
	id.key = keys[try].print
	if now := v.now(); id.Issued.After(now) { // the issuer's clock is ahead: a revocation of now means this token, too
		id.Issued = now
	}
	return id, nil
}

// unknown is the problem of a token whose key is not in force. Its claims are nobody's word yet, but
// what they admit may be held against it: a token that no key could save is worth no fetch, and a phone
// that comes back after its key was retired hears that its token is old, not that it is forged. fetched: keys of
// its algorithm are.
func (v *Verifier) unknown(claims jwt.MapClaims, sum [sha256.Size]byte, fetched bool) error {
	if err := v.validator.Validate(claims); err != nil {
		return problemOf(err)
	}
	if exp, err := claims.GetExpirationTime(); err == nil && exp != nil && !v.now().Before(exp.Time) {
		return wire.NewProblem(wire.TokenExpired, "exp has passed")
	}
	if !fetched { // these keys are all there will be: it is not a matter of waiting
		return bad(errUnknownKey.Error())
	}
	return v.remote.unknown(sum)
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
