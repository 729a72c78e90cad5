package auth

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/nudgesync/nudge/server/wire"
)

const (
	// ReadEvery is how often a node looks for new revocations: one indexed statement a second.
	ReadEvery = time.Second

	// BlindAfter is how long a node goes on letting people in while it can't read revocations. Beyond it
	// everybody is token_unverifiable: rather nobody for a while than somebody who was locked out. Open
	// sockets stay, since a nudge says nothing, but their pulls are refused alike.
	BlindAfter = 5 * time.Minute

	// allEvery is how often all of them are read instead of the new ones, which forgets those that were
	// trimmed. It happens after every failure, too: the database may be another one now, with other
	// numbers.
	allEvery = 5 * time.Minute

	readTimeout = 10 * time.Second
)

// ErrBlind is wrapped, beside the problem, by what Check returns while it can't be known who is revoked:
// nobody has lost anything yet.
var ErrBlind = errors.New("revocations can't be read")

// RevocationsConfig is what Revocations is made of.
type RevocationsConfig struct {
	// Pool connects to the database of the change log.
	Pool *pgxpool.Pool
	// OnChange is called, if not nil, after somebody was revoked. It must not block.
	OnChange func()
	// Now is the clock, time.Now if nil.
	Now     func() time.Time
	Log     *slog.Logger
	Metrics *Metrics // nil counts where nobody looks
}

// Revocations are the rows of nudge.revocations, and this node's memory of them.
type Revocations struct {
	cfg     RevocationsConfig
	metrics *Metrics
	poke    chan chan error

	// Owned by Run.
	last    int64     // the newest number read
	all     time.Time // when all were read; zero: they have to be
	failing bool

	mu      sync.RWMutex
	read    time.Time // when the last good read began; zero before the first
	revoked map[revokedName]revokedAt
}

// revokedName is whom a revocation names, as its row does.
type revokedName struct{ user, device, jti string }

type revokedAt struct{ at, until time.Time }

// NewRevocations makes a Revocations. It lets nobody in before Run has read them once.
func NewRevocations(cfg RevocationsConfig) *Revocations {
	r := &Revocations{cfg: cfg, metrics: cfg.Metrics, poke: make(chan chan error), revoked: map[revokedName]revokedAt{}}
	if r.cfg.Now == nil {
		r.cfg.Now = time.Now
	}
	if r.metrics == nil {
		r.metrics = unregisteredMetrics()
	}
	return r
}

// Check is the problem of an identity that was revoked, or of one of whom it can't be known; nil if it
// is good. It does not block.
func (r *Revocations) Check(id Identity) error {
	now := r.cfg.Now()
	r.mu.RLock()
	defer r.mu.RUnlock()
	if r.blind(now) {
		return fmt.Errorf("%w: %w", ErrBlind, wire.NewProblem(wire.TokenUnverifiable, "it can't be known who is locked out"))
	}
	if len(r.revoked) == 0 {
		return nil
	}
	for _, name := range []revokedName{{user: id.User}, {user: id.User, device: id.Device}} {
		if rev, ok := r.revoked[name]; ok && rev.holds(now) && !id.Issued.After(rev.at) { // also a zero one
			return wire.NewProblem(wire.TokenRevoked, "")
		}
	}
	if rev, ok := r.revoked[revokedName{jti: id.JTI}]; ok && rev.holds(now) {
		return wire.NewProblem(wire.TokenRevoked, "")
	}
	return nil
}

func (a revokedAt) holds(now time.Time) bool { return a.until.IsZero() || now.Before(a.until) }

func (r *Revocations) blind(now time.Time) bool {
	return r.read.IsZero() || now.Sub(r.read) > BlindAfter
}

// Ready reports whether it is known who is revoked.
func (r *Revocations) Ready() bool {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return !r.blind(r.cfg.Now())
}

// Hasten makes Run read now instead of within a second, and waits until it has, or until ctx ends. An error
// says that it has not, or could not.
func (r *Revocations) Hasten(ctx context.Context) error {
	done := make(chan error, 1)
	select {
	case r.poke <- done:
	case <-ctx.Done():
		return fmt.Errorf("read revocations: %w", ctx.Err())
	}
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("read revocations: %w", ctx.Err())
	}
}

// Run reads revocations until ctx ends. It is called once; its error is always nil.
func (r *Revocations) Run(ctx context.Context) error {
	tick := time.NewTicker(ReadEvery)
	defer tick.Stop()
	_ = r.look(ctx) // counted and logged there, as below
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			_ = r.look(ctx)
		case done := <-r.poke:
			done <- r.look(ctx)
		}
	}
}

// look reads what is new and takes it in.
func (r *Revocations) look(ctx context.Context) error {
	began := r.cfg.Now()
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	all := began.Sub(r.all) >= allEvery
	if all {
		r.last = 0
	}
	fresh, err := r.fetch(ctx, r.last)
	if err != nil {
		r.failed(ctx, err)
		return fmt.Errorf("read revocations: %w", err)
	}
	if r.failing {
		r.failing = false
		r.cfg.Log.Info("revocations can be read again")
	}
	if all {
		if !r.all.IsZero() {
			if err := r.trim(ctx); err != nil {
				r.cfg.Log.Debug("ended revocations were not dropped", "error", err)
			}
		}
		r.all = began
	}
	r.take(fresh, all, began)
	r.metrics.reads.WithLabelValues("ok").Inc()
	r.metrics.read.Set(float64(began.Unix()))
	if len(fresh) > 0 && r.cfg.OnChange != nil {
		r.cfg.OnChange()
	}
	return nil
}

func (r *Revocations) failed(ctx context.Context, err error) {
	if errors.Is(ctx.Err(), context.Canceled) { // stopping; out of time is a failure
		return
	}
	r.all = time.Time{}
	r.metrics.reads.WithLabelValues("failed").Inc()
	if !r.failing {
		r.failing = true
		r.cfg.Log.Error("revocations can't be read", "error", err, "nobody_is_let_in_after", BlindAfter)
	}
}

func (r *Revocations) take(fresh []Revocation, all bool, began time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if all {
		r.revoked = make(map[revokedName]revokedAt, len(fresh))
	}
	for _, rev := range fresh {
		r.revoked[revokedName{rev.User, rev.Device, rev.JTI}] = revokedAt{rev.At, rev.Until}
		r.last = rev.Seq
	}
	r.read = began
	r.metrics.revocations.Set(float64(len(r.revoked)))
}
