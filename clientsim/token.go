package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// tokenLife is how long a minted token is good for: longer than any run.
const tokenLife = 12 * time.Hour

// minter signs development tokens.
type minter struct{ key []byte }

// newMinter reads the key: the file's bytes without a line end.
func newMinter(path string) (*minter, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("signing key: %w", err)
	}
	key := bytes.TrimRight(b, "\r\n")
	if len(key) == 0 {
		return nil, errors.New("signing key: the file is empty")
	}
	return &minter{key: key}, nil
}

// mint is a token of the user.
func (m *minter) mint(user string) (string, error) {
	now := time.Now()
	t := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.RegisteredClaims{
		Issuer:    "nudge-dev",
		Subject:   user,
		Audience:  jwt.ClaimStrings{"nudge"},
		IssuedAt:  jwt.NewNumericDate(now),
		ExpiresAt: jwt.NewNumericDate(now.Add(tokenLife)),
	})
	t.Header["kid"] = "dev"
	return t.SignedString(m.key)
}
