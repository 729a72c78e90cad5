package provider

import (
	"context"
	"crypto/ecdh"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// world is all phones, and what the providers know of them.
type world struct {
	ctx      context.Context // ends when the simulation is closed: apps stop working
	clock    *clock
	log      *Log
	project  string // of phones that name none
	vapidKey string // likewise
	pushURL  string // endpoint of a Web Push subscription, without its name
	hooks    *http.Client
	logger   *slog.Logger

	skew atomic.Int64   // see Providers.Skew
	work sync.WaitGroup // apps at work

	mu     sync.Mutex
	rand   *rand.Rand // makes tokens, and the phones' own
	phones map[string]*Phone
	tokens map[string]*issued // by name
	pushes int64
}

// issued is a token or subscription that a phone got. All but what is said is fixed.
type issued struct {
	name   string // the token; of a subscription, the end of its endpoint
	target Target
	phone  *Phone

	key  *ecdh.PrivateKey // of a browser's subscription
	auth []byte

	// Guarded by world.mu.
	gone     time.Time // since when it is dead, by the sender's time; zero if it lives
	reason   string    // APNs reason for that
	restored time.Time // it works again, and says so from then on, by the simulation's clock
	quota    deviceQuota
}

func newWorld(ctx context.Context, cfg Config) *world {
	clock := newClock()
	return &world{
		ctx: ctx, clock: clock, log: newLog(clock, cfg.LogSize), project: cfg.Projects[0], logger: cfg.Logger,
		hooks: &http.Client{Transport: &http.Transport{}}, rand: rand.New(rand.NewPCG(cfg.Seed, 0)),
		phones: make(map[string]*Phone), tokens: make(map[string]*issued),
	}
}

// senderTime is the time that a sender's own clock is held to.
func (w *world) senderTime() time.Time { return time.Now().Add(time.Duration(w.skew.Load())) }

func (w *world) random(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(w.rand.Uint32())
	}
	return b
}

// register gives the phone a fresh token.
func (ph *Phone) register(why string) error {
	w := ph.world
	t := &issued{phone: ph, target: Target{Kind: "token"}}
	switch ph.cfg.Platform {
	case IOS:
		t.name = hex.EncodeToString(w.random(32))
		t.target.Value = t.name
	case Android:
		t.name = base64.RawURLEncoding.EncodeToString(w.random(16)) + ":APA91b" + base64.RawURLEncoding.EncodeToString(w.random(100))
		t.target.Value = t.name
	case Browser:
		t.name = base64.RawURLEncoding.EncodeToString(w.random(32))
		t.auth = w.random(16)
		key, err := ecdh.P256().NewPrivateKey(w.random(32))
		if err != nil {
			return fmt.Errorf("subscription's key: %w", err)
		}
		t.key = key
		t.target = Target{
			Kind: "webpush", Value: w.pushURL + t.name,
			P256dh: base64.RawURLEncoding.EncodeToString(key.PublicKey().Bytes()),
			Auth:   base64.RawURLEncoding.EncodeToString(t.auth),
		}
	}
	ph.token = t
	w.tokens[t.name] = t
	ph.note(EventToken, "", why)
	return nil
}

func (t *issued) retire(w *world, reason string) {
	if t.gone.IsZero() || !t.restored.IsZero() {
		t.gone, t.reason, t.restored = w.senderTime(), reason, time.Time{}
	}
}

// find returns the token of that name, or nil, and since when its provider says that it is dead: the
// zero time if it lives.
func (w *world) find(name string) (t *issued, gone time.Time, reason string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	t = w.tokens[name]
	if t == nil || !t.restored.IsZero() && !w.clock.now().Before(t.restored) {
		return t, time.Time{}, ""
	}
	return t, t.gone, t.reason
}

// deliver is called with a push that a provider accepted.
func (w *world) deliver(t *issued, p *push) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.pushes++
	p.n = w.pushes
	t.phone.send(p)
}
