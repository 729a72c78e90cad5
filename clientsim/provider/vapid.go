package provider

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"encoding/base64"
	"net/http"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// vapidLife is how far ahead an exp may lie: RFC 8292, 2.
const vapidLife = 24 * time.Hour

// vapid checks who sends (RFC 8292) and returns the sender's public key, base64url. The reason is empty if all is
// well.
func (s *webpushServer) vapid(h http.Header) (key, why string) {
	params, ok := cutScheme(h.Get("Authorization"), "vapid")
	if !ok {
		return "", "no VAPID"
	}
	var token string
	for param := range strings.SplitSeq(params, ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(param), "=")
		switch name {
		case "t":
			token = value
		case "k":
			key = strings.TrimRight(value, "=")
		}
	}
	raw, err := base64.RawURLEncoding.DecodeString(key)
	if err != nil {
		return "", "VAPID: k is not base64url"
	}
	public, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), raw)
	if err != nil {
		return "", "VAPID: k is not a P-256 key"
	}
	now := s.world.senderTime()
	var claims jwt.RegisteredClaims
	_, err = jwt.NewParser(jwt.WithValidMethods([]string{"ES256"}), jwt.WithAudience(s.origin), jwt.WithExpirationRequired(),
		jwt.WithTimeFunc(func() time.Time { return now })).
		ParseWithClaims(token, &claims, func(*jwt.Token) (any, error) { return public, nil })
	switch {
	case err != nil:
		return "", "VAPID: " + err.Error()
	case claims.ExpiresAt.After(now.Add(vapidLife)):
		return "", "VAPID: exp is more than 24 h ahead"
	case !strings.HasPrefix(claims.Subject, "mailto:") && !strings.HasPrefix(claims.Subject, "https:"):
		return "", "VAPID: sub is no mailto: or https: URI"
	}
	return key, ""
}

func cutScheme(header, scheme string) (rest string, ok bool) {
	name, rest, ok := strings.Cut(header, " ")
	return rest, ok && strings.EqualFold(name, scheme)
}
