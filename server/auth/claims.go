package auth

import (
	"encoding/json"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/golang-jwt/jwt/v5"
)

// maxClaim bounds the claims that are kept, in bytes.
const maxClaim = 255

// claimNames says where in a token the identity stands.
type claimNames struct{ user, device, lane string }

// identity reads a verified token's claims.
func (n claimNames) identity(c jwt.MapClaims) (Identity, error) {
	exp, err := c.GetExpirationTime()
	if err != nil || exp == nil {
		return Identity{}, bad("exp is missing")
	}
	id := Identity{Expires: exp.Time}
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
