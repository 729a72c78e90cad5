package auth

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"slices"
)

// Why a key of a JWK Set is left out. They are labels of a metric.
const (
	ignoredMalformed   = "malformed"   // a member is missing or can't be read, a point is not on its curve
	ignoredUnsupported = "unsupported" // another kty or alg, a symmetric key, or one that auth.algorithms rules out
	ignoredUse         = "use"         // use or key_ops say that it verifies nothing
	ignoredWeak        = "weak"        // an RSA modulus below 2048 bits, or above what is worth verifying
	ignoredDuplicate   = "duplicate"   // its kid stands before it, with another key
)

// maxModulus bounds what verifying one token can cost, in bits of the RSA modulus.
const maxModulus = 8192

// errNoUsableKey is a JWK Set that would let nobody in.
var errNoUsableKey = errors.New("the set holds no key that tokens could be verified with")

// jwk is one key of a JWK Set (RFC 7517 §4, RFC 7518 §6, RFC 8037 §2).
type jwk struct {
	KeyType    string   `json:"kty"`
	ID         string   `json:"kid"`
	Algorithm  string   `json:"alg"`
	Use        string   `json:"use"`
	Operations []string `json:"key_ops"`
	Curve      string   `json:"crv"`
	X          string   `json:"x"`
	Y          string   `json:"y"`
	N          string   `json:"n"`
	E          string   `json:"e"`
}

// ignoredKey is a key that parseSet left out, and why.
type ignoredKey struct{ id, reason string }

// parseSet reads a JWK Set (RFC 7517 §5). A key that it can't use costs itself alone; a set without a
// usable one is an error. Every key has exactly one algorithm: the one that it names, or else the one of
// its type. A symmetric key is never taken: whoever can read the set could sign with it.
func parseSet(body []byte, algorithms []string) (keys []Key, ignored []ignoredKey, err error) {
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(body, &set); err != nil {
		return nil, nil, errors.New("the answer is not a JWK Set") // the decoder's error would quote it
	}
	for _, raw := range set.Keys {
		var j jwk
		if json.Unmarshal(raw, &j) != nil || len(j.ID) > maxClaim {
			ignored = append(ignored, ignoredKey{reason: ignoredMalformed})
			continue
		}
		key, reason := j.key()
		same := func(k Key) bool { return k.ID == key.ID && k.Algorithm == key.Algorithm }
		switch twin := slices.IndexFunc(keys, same); {
		case reason != "":
		case !slices.Contains(algorithms, key.Algorithm):
			reason = ignoredUnsupported
		case twin >= 0 && keys[twin].fingerprint() == key.fingerprint():
			continue
		case twin >= 0 && key.ID != "":
			reason = ignoredDuplicate // the first one counts: which is meant can't be known
		}
		if reason != "" {
			ignored = append(ignored, ignoredKey{j.ID, reason})
			continue
		}
		keys = append(keys, key)
	}
	if len(keys) == 0 {
		return nil, ignored, errNoUsableKey
	}
	return keys, ignored, nil
}

// key is the key that j describes, or why it is none of ours.
func (j jwk) key() (Key, string) {
	if j.Use != "" && j.Use != "sig" || j.Operations != nil && !slices.Contains(j.Operations, "verify") {
		return Key{}, ignoredUse
	}
	k := Key{ID: j.ID}
	var err error
	switch {
	case j.KeyType == "RSA":
		k.Algorithm = RS256
		k.public, err = rsaKey(j.N, j.E)
	case j.KeyType == "EC" && j.Curve == "P-256":
		k.Algorithm = ES256
		k.public, err = p256Key(j.X, j.Y)
	case j.KeyType == "OKP" && j.Curve == "Ed25519":
		k.Algorithm = EdDSA
		k.public, err = ed25519Key(j.X)
	default:
		return Key{}, ignoredUnsupported
	}
	switch p, isRSA := k.public.(*rsa.PublicKey); {
	case j.Algorithm != "" && j.Algorithm != k.Algorithm: // RS512, PS256, RSA-OAEP
		return Key{}, ignoredUnsupported
	case err != nil:
		return Key{}, ignoredMalformed
	case isRSA && (p.N.BitLen() < minModulus || p.N.BitLen() > maxModulus):
		return Key{}, ignoredWeak
	case k.check() != nil:
		return Key{}, ignoredMalformed
	}
	return k, ""
}

func rsaKey(n, e string) (crypto.PublicKey, error) {
	modulus, err := segment(n)
	if err != nil {
		return nil, err
	}
	exponent, err := segment(e)
	if err != nil {
		return nil, err
	}
	big3, small := big.NewInt(3), new(big.Int).SetBytes(exponent)
	if small.BitLen() > 31 || small.Cmp(big3) < 0 || small.Bit(0) == 0 { // crypto/rsa's own bounds
		return nil, errors.New("the exponent is not an odd number from 3 to 2³¹-1")
	}
	return &rsa.PublicKey{N: new(big.Int).SetBytes(modulus), E: int(small.Int64())}, nil
}

func p256Key(x, y string) (crypto.PublicKey, error) {
	px, err := segment(x)
	if err != nil {
		return nil, err
	}
	py, err := segment(y)
	if err != nil {
		return nil, err
	}
	if len(px) != 32 || len(py) != 32 { // RFC 7518 §6.2.1.2: always the curve's full size
		return nil, errors.New("a coordinate has not 32 bytes")
	}
	return ecdsa.ParseUncompressedPublicKey(elliptic.P256(), slices.Concat([]byte{4}, px, py))
}

func ed25519Key(x string) (crypto.PublicKey, error) {
	b, err := segment(x)
	if err != nil {
		return nil, err
	}
	if len(b) != ed25519.PublicKeySize {
		return nil, fmt.Errorf("the key has not %d bytes", ed25519.PublicKeySize)
	}
	return ed25519.PublicKey(b), nil
}

// segment decodes base64url without padding (RFC 7515 §2).
func segment(s string) ([]byte, error) {
	b, err := base64.RawURLEncoding.Strict().DecodeString(s)
	if err == nil && len(b) == 0 {
		err = errors.New("a member is missing")
	}
	return b, err
}
