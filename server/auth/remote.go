package auth

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	mathrand "math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nudgesync/nudge/server/wire"
)

// How a JWK Set is kept fresh.
const (
	// RefreshMin and RefreshMax bound what the provider's Cache-Control asks for; RefreshDefault is for
	// one that asks for nothing. A key that the provider drops is out of force RefreshMax later at most.
	RefreshMin     = time.Minute
	RefreshDefault = 5 * time.Minute
	RefreshMax     = 15 * time.Minute

	// UnknownKidGap is the least time between a fetch and one that an unknown kid asks for: six a minute,
	// whoever sends how many.
	UnknownKidGap = 10 * time.Second

	// StaleAfter is how long the last good set stays in force while the provider can't be heard. Beyond
	// it a key could have been withdrawn for a day without us knowing. It costs nobody: a provider that is
	// away for that long issues no tokens either.
	StaleAfter = 24 * time.Hour

	retryMin = time.Second
	retryMax = time.Minute
)

// maxWaiting bounds the tokens that are remembered because their key is unknown, times two.
const maxWaiting = 8 << 10

// RemoteConfig says where keys are fetched from.
type RemoteConfig struct {
	// URL of a JWK Set (RFC 7517 §5); see CheckURL.
	URL string
	// Algorithms that keys may have; empty means RS256, ES256 and EdDSA. HS256 is never one.
	Algorithms []string
	// OnChange is called, if not nil, after a key went out of force. It must not block.
	OnChange func()
	// Transport is for tests; nil means one like http.DefaultTransport.
	Transport http.RoundTripper
	Log       *slog.Logger // needed
	Metrics   *Metrics     // nil counts where nobody looks
}

// Remote is the keys of an identity provider, fetched in the background by Run. What goes wrong on the
// way changes nothing: the last good set stays in force, for StaleAfter at most.
//
// A token whose kid is in no set is answered at once. It is token_unverifiable for as long as no fetch
// that began after the token was first seen has ended well, with an answer not older than that, and it makes one due, UnknownKidGap after
// the last at the earliest. Once such a fetch did not bring the kid it is token_bad. It is the token
// that is remembered, not the kid: whoever guesses tomorrow's kid today does not lock out those who bring
// it tomorrow. A flood makes the memory forget, and a forgotten token waits for the next fetch, again.
type Remote struct {
	cfg        RemoteConfig
	host       string // of URL, for logs: a query may hold a secret
	algorithms []string
	client     *http.Client
	log        *slog.Logger
	metrics    *Metrics
	wake       chan struct{} // a token waits; capacity 1

	set atomic.Pointer[keySet] // the last good one

	// Owned by Run.
	failures int
	failing  string // the reason that was logged; "" while all is well
	etag     string
	ignored  []ignoredKey // as logged last

	mu    sync.Mutex
	began time.Time // the newest fetch
	begun uint64    // fetches so far, it included
	asked bool      // a token waits for one that is to begin
	// Tokens of unknown keys, and when each was first seen.
	waiting, older map[[sha256.Size]byte]seen
}

// seen is a moment: the fetches that had begun, and the time, which a cache's answer may be older than.
type seen struct {
	begun uint64
	at    time.Time
}

// keySet is what one fetch brought. It never changes.
type keySet struct {
	keys   []Key
	number uint64    // of the fetch, from 1
	asOf   time.Time // when the provider said so: a cache may have answered for it later
	until  time.Time // the end of its being in force
}

