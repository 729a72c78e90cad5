package auth

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/golang-jwt/jwt/v5"
)

// maxClaim bounds the claims that are kept, in bytes.
const maxClaim = 255

// claimNames says where in a token the identity stands.
type claimNames struct{ user, device, lane string }

// identity reads a verified token's claims.
func (n claimNames) identity(c jwt.MapClaims) (Identity, error) {
	var id Identity
	var err error
	if id.Expires, err = date(c, "exp"); err != nil {
		return Identity{}, err
	}
	if id.Issued, err = date(c, "iat"); err != nil {
		return Identity{}, err
	}
	if id.Expires.IsZero() {
		return Identity{}, bad("exp is missing")
	}
	for _, f := range []struct {
		to   *string
		name string
	}{{&id.User, n.user}, {&id.Device, n.device}, {&id.Lane, n.lane}, {&id.JTI, "jti"}} {
		if f.name == "" {
			continue
		}
		if *f.to, err = text(c, f.name); err != nil {
			return Identity{}, err
		}
	}
	if id.User == "" {
		return Identity{}, bad(n.user + " is missing")
	}
	return id, nil
}

// wholePayload reports whether nothing follows the claims of a token that was parsed: the library reads
// numbers as they are by a decoder that stops at the object's end, and another reader might go on.
func wholePayload(token string) bool {
	_, rest, _ := strings.Cut(token, ".")
	payload, _, _ := strings.Cut(rest, ".")
	b, err := base64.RawURLEncoding.DecodeString(payload)
	return err == nil && json.Valid(b)
}

// checkDates refuses what is no moment that a token may name.
func checkDates(c jwt.MapClaims) error {
	for _, name := range []string{"exp", "iat", "nbf"} {
		if _, err := date(c, name); err != nil {
			return err
		}
	}
	return nil
}

// date reads a NumericDate (RFC 7519 §2); zero if it is not there.
func date(c jwt.MapClaims, name string) (time.Time, error) {
	switch v := c[name].(type) {
	case nil:
		return time.Time{}, nil
	case json.Number:
		s, err := v.Float64()
		if err != nil || s < 0 || s > maxDate {
			break
		}
		whole, fraction := math.Modf(s)
		return time.Unix(int64(whole), int64(fraction*1e9)), nil
	}
	return time.Time{}, bad(name + " is not a time between 1970 and 9999, in seconds")
}

// text reads a claim that names something. Whole numbers count as their digits, since issuers
// with numeric user ids are common. Refused is what could make two names one: a NUL, which Postgres
// can't hold, and the replacement character, which is what JSON decoding makes of any broken UTF-8.
func text(c jwt.MapClaims, name string) (string, error) {
	var s string
	switch v := c[name].(type) {
	case nil:
		return "", nil
	case string:
		s = v
	case json.Number:
		s = v.String()
		if strings.ContainsAny(s, ".eE") {
			return "", bad(name + " is a number, but not a whole one")
		}
	default:
		return "", bad(name + " is not a string")
	}
	if len(s) > maxClaim {
		return "", bad(fmt.Sprintf("%s is longer than %d bytes", name, maxClaim))
	}
	if strings.ContainsRune(s, 0) || strings.ContainsRune(s, utf8.RuneError) {
		return "", bad(name + " holds characters that can't be stored")
	}
	return s, nil
}
