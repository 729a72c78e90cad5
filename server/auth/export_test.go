package auth

import (
	"context"
	"crypto/sha256"
)

// Digest is the cache's key.
type Digest = [sha256.Size]byte

// Cache is the cache of verified tokens.
type Cache struct{ *cache }

// NewCache makes a cache of that many tokens a generation.
func NewCache(size int) Cache { return Cache{newCache(size)} }

// DigestOf is the key of a token.
func DigestOf(token string) Digest { return digest(token) }

// Get is get.
func (c Cache) Get(sum Digest) (Identity, bool) { return c.get(sum) }

// Put is put.
func (c Cache) Put(sum Digest, id Identity) { c.put(sum, id) }

// Len counts the entries of both generations.
func (c Cache) Len() (n int) {
	for i := range c.parts {
		n += len(c.parts[i].young) + len(c.parts[i].older)
	}
	return n
}

// Trim is what Run does every five minutes.
func Trim(ctx context.Context, r *Revocations) error { return r.trim(ctx) }

// ParseSet is parseSet without the keys that it left out.
func ParseSet(body []byte, algorithms []string) ([]Key, error) {
	keys, _, err := parseSet(body, algorithms)
	return keys, err
}

// Check is check.
func (k Key) Check() error { return k.check() }