// NewRemote makes a Remote, or says what is wrong with the configuration. Nothing is fetched before Run.
func NewRemote(cfg RemoteConfig) (*Remote, error) {
	if err := CheckURL(cfg.URL); err != nil {
		return nil, err
	}
	u, err := url.Parse(cfg.URL)
	if err != nil {
		return nil, err
	}
	r := &Remote{
		cfg: cfg, host: u.Host, log: cfg.Log, metrics: cfg.Metrics,
		wake: make(chan struct{}, 1), waiting: map[[sha256.Size]byte]seen{},
		algorithms: []string{RS256, ES256, EdDSA},
	}
	if len(cfg.Algorithms) > 0 {
		r.algorithms = slices.DeleteFunc(r.algorithms, func(a string) bool { return !slices.Contains(cfg.Algorithms, a) })
	}
	if len(r.algorithms) == 0 {
		return nil, errors.New("none of the algorithms is one that a fetched key can have")
	}
	if r.metrics == nil {
		r.metrics = unregisteredMetrics()
	}
	transport := cfg.Transport
	if transport == nil {
		// Once in minutes: a connection kept open would only be found dead.
		transport = &http.Transport{
			Proxy: http.ProxyFromEnvironment, DisableKeepAlives: true, ForceAttemptHTTP2: true,
			TLSHandshakeTimeout: fetchTimeout, MaxResponseHeaderBytes: 64 << 10,
		}
	}
	r.client = &http.Client{Transport: transport, Timeout: fetchTimeout, CheckRedirect: checkRedirect}
	return r, nil
}

// CheckURL says whether keys may be fetched from there: by https, or by http on this machine. Whoever
// can change the answer on its way can sign in as anybody.
func CheckURL(s string) error {
	u, err := url.Parse(s)
	switch {
	case err != nil || u.Host == "" || u.Hostname() == "":
		return errors.New("this is not the URL of a JWK Set")
	case u.User != nil:
		return errors.New("a URL with a password in it would end up in logs")
	case u.Scheme != "https" && (u.Scheme != "http" || !loopback(u.Hostname())):
		return errors.New("keys are fetched by https, or by http from a loopback address")
	}
	return nil
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// current is the set in force; nil if there is none.
func (r *Remote) current() *keySet {
	set := r.set.Load()
	if set == nil || !time.Now().Before(set.until) {
		return nil
	}
	return set
}

// unknown is the problem of a token whose key is not in force.
func (r *Remote) unknown(sum [sha256.Size]byte) error {
	now := time.Now()
	r.mu.Lock()
	first, known := r.waiting[sum]
	if !known {
		if first, known = r.older[sum]; !known {
			first = seen{r.begun, now}
		}
		if len(r.waiting) >= maxWaiting {
			r.older, r.waiting = r.waiting, map[[sha256.Size]byte]seen{}
		}
		r.waiting[sum] = first
	}
	set := r.set.Load()
	later := set != nil && set.number > first.begun
	if later && !set.asOf.Before(first.at) && now.Before(set.until) {
		r.mu.Unlock()
		r.metrics.unknown.WithLabelValues(string(wire.TokenBad)).Inc()
		return bad(errUnknownKey.Error())
	}
	r.asked = r.asked || first.begun == r.begun || later // not while one is under way
	due := max(0, r.began.Add(UnknownKidGap).Sub(now))
	r.mu.Unlock()
	select {
	case r.wake <- struct{}{}:
	default:
	}
	r.metrics.unknown.WithLabelValues(string(wire.TokenUnverifiable)).Inc()
	// The fetch takes a moment, and those who wait for it should not come back as one.
	retry := due + time.Second + time.Duration(mathrand.Int64N(int64(2*time.Second)))
	return wire.NewProblem(wire.TokenUnverifiable, "the token's key is not known yet").After(retry)
}

// Run fetches the keys at once, and again when they are due, until ctx ends. It is called once; its
// error is always nil.
func (r *Remote) Run(ctx context.Context) error {
	next := time.Now()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-r.wake:
			if at, waits := r.due(); waits && at.Before(next) {
				next = at
				timer.Reset(time.Until(next))
			}
			continue
		case <-timer.C:
		}
		r.mu.Lock()
		asked := r.asked
		r.began, r.asked = time.Now(), false
		r.begun++
		number := r.begun
		r.mu.Unlock()
		next = time.Now().Add(r.refresh(ctx, number, asked))
		timer.Reset(time.Until(next))
	}
}

