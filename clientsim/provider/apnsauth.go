package provider

import (
	"crypto/sha256"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

const (
	providerTokenLife = time.Hour        // older is ExpiredProviderToken
	providerTokenRest = 20 * time.Minute // a new one sooner is TooManyProviderTokenUpdates
	providerTokenLead = 5 * time.Minute  // how far a sender's clock may be ahead
)

// authenticate checks the provider token: "Establishing a token-based connection to APNs". The reason
// is empty if it is good.
func (c *apnsConn) authenticate(header string) (*APNsKey, string) {
	scheme, token, _ := strings.Cut(header, " ")
	if token == "" || !strings.EqualFold(scheme, "bearer") {
		return nil, "MissingProviderToken"
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.world.senderTime()
	sum := sha256.Sum256([]byte(token))
	issued, known := c.verified[string(sum[:])]
	if known && token == c.token {
		if now.Sub(issued) > providerTokenLife {
			return nil, "ExpiredProviderToken"
		}
		return c.key, ""
	}
	key, issued, reason := c.verify(token)
	if reason != "" {
		return nil, reason
	}
	switch {
	case now.Sub(issued) > providerTokenLife:
		return nil, "ExpiredProviderToken"
	case issued.Sub(now) > providerTokenLead:
		return nil, "InvalidProviderToken"
	case c.key != nil && c.key.Team != key.Team:
		return nil, "InvalidProviderToken" // one team a connection
	case c.token != "" && !known && now.Sub(c.tokenAt) < providerTokenRest:
		return nil, "TooManyProviderTokenUpdates"
	}
	if c.key == nil {
		c.world.log.add(Entry{Provider: c.name, Conn: c.id, Event: EventSettings})
	}
	if !known {
		c.tokenAt = now
	}
	c.key, c.token, c.verified[string(sum[:])] = key, token, issued
	return key, ""
}

// verify checks who signed a provider token, and when.
func (c *apnsConn) verify(token string) (*APNsKey, time.Time, string) {
	var key *APNsKey
	var claims jwt.RegisteredClaims
	reason := "InvalidProviderToken"
	_, err := jwt.NewParser(jwt.WithValidMethods([]string{"ES256"}), jwt.WithoutClaimsValidation()).ParseWithClaims(
		token, &claims, func(t *jwt.Token) (any, error) {
			for _, k := range c.keys {
				if k.KeyID == t.Header["kid"] {
					key = k
					return k.public, nil
				}
			}
			return nil, jwt.ErrTokenUnverifiable
		})
	if err != nil || claims.IssuedAt == nil {
		return nil, time.Time{}, reason
	}
	if claims.Issuer != key.Team {
		return nil, time.Time{}, reason
	}
	return key, claims.IssuedAt.Time, ""
}
