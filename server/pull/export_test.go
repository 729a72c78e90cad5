package pull

import (
	"context"
	"crypto/rand"
	"encoding/base64"

	"golang.org/x/crypto/chacha20poly1305"
)

// Sealed is a cursor as it was opened, for tests.
type Sealed struct{ c *cursor }

// Sealer seals and opens cursors, for tests.
type Sealer struct{ *sealer }

// NewSealer makes one of a key of 32 bytes.
func NewSealer(key []byte) (Sealer, error) {
	s, err := newSealer(key)
	return Sealer{s}, err
}

// Open opens a cursor.
func (s Sealer) Open(user, text string) (Sealed, error) {
	c, err := s.open(user, text)
	return Sealed{c}, err
}

// Seal seals what was opened.
func (s Sealer) Seal(user string, c Sealed) string { return s.seal(user, c.c) }

// SealRecord seals any bytes under the user, as if they were a cursor's record behind its head.
func (s Sealer) SealRecord(user string, flags byte, record []byte) string {
	b := append(append([]byte{cursorVersion, flags}, userHash(user)...), record...)
	nonce := make([]byte, chacha20poly1305.NonceSizeX)
	_, _ = rand.Read(nonce)
	return base64.RawURLEncoding.EncodeToString(s.aead.Seal(nonce, nonce, b, nil))
}

// What Open fails with.
var (
	ErrMalformed = errMalformed
	ErrForeign   = errForeign
)

// Beats share heartbeats, for tests.
type Beats struct{ *beats }

// NewBeats makes them.
func NewBeats() Beats { return Beats{newBeats()} }

// After returns once a heartbeat was sent that began after the call.
func (b Beats) After(ctx context.Context, send func(context.Context) error) error {
	return b.after(ctx, send)
}
