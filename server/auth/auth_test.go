package auth_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/nudgesync/nudge/server/auth"
	"github.com/nudgesync/nudge/server/wire"
)

var (
	now    = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	secret = []byte("0123456789abcdef0123456789abcdef")
)

// issuer holds the private halves of one key of each algorithm.
type issuer struct {
	rsa *rsa.PrivateKey
	ec  *ecdsa.PrivateKey
	ed  ed25519.PrivateKey
}

func newIssuer(t *testing.T) issuer {
	t.Helper()
	r, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	e, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	_, d, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return issuer{r, e, d}
}

func publicPEM(t *testing.T, key crypto.PublicKey) []byte {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
}

func parse(t *testing.T, id, alg string, material []byte) auth.Key {
	t.Helper()
	k, err := auth.ParseKey(id, alg, material)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func verifier(t *testing.T, cfg auth.Config) *auth.Verifier {
	t.Helper()
	if cfg.Now == nil {
		cfg.Now = func() time.Time { return now }
	}
	v, err := auth.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// sign makes a token. A claim or header that is nil in change is left out.
func sign(t *testing.T, method jwt.SigningMethod, key any, header map[string]any, change jwt.MapClaims) string {
	t.Helper()
	claims := jwt.MapClaims{
		"sub": "7", "iss": "https://id.example", "aud": "app", "jti": "j1", "did": "phone", "lane": "critical",
		"iat": now.Add(-time.Minute).Unix(), "exp": now.Add(time.Hour).Unix(),
	}
	maps.Copy(claims, change)
	maps.DeleteFunc(claims, func(_ string, v any) bool { return v == nil })
	tok := jwt.NewWithClaims(method, claims)
	maps.Copy(tok.Header, header)
	s, err := tok.SignedString(key)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func codeOf(err error) wire.Code {
	var p *wire.Problem
	if errors.As(err, &p) {
		return p.Code
	}
	return ""
}

func TestVerifyEachAlgorithm(t *testing.T) {
	is := newIssuer(t)
	v := verifier(t, auth.Config{
		Keys: []auth.Key{
			parse(t, "hs", auth.HS256, secret),
			parse(t, "rs", auth.RS256, publicPEM(t, is.rsa.Public())),
			parse(t, "es", auth.ES256, publicPEM(t, is.ec.Public())),
			parse(t, "ed", auth.EdDSA, publicPEM(t, is.ed.Public())),
		},
		Issuer: "https://id.example", Audience: "app", DeviceClaim: "did", LaneClaim: "lane",
	})
	want := auth.Identity{User: "7", Device: "phone", Lane: "critical", JTI: "j1", Expires: now.Add(time.Hour)}
	for _, tc := range []struct {
		kid    string
		method jwt.SigningMethod
		key    any
	}{
		{"hs", jwt.SigningMethodHS256, secret},
		{"rs", jwt.SigningMethodRS256, is.rsa},
		{"es", jwt.SigningMethodES256, is.ec},
		{"ed", jwt.SigningMethodEdDSA, is.ed},
	} {
		for _, header := range []map[string]any{{"kid": tc.kid}, nil} {
			token := sign(t, tc.method, tc.key, header, nil)
			for range 2 { // the second is answered from the cache
				got, err := v.Verify(t.Context(), token)
				if err != nil || !got.Expires.Equal(want.Expires) {
					t.Fatalf("%s, header %v: %+v, %v", tc.kid, header, got, err)
				}
				if !got.Issued.Equal(now.Add(-time.Minute)) {
					t.Errorf("%s: issued %v", tc.kid, got.Issued)
				}
				if got.User != want.User || got.Device != want.Device || got.Lane != want.Lane || got.JTI != want.JTI {
					t.Errorf("%s: identity %+v, want %+v", tc.kid, got, want)
				}
			}
		}
	}
}

func TestVerifyRefuses(t *testing.T) {
	is, other, third := newIssuer(t), newIssuer(t), newIssuer(t)
	rsPEM := publicPEM(t, is.rsa.Public())
	rsDER, err := x509.MarshalPKIXPublicKey(is.rsa.Public())
	if err != nil {
		t.Fatal(err)
	}
	v := verifier(t, auth.Config{
		Keys: []auth.Key{
			parse(t, "hs", auth.HS256, secret),
			parse(t, "rs", auth.RS256, rsPEM),
			parse(t, "es", auth.ES256, publicPEM(t, is.ec.Public())),
			parse(t, "es2", auth.ES256, publicPEM(t, other.ec.Public())),
		},
		Issuer: "https://id.example", Audience: "app", DeviceClaim: "did",
	})
	hs := func(header map[string]any, change jwt.MapClaims) string {
		return sign(t, jwt.SigningMethodHS256, secret, header, change)
	}
	good := hs(nil, nil)
	parts := strings.Split(good, ".")
	header := func(json string) string { return base64.RawURLEncoding.EncodeToString([]byte(json)) }
	unix := func(d time.Duration) int64 { return now.Add(d).Unix() }

	for name, tc := range map[string]struct {
		token string
		code  wire.Code
	}{
		"none":                     {"", wire.TokenMissing},
		"no JWT":                   {"hello", wire.TokenBad},
		"two parts":                {parts[0] + "." + parts[1], wire.TokenBad},
		"four parts":               {good + ".x", wire.TokenBad},
		"9 KiB":                    {hs(nil, jwt.MapClaims{"x": strings.Repeat("x", 7<<10)}), wire.TokenBad},
		"1 MiB of dots":            {strings.Repeat(".", 1<<20), wire.TokenBad},
		"alg none":                 {sign(t, jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, nil, nil), wire.TokenBad},
		"alg none with a kid":      {sign(t, jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, map[string]any{"kid": "hs"}, nil), wire.TokenBad},
		"alg NoNe":                 {header(`{"alg":"NoNe"}`) + "." + parts[1] + ".", wire.TokenBad},
		"signature cut off":        {parts[0] + "." + parts[1] + ".", wire.TokenBad},
		"signature of another":     {parts[0] + "." + parts[1] + "." + strings.Split(hs(nil, jwt.MapClaims{"sub": "8"}), ".")[2], wire.TokenBad},
		"payload exchanged":        {parts[0] + "." + header(`{"sub":"8","exp":9999999999}`) + "." + parts[2], wire.TokenBad},
		"HS256 by the public PEM":  {sign(t, jwt.SigningMethodHS256, rsPEM, map[string]any{"kid": "rs"}, nil), wire.TokenBad},
		"HS256 by it, without kid": {sign(t, jwt.SigningMethodHS256, rsPEM, nil, nil), wire.TokenBad},
		"HS256 by the public DER":  {sign(t, jwt.SigningMethodHS256, rsDER, map[string]any{"kid": "rs"}, nil), wire.TokenBad},
		"ES256 under an RSA kid":   {sign(t, jwt.SigningMethodES256, is.ec, map[string]any{"kid": "rs"}, nil), wire.TokenBad},
		"another's RSA key":        {sign(t, jwt.SigningMethodRS256, other.rsa, map[string]any{"kid": "rs"}, nil), wire.TokenBad},
		"HS384 by our secret":      {sign(t, jwt.SigningMethodHS384, secret, nil, nil), wire.TokenBad},
		"PS256 by our key":         {sign(t, jwt.SigningMethodPS256, is.rsa, map[string]any{"kid": "rs"}, nil), wire.TokenBad},
		"EdDSA, not configured":    {sign(t, jwt.SigningMethodEdDSA, is.ed, nil, nil), wire.TokenBad},
		"unknown kid":              {hs(map[string]any{"kid": "zz"}, nil), wire.TokenBad},
		"empty kid":                {hs(map[string]any{"kid": ""}, nil), wire.TokenBad},
		"kid is a number":          {hs(map[string]any{"kid": 1}, nil), wire.TokenBad},
		"kid of the wrong ES key":  {sign(t, jwt.SigningMethodES256, is.ec, map[string]any{"kid": "es2"}, nil), wire.TokenBad},
		"no kid, none of two keys": {sign(t, jwt.SigningMethodES256, third.ec, nil, nil), wire.TokenBad},
		"no kid, by one, expired":  {sign(t, jwt.SigningMethodES256, other.ec, nil, jwt.MapClaims{"exp": unix(-time.Second)}), wire.TokenExpired},
		"spare bits in base64":     {spareBits(good), wire.TokenBad},
		"crit":                     {hs(map[string]any{"crit": []string{"b64"}, "b64": false}, nil), wire.TokenBad},
		"issuer":                   {hs(nil, jwt.MapClaims{"iss": "https://evil.example"}), wire.TokenBad},
		"no issuer":                {hs(nil, jwt.MapClaims{"iss": nil}), wire.TokenBad},
		"audience":                 {hs(nil, jwt.MapClaims{"aud": "other"}), wire.TokenBad},
		"no audience":              {hs(nil, jwt.MapClaims{"aud": nil}), wire.TokenBad},
		"audience is a number":     {hs(nil, jwt.MapClaims{"aud": 7}), wire.TokenBad},
		"expired":                  {hs(nil, jwt.MapClaims{"exp": unix(-time.Second)}), wire.TokenExpired},
		"expires now":              {hs(nil, jwt.MapClaims{"exp": unix(0)}), wire.TokenExpired},
		"long expired":             {hs(nil, jwt.MapClaims{"exp": unix(-24 * time.Hour)}), wire.TokenExpired},
		"expired, and not ours":    {hs(nil, jwt.MapClaims{"exp": unix(-time.Hour), "iss": "x"}), wire.TokenBad},
		"expired, not signed":      {sign(t, jwt.SigningMethodHS256, []byte("another"), nil, jwt.MapClaims{"exp": unix(-time.Hour)}), wire.TokenBad},
		"no exp":                   {hs(nil, jwt.MapClaims{"exp": nil}), wire.TokenBad},
		"exp is text":              {hs(nil, jwt.MapClaims{"exp": "tomorrow"}), wire.TokenBad},
		"nbf in the future":        {hs(nil, jwt.MapClaims{"nbf": unix(auth.Leeway + time.Second)}), wire.TokenBad},
		"iat in the future":        {hs(nil, jwt.MapClaims{"iat": unix(auth.Leeway + time.Second)}), wire.TokenBad},
		"no sub":                   {hs(nil, jwt.MapClaims{"sub": nil}), wire.TokenBad},
		"empty sub":                {hs(nil, jwt.MapClaims{"sub": ""}), wire.TokenBad},
		"sub is a list":            {hs(nil, jwt.MapClaims{"sub": []string{"7"}}), wire.TokenBad},
		"sub is a fraction":        {hs(nil, jwt.MapClaims{"sub": 7.5}), wire.TokenBad},
		"sub with a NUL":           {hs(nil, jwt.MapClaims{"sub": "7\x00"}), wire.TokenBad},
		"sub with broken UTF-8":    {hs(nil, jwt.MapClaims{"sub": "7\uFFFD"}), wire.TokenBad},
		"sub of 256 bytes":         {hs(nil, jwt.MapClaims{"sub": strings.Repeat("7", 256)}), wire.TokenBad},
		"device is a list":         {hs(nil, jwt.MapClaims{"did": []string{"phone"}}), wire.TokenBad},
	} {
		t.Run(name, func(t *testing.T) {
			id, err := v.Verify(t.Context(), tc.token)
			if codeOf(err) != tc.code {
				t.Fatalf("%+v, %v; want %s", id, err, tc.code)
			}
			if id != (auth.Identity{}) {
				t.Errorf("an identity beside an error: %+v", id)
			}
			for _, leak := range []string{"evil", "zz", "tomorrow", "phone"} {
				if strings.Contains(err.Error(), leak) {
					t.Errorf("%v repeats what the token holds", err)
				}
			}
		})
	}
	if _, err := v.Verify(t.Context(), good); err != nil {
		t.Errorf("the unchanged token: %v", err)
	}
}

// spareBits sets bits of the last character that are no part of the signature, which a lax decoder
// ignores: one token would have many spellings.
func spareBits(token string) string {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	last := strings.IndexByte(alphabet, token[len(token)-1])
	return token[:len(token)-1] + alphabet[last|3:last|3+1]
}

// The library would stumble over the key's type; it is ours to look at the algorithm before.
func TestKeyDecidesTheAlgorithm(t *testing.T) {
	is := newIssuer(t)
	public := publicPEM(t, is.rsa.Public())
	v := verifier(t, auth.Config{Keys: []auth.Key{parse(t, "rs", auth.RS256, public), parse(t, "hs", auth.HS256, secret)}})
	for name, token := range map[string]string{
		"HS256 for an RS256 key": sign(t, jwt.SigningMethodHS256, public, map[string]any{"kid": "rs"}, nil),
		"RS256 for an HS256 key": sign(t, jwt.SigningMethodRS256, is.rsa, map[string]any{"kid": "hs"}, nil),
	} {
		_, err := v.Verify(t.Context(), token)
		if codeOf(err) != wire.TokenBad || !strings.Contains(err.Error(), "not that of its key") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestVerifyAccepts(t *testing.T) {
	v := verifier(t, auth.Config{Keys: []auth.Key{parse(t, "", auth.HS256, secret)}})
	for name, tc := range map[string]struct {
		change jwt.MapClaims
		user   string
	}{
		"as it is":             {nil, "7"},
		"neither iss nor aud":  {jwt.MapClaims{"iss": nil, "aud": nil}, "7"},
		"several audiences":    {jwt.MapClaims{"aud": []string{"a", "b"}}, "7"},
		"numeric user":         {jwt.MapClaims{"sub": 9007199254740993}, "9007199254740993"},
		"user in UTF-8":        {jwt.MapClaims{"sub": "Ælfgifu"}, "Ælfgifu"},
		"nbf within leeway":    {jwt.MapClaims{"nbf": now.Add(auth.Leeway - time.Second).Unix()}, "7"},
		"iat within leeway":    {jwt.MapClaims{"iat": now.Add(auth.Leeway - time.Second).Unix()}, "7"},
		"device not asked for": {jwt.MapClaims{"did": 7}, "7"},
	} {
		id, err := v.Verify(t.Context(), sign(t, jwt.SigningMethodHS256, secret, nil, tc.change))
		if err != nil || id.User != tc.user || id.Device != "" {
			t.Errorf("%s: %+v, %v", name, id, err)
		}
	}
	own := verifier(t, auth.Config{Keys: []auth.Key{parse(t, "", auth.HS256, secret)}, UserClaim: "uid"})
	id, err := own.Verify(t.Context(), sign(t, jwt.SigningMethodHS256, secret, nil, jwt.MapClaims{"uid": "u1"}))
	if err != nil || id.User != "u1" {
		t.Errorf("a claim of one's own: %+v, %v", id, err)
	}
}

func TestNewRefuses(t *testing.T) {
	is := newIssuer(t)
	for name, keys := range map[string][]auth.Key{
		"no key":         nil,
		"the zero key":   {{}},
		"without secret": {{ID: "a", Algorithm: auth.HS256}},
		"one id twice":   {parse(t, "a", auth.HS256, secret), parse(t, "a", auth.EdDSA, publicPEM(t, is.ed.Public()))},
	} {
		if _, err := auth.New(auth.Config{Keys: keys}); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// A token that was good is refused at its exp, although the cache knows it.
func TestCachedTokenExpires(t *testing.T) {
	clock := now
	v := verifier(t, auth.Config{Keys: []auth.Key{parse(t, "", auth.HS256, secret)}, Now: func() time.Time { return clock }})
	token := sign(t, jwt.SigningMethodHS256, secret, nil, nil)
	for _, step := range []struct {
		at   time.Duration
		code wire.Code
	}{{0, ""}, {time.Hour - time.Nanosecond, ""}, {time.Hour, wire.TokenExpired}, {2 * time.Hour, wire.TokenExpired}} {
		clock = now.Add(step.at)
		if _, err := v.Verify(t.Context(), token); codeOf(err) != step.code {
			t.Errorf("after %v: %v, want %q", step.at, err, step.code)
		}
	}
}

func TestVerifyConcurrently(t *testing.T) {
	v := verifier(t, auth.Config{Keys: []auth.Key{parse(t, "", auth.HS256, secret)}})
	done := make(chan error)
	for g := range 8 {
		tokens := make([]string, 50)
		for i := range tokens {
			tokens[i] = sign(t, jwt.SigningMethodHS256, secret, nil, jwt.MapClaims{"sub": fmt.Sprint((g + i) % 60)})
		}
		go func() {
			var failed error
			for i, token := range tokens {
				id, err := v.Verify(context.Background(), token)
				if want := fmt.Sprint((g + i) % 60); err != nil || id.User != want {
					failed = fmt.Errorf("user %q, want %q: %w", id.User, want, err)
				}
			}
			done <- failed
		}()
	}
	for range 8 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}
