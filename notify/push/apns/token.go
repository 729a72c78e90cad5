package apns

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/sideshow/apns2/token"
)

// How old a provider token gets. Apple refuses one older than an hour, and a team that renews more often than
// every 20 minutes.
const (
	youngest = 20 * time.Minute
	oldest   = 50 * time.Minute
)

// Team signs the provider tokens of a developer team: one for all connections, since Apple counts them. Its
// methods may be called from any goroutine.
type Team struct {
	id, keyID string
	key       *ecdsa.PrivateKey
	minted    func()
	now       func() time.Time

	mu      sync.Mutex
	bearer  string
	at      time.Time // when bearer was signed
	blocked time.Time // Apple said that there were too many: none before that
}

// TeamConfig is a developer team and its key.
type TeamConfig struct {
	ID, KeyID string // ten characters each
	Key       []byte // the .p8 file: PKCS 8 in PEM
	Minted    func() // called for each token that is signed

	// Now is the clock; nil: time.Now.
	Now func() time.Time
}

// NewTeam reads the key. Its errors are for operators, and never quote the key.
func NewTeam(cfg TeamConfig) (*Team, error) {
	key, err := token.AuthKeyFromBytes(cfg.Key)
	switch {
	case cfg.ID == "" || cfg.KeyID == "":
		return nil, errors.New("apns: team and key_id are needed")
	case errors.Is(err, token.ErrAuthKeyNotPem):
		return nil, fmt.Errorf("apns: the key of team %s is not PEM: it must be the .p8 file as downloaded from Apple", cfg.ID)
	case err != nil:
		return nil, fmt.Errorf("apns: the key of team %s is no ECDSA key in PKCS 8: it must be the .p8 file as downloaded from Apple", cfg.ID)
	case key.Curve != elliptic.P256():
		return nil, fmt.Errorf("apns: the key of team %s is not on P-256", cfg.ID)
	}
	t := &Team{id: cfg.ID, keyID: cfg.KeyID, key: key, minted: cfg.Minted, now: cfg.Now}
	if t.now == nil {
		t.now = time.Now
	}
	return t, nil
}

// current is the provider token, signed anew if it is old.
func (t *Team) current() (string, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.now()
	if t.bearer != "" && (now.Sub(t.at) < oldest || now.Before(t.blocked)) {
		return t.bearer, nil
	}
	return t.bearer, t.mint(now)
}

// expired is told that Apple refused a token for its age. It reports whether there is a newer one now: if the token
// was young, another would be refused as well.
func (t *Team) expired(bearer string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.now()
	switch {
	case bearer != t.bearer:
		return true // somebody else was told first
	case now.Sub(t.at) < youngest || now.Before(t.blocked):
		return false
	}
	return t.mint(now) == nil
}

// block stops signing for a while.
func (t *Team) block() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.blocked = t.now().Add(youngest)
}

// mint signs a token. Called with mu held, so that one is enough for all that wait.
func (t *Team) mint(now time.Time) error {
	j := jwt.NewWithClaims(jwt.SigningMethodES256, jwt.MapClaims{"iss": t.id, "iat": now.Unix()})
	j.Header = map[string]any{"alg": "ES256", "kid": t.keyID}
	bearer, err := j.SignedString(t.key)
	if err != nil {
		return fmt.Errorf("apns: signing a provider token: %w", err)
	}
	t.bearer, t.at = bearer, now
	if t.minted != nil {
		t.minted()
	}
	return nil
}