// due is when a fetch for unknown kids may begin, and whether a token still waits for one.
func (r *Remote) due() (at time.Time, waits bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.began.Add(UnknownKidGap), r.asked
}

// refresh fetches once, past caches if a token waits for it, and returns how long to wait for the next time.
func (r *Remote) refresh(ctx context.Context, number uint64, asked bool) time.Duration {
	began := time.Now()
	got, err := r.fetch(ctx, asked)
	if ctx.Err() != nil {
		return 0
	}
	if err != nil {
		r.failed(err)
		return backoff(r.failures)
	}
	r.metrics.fetches.WithLabelValues(got.result).Inc()
	before, set := r.set.Load(), &keySet{number: number, asOf: began.Add(-got.age), until: began.Add(StaleAfter)}
	if set.keys = got.keys; got.result == resultUnchanged {
		set.keys = before.keys
	}
	r.set.Store(set)
	r.etag, r.failures = got.etag, 0
	r.metrics.keys.Set(float64(len(set.keys)))
	r.metrics.fetched.Set(float64(began.Unix()))
	r.succeeded(got, before)
	if r.cfg.OnChange != nil && before != nil && lost(before.keys, set.keys) {
		r.cfg.OnChange()
	}
	// Earlier by up to a tenth, so that nodes that started together do not ask together for ever.
	return got.fresh - time.Duration(mathrand.Int64N(int64(got.fresh)/10))
}

// lost reports whether a key that was in force no longer is.
func lost(before, after []Key) bool {
	return slices.ContainsFunc(before, func(k Key) bool {
		return !slices.ContainsFunc(after, func(l Key) bool { return k.fingerprint() == l.fingerprint() })
	})
}

// backoff doubles from retryMin to retryMax, less up to a half.
func backoff(failures int) time.Duration {
	d := retryMax
	if failures < 7 {
		d = min(retryMax, retryMin<<(failures-1))
	}
	return d - time.Duration(mathrand.Int64N(int64(d)/2))
}

// failed takes note of a fetch that brought nothing: one line a reason, not one a try.
func (r *Remote) failed(err error) {
	r.failures++
	reason := resultUnreachable
	var bad *fetchError
	if errors.As(err, &bad) {
		reason = bad.result
	}
	r.metrics.fetches.WithLabelValues(reason).Inc()
	if reason == r.failing {
		return
	}
	r.failing = reason
	args := []any{"host", r.host, "reason", reason, "error", err}
	if set := r.current(); set != nil {
		r.log.Warn("the provider's keys could not be fetched; the last ones stay in force", append(args, "until", set.until)...)
		return
	}
	r.log.Error("the provider's keys could not be fetched; there are none to verify its tokens with", args...)
}

// succeeded logs what a good fetch changed.
func (r *Remote) succeeded(got fetched, before *keySet) {
	if r.failing != "" {
		r.log.Info("the provider's keys can be fetched again", "host", r.host)
		r.failing = ""
	}
	if got.result == resultUnchanged {
		return
	}
	if before == nil || lost(before.keys, got.keys) || lost(got.keys, before.keys) {
		r.log.Info("the provider's keys changed", "host", r.host, "keys", names(got.keys))
	}
	r.metrics.ignored.Reset()
	var lines []string
	for _, i := range got.ignored {
		r.metrics.ignored.WithLabelValues(i.reason).Inc()
		lines = append(lines, fmt.Sprintf("%q: %s", i.id, i.reason))
	}
	if len(lines) > 0 && !slices.Equal(got.ignored, r.ignored) {
		r.log.Warn("some of the provider's keys are not used", "host", r.host, "keys", lines[:min(len(lines), 20)])
	}
	r.ignored = got.ignored
}

func names(keys []Key) []string {
	var out []string
	for _, k := range keys {
		out = append(out, k.ID+" "+k.Algorithm)
	}
	return out
}
