package auth_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/nudgesync/nudge/server/auth"
)

func TestParseKey(t *testing.T) {
	is := newIssuer(t)
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(is.ed)
	if err != nil {
		t.Fatal(err)
	}
	ok, b64 := string(secret), base64.StdEncoding.EncodeToString(secret)
	for name, tc := range map[string]struct {
		alg      string
		material string
		err      string // "" if it is a key
	}{
		"secret":                {auth.HS256, ok, ""},
		"secret with a line":    {auth.HS256, ok + "\n", ""},
		"secret in base64":      {auth.HS256, "base64:" + b64, ""},
		"secret in base64url":   {auth.HS256, "base64:" + base64.RawURLEncoding.EncodeToString([]byte(strings.Repeat("\xff", 32))), ""},
		"short secret":          {auth.HS256, ok[:31], "32 bytes"},
		"short by its line":     {auth.HS256, ok[:31] + "\n", "32 bytes"},
		"short behind base64":   {auth.HS256, "base64:" + b64[:40], "32 bytes"},
		"not base64":            {auth.HS256, "base64:" + ok + "!", "not base64"},
		"RSA":                   {auth.RS256, string(publicPEM(t, is.rsa.Public())), ""},
		"RSA in PKCS#1":         {auth.RS256, string(pem.EncodeToMemory(&pem.Block{Type: "RSA PUBLIC KEY", Bytes: x509.MarshalPKCS1PublicKey(&is.rsa.PublicKey)})), ""},
		"short RSA":             {auth.RS256, string(publicPEM(t, weak.Public())), "2048 bits"},
		"another curve":         {auth.ES256, string(publicPEM(t, p384.Public())), "not one for ES256"},
		"RSA as ES256":          {auth.ES256, string(publicPEM(t, is.rsa.Public())), "not one for ES256"},
		"EC as RS256":           {auth.RS256, string(publicPEM(t, is.ec.Public())), "not one for RS256"},
		"EC as EdDSA":           {auth.EdDSA, string(publicPEM(t, is.ec.Public())), "not one for EdDSA"},
		"private key":           {auth.EdDSA, string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})), "private key"},
		"no PEM":                {auth.EdDSA, "hello", "not PEM"},
		"broken PEM":            {auth.EdDSA, string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: []byte("x")})), "asn1"},
		"PEM of something else": {auth.EdDSA, string(pem.EncodeToMemory(&pem.Block{Type: "X", Bytes: []byte("x")})), "neither"},
		"algorithm none":        {"none", ok, "PEM"},
	} {
		_, err := auth.ParseKey("k", tc.alg, []byte(tc.material))
		if (err == nil) != (tc.err == "") || err != nil && !strings.Contains(err.Error(), tc.err) {
			t.Errorf("%s: %v, want an error with %q", name, err, tc.err)
		}
	}
	// One secret, however it is written down.
	token := sign(t, jwt.SigningMethodHS256, secret, nil, nil)
	v := verifier(t, auth.Config{Keys: []auth.Key{parse(t, "", auth.HS256, []byte("base64:"+b64+"\n"))}})
	if _, err := v.Verify(t.Context(), token); err != nil {
		t.Error(err)
	}
}

func TestMint(t *testing.T) {
	key := parse(t, "dev", auth.HS256, secret)
	v := verifier(t, auth.Config{Keys: []auth.Key{key}, Issuer: "i", Audience: "a", DeviceClaim: "did"})
	claims := auth.Claims{Issuer: "i", Audience: "a", Issued: now, Expires: now.Add(time.Minute), Named: map[string]string{"sub": "7", "did": "tablet"}}
	token, err := auth.Mint(key, claims)
	if err != nil {
		t.Fatal(err)
	}
	id, err := v.Verify(t.Context(), token)
	if err != nil || id.User != "7" || id.Device != "tablet" || id.JTI == "" || !id.Expires.Equal(now.Add(time.Minute)) {
		t.Errorf("%+v, %v", id, err)
	}
	public := parse(t, "ed", auth.EdDSA, publicPEM(t, newIssuer(t).ed.Public()))
	if _, err := auth.Mint(public, claims); err == nil {
		t.Error("a public key signed a token")
	}
	if _, err := auth.Mint(auth.Key{Algorithm: auth.HS256}, claims); err == nil {
		t.Error("an empty secret signed a token")
	}
}
