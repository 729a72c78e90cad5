package auth

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"

	"github.com/golang-jwt/jwt/v5"
)

// Algorithms that a key can have (RFC 7518 §3.1, RFC 8037).
const (
	HS256 = "HS256"
	RS256 = "RS256"
	ES256 = "ES256"
	EdDSA = "EdDSA"
)

// Algorithms lists them.
func Algorithms() []string { return []string{HS256, RS256, ES256, EdDSA} }

const (
	minSecret  = 32   // bytes, RFC 7518 §3.2
	minModulus = 2048 // bits, RFC 7518 §3.3
)

// Key verifies tokens of one algorithm; an HS256 key also signs them.
type Key struct {
	ID        string // the kid, "" if tokens carry none
	Algorithm string
	secret    []byte           // HS256
	public    crypto.PublicKey // all others
}

// ParseKey reads a key as configuration and files hold it. For HS256 material is the secret, as it
// is but for a trailing line break, or base64 behind the prefix "base64:"; it has at least 32 bytes.
// For the others it is a public key or a certificate in PEM. No error repeats the material.
func ParseKey(id, algorithm string, material []byte) (Key, error) {
	k := Key{ID: id, Algorithm: algorithm}
	var err error
	if algorithm == HS256 {
		k.secret, err = parseSecret(material)
	} else {
		k.public, err = parsePublic(material)
	}
	if err != nil {
		return Key{}, err
	}
	return k, k.check()
}

// parseSecret does not guess at base64: a secret that merely looks like it would be verified with
// other bytes than it was signed with.
func parseSecret(material []byte) ([]byte, error) {
	material = bytes.TrimRight(material, "\r\n")
	encoded, ok := bytes.CutPrefix(material, []byte("base64:"))
	if !ok {
		return material, nil
	}
	s := strings.TrimRight(strings.NewReplacer("-", "+", "_", "/").Replace(string(encoded)), "=")
	secret, err := base64.RawStdEncoding.DecodeString(s)
	if err != nil {
		return nil, errors.New("the secret has the prefix base64: but is not base64")
	}
	return secret, nil
}

func parsePublic(material []byte) (crypto.PublicKey, error) {
	block, _ := pem.Decode(material)
	if block == nil {
		return nil, errors.New("the public key is not PEM")
	}
	switch block.Type {
	case "PUBLIC KEY":
		return x509.ParsePKIXPublicKey(block.Bytes)
	case "RSA PUBLIC KEY":
		return x509.ParsePKCS1PublicKey(block.Bytes)
	case "CERTIFICATE":
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		return cert.PublicKey, nil
	}
	if strings.HasSuffix(block.Type, "PRIVATE KEY") {
		return nil, errors.New("this is a private key; verifying needs only its public key")
	}
	return nil, errors.New("the PEM block is neither a public key nor a certificate")
}

// check holds the key's type and size against its algorithm.
func (k Key) check() error {
	switch k.Algorithm {
	case HS256:
		if len(k.secret) < minSecret {
			return fmt.Errorf("an HS256 secret needs %d bytes or more, this has %d", minSecret, len(k.secret))
		}
		return nil
	case RS256:
		if p, ok := k.public.(*rsa.PublicKey); ok {
			if p.N.BitLen() < minModulus {
				return fmt.Errorf("an RS256 key needs %d bits or more, this has %d", minModulus, p.N.BitLen())
			}
			return nil
		}
	case ES256:
		if p, ok := k.public.(*ecdsa.PublicKey); ok && p.Curve == elliptic.P256() {
			return nil
		}
	case EdDSA:
		if _, ok := k.public.(ed25519.PublicKey); ok {
			return nil
		}
	default:
		return fmt.Errorf("algorithm %q is not one of %s", k.Algorithm, strings.Join(Algorithms(), ", "))
	}
	return fmt.Errorf("the public key is not one for %s", k.Algorithm)
}

// verification is the key in the form that the JWT library wants for the algorithm.
func (k Key) verification() jwt.VerificationKey {
	if k.Algorithm == HS256 {
		return k.secret
	}
	return k.public
}
