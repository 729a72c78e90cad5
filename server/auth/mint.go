package auth

import (
	"crypto/rand"
	"errors"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// Claims are what Mint puts into a token. Empty ones are left out.
type Claims struct {
	Issuer   string
	Audience string
	Issued   time.Time
	Expires  time.Time
	// Named holds further claims by name, such as sub.
	Named map[string]string
}

// Mint signs a token with an HS256 key, for development: outside of it the app's own backend issues
// tokens. Every token gets a jti of its own.
func Mint(key Key, c Claims) (string, error) {
	if key.Algorithm != HS256 {
		return "", errors.New("only an HS256 key can sign: of the others we hold the public half")
	}
	if err := key.check(); err != nil {
		return "", err
	}
	m := jwt.MapClaims{"iat": c.Issued.Unix(), "exp": c.Expires.Unix(), "jti": rand.Text()}
	named := map[string]string{"iss": c.Issuer, "aud": c.Audience}
	for name, value := range c.Named {
		named[name] = value
	}
	for name, value := range named {
		if value != "" {
			m[name] = value
		}
	}
	t := jwt.NewWithClaims(jwt.SigningMethodHS256, m)
	if key.ID != "" {
		t.Header["kid"] = key.ID
	}
	return t.SignedString(key.secret)
}
