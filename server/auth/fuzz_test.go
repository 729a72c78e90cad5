package auth_test

import (
	"encoding/base64"
	"errors"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/golang-jwt/jwt/v5"

	"github.com/nudgesync/nudge/server/auth"
	"github.com/nudgesync/nudge/server/wire"
)

// No input panics or is let in with an error of another kind, and nothing but a token that the key
// signed is let in.
func FuzzVerify(f *testing.F) {
	key, err := auth.ParseKey("main", auth.HS256, secret)
	if err != nil {
		f.Fatal(err)
	}
	v, err := auth.New(auth.Config{Keys: []auth.Key{key}, Now: func() time.Time { return now }})
	if err != nil {
		f.Fatal(err)
	}
	token, err := auth.Mint(key, auth.Claims{Issued: now, Expires: now.Add(time.Hour), Named: map[string]string{"sub": "7"}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(token)
	f.Add(strings.Replace(token, ".", "..", 1))
	f.Fuzz(func(t *testing.T, token string) {
		id, err := v.Verify(t.Context(), token)
		var p *wire.Problem
		if err != nil {
			if !errors.As(err, &p) || p.Status != 401 || id != (auth.Identity{}) {
				t.Fatalf("%+v, %v", id, err)
			}
			return
		}
		i := strings.LastIndexByte(token, '.')
		head, sig := token[:i], token[i+1:]
		mac, err := jwt.NewParser(jwt.WithStrictDecoding()).DecodeSegment(sig)
		if err != nil || jwt.SigningMethodHS256.Verify(head, mac, secret) != nil {
			t.Fatalf("let in without our signature: %q", token)
		}
		if id.User == "" || !id.Expires.After(now) {
			t.Fatalf("let in as %+v", id)
		}
	})
}

// A key holder's mistakes are no way in either: whatever header and payload are signed, what is let
// in is a storable user with time left.
func FuzzVerifySigned(f *testing.F) {
	key, err := auth.ParseKey("main", auth.HS256, secret)
	if err != nil {
		f.Fatal(err)
	}
	v, err := auth.New(auth.Config{Keys: []auth.Key{key}, DeviceClaim: "did", LaneClaim: "lane", Now: func() time.Time { return now }})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(`{"alg":"HS256"}`, `{"sub":"7","exp":1e12}`)
	f.Add(`{"alg":"HS256","kid":"main"}`, `{"sub":7,"exp":99999999999,"did":"d","lane":"l","jti":"j"}`)
	f.Fuzz(func(t *testing.T, header, payload string) {
		segment := base64.RawURLEncoding.EncodeToString
		head := segment([]byte(header)) + "." + segment([]byte(payload))
		mac, err := jwt.SigningMethodHS256.Sign(head, secret)
		if err != nil {
			t.Fatal(err)
		}
		id, err := v.Verify(t.Context(), head+"."+segment(mac))
		var p *wire.Problem
		if err != nil {
			if !errors.As(err, &p) || p.Status != 401 || id != (auth.Identity{}) {
				t.Fatalf("%+v, %v", id, err)
			}
			return
		}
		if id.User == "" || len(id.User) > 255 || !utf8.ValidString(id.User) || strings.Contains(id.User, "\x00") || !id.Expires.After(now) {
			t.Fatalf("let in as %+v", id)
		}
	})
}
