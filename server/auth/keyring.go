package auth

import (
	"crypto/sha256"
	"crypto/x509"
	"errors"

	"github.com/golang-jwt/jwt/v5"
)

// errUnknownKey is a token that names a key, or needs one, that is not in force.
var errUnknownKey = errors.New("no key that is in force has the token's kid")

// fingerprint tells keys apart, also those of one kid: a provider may give a kid away again.
type fingerprint [16]byte

func (k Key) fingerprint() (f fingerprint) {
	var material []byte // of a secret none: it is configured, so it never changes, and nothing hints at it
	if k.public != nil {
		material, _ = x509.MarshalPKIXPublicKey(k.public) // check has passed: its type is a known one
	}
	h := sha256.New()
	h.Write([]byte(k.Algorithm + "\x00" + k.ID + "\x00"))
	h.Write(material)
	copy(f[:], h.Sum(nil))
	return f
}

// keyName is how a token names its key. The algorithm belongs to it: one kid may stand for a key of each.
type keyName struct{ id, algorithm string }

// keyring is the keys that are in force. It never changes: a fetched set makes a new one.
type keyring struct {
	fetched *keySet // that it was made with; nil for none
	byName  map[keyName]heldKey
	ids     map[string]bool
	// all has them by algorithm, for tokens without a kid: a provider that gives none has two keys while it
	// goes over from one to the next.
	all    map[string][]heldKey
	prints map[fingerprint]bool
}

type heldKey struct {
	Key
	print fingerprint
}

// newKeyring joins the configured keys and a fetched set. What is configured comes first: a provider
// can't take over a kid that the operator gave.
func newKeyring(static []Key, fetched *keySet) *keyring {
	r := &keyring{
		fetched: fetched, byName: map[keyName]heldKey{}, ids: map[string]bool{},
		all: map[string][]heldKey{}, prints: map[fingerprint]bool{},
	}
	for _, k := range static {
		r.add(k)
	}
	if fetched == nil {
		return r
	}
	configured := map[string]bool{}
	for _, k := range static {
		configured[k.ID] = k.ID != ""
	}
	for _, k := range fetched.keys {
		if !configured[k.ID] {
			r.add(k)
		}
	}
	return r
}

func (r *keyring) add(k Key) {
	held := heldKey{k, k.fingerprint()}
	r.prints[held.print] = true
	if k.ID != "" {
		r.byName[keyName{k.ID, k.Algorithm}] = held
		r.ids[k.ID] = true
	}
	r.all[k.Algorithm] = append(r.all[k.Algorithm], held)
}

// maxTried is how many keys a token without a kid is tried with: each costs a verification.
const maxTried = 4

// find are the keys that a token is to be verified with, in turn; errUnknownKey if there is none, which a fetch
// may change. Nothing but the token's header is believed to have a form so far.
func (r *keyring) find(t *jwt.Token) ([]heldKey, error) {
	if _, ok := t.Header["crit"]; ok { // RFC 7515 §4.1.11: we understand no extension
		return nil, bad("the header demands an extension (crit)")
	}
	alg := t.Method.Alg()
	kid, named := t.Header["kid"]
	if !named {
		keys := r.all[alg]
		if len(keys) == 0 {
			return nil, errUnknownKey
		}
		return keys[:min(len(keys), maxTried)], nil
	}
	id, ok := kid.(string)
	switch {
	case !ok:
		return nil, bad("kid is not a string")
	case len(id) > maxClaim:
		return nil, bad("kid is too long")
	}
	if key, ok := r.byName[keyName{id, alg}]; ok {
		return []heldKey{key}, nil
	}
	if r.ids[id] { // algorithm confusion: the key decides, not the header
		return nil, bad("the token's algorithm is not that of its key")
	}
	return nil, errUnknownKey
}
