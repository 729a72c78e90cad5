package device

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
)

// KeySize is the length of a key, in bytes.
const KeySize = 32

// Keys seal targets (AES-256-GCM) and hash them (HMAC-SHA-256), under keys derived from the configured ones.
type Keys struct{ keys []key }

type key struct {
	id   [4]byte // stands in front of what it sealed
	aead cipher.AEAD
	mac  []byte
}

// NewKeys takes the configured keys: the first one seals, all of them open. So a key is rotated by putting
// another one in front of it.
func NewKeys(keys ...[]byte) (*Keys, error) {
	if len(keys) == 0 {
		return nil, errors.New("no key for device targets")
	}
	k := &Keys{}
	for i, secret := range keys {
		if len(secret) != KeySize {
			return nil, fmt.Errorf("key %d for device targets has %d bytes, not %d", i+1, len(secret), KeySize)
		}
		derive := func(purpose string, n int) []byte {
			b, err := hkdf.Expand(sha256.New, secret, "nudge device "+purpose, n)
			if err != nil {
				panic(err) // only of lengths beyond 255 hashes
			}
			return b
		}
		block, err := aes.NewCipher(derive("target", KeySize))
		if err != nil {
			return nil, err
		}
		aead, err := cipher.NewGCM(block)
		if err != nil {
			return nil, err
		}
		k.keys = append(k.keys, key{id: [4]byte(derive("key id", 4)), aead: aead, mac: derive("hash", sha256.Size)})
	}
	return k, nil
}

// errUnsealable: none of the keys opens it.
var errUnsealable = errors.New("no configured key opens the device's target")

// seal binds the target to its device: a row's target that is put into another row does not open.
func (k *Keys) seal(device string, t Target) ([]byte, error) {
	plain, err := json.Marshal(t)
	if err != nil {
		return nil, err
	}
	first := k.keys[0]
	nonce := make([]byte, first.aead.NonceSize())
	_, _ = rand.Read(nonce) // never fails
	out := append(first.id[:], nonce...)
	return first.aead.Seal(out, nonce, plain, []byte(device)), nil
}

func (k *Keys) open(device string, sealed []byte) (Target, error) {
	var t Target
	for _, key := range k.keys {
		n := len(key.id)
		m := n + key.aead.NonceSize()
		if len(sealed) < m || [4]byte(sealed[:n]) != key.id {
			continue
		}
		plain, err := key.aead.Open(nil, sealed[n:m], sealed[m:], []byte(device))
		if err != nil {
			continue
		}
		if err := json.Unmarshal(plain, &t); err != nil {
			return Target{}, fmt.Errorf("read a sealed target: %w", err)
		}
		return t, nil
	}
	return t, errUnsealable
}

// hashes tell a target among all others without telling it: one by each key, in their order. The first is
// stored; a row that an older key hashed is found by another.
func (k *Keys) hashes(r *Registration) [][]byte {
	if r.Road == RoadNone {
		return [][]byte{}
	}
	out := make([][]byte, len(k.keys))
	for i, key := range k.keys {
		mac := hmac.New(sha256.New, key.mac)
		for _, s := range []string{r.Road, r.App, r.Environment, r.Target.Value} {
			_ = binary.Write(mac, binary.BigEndian, uint32(len(s))) // a hash never fails
			_, _ = mac.Write([]byte(s))
		}
		out[i] = mac.Sum(nil)
	}
	return out
}
