package api

import (
	"hash/maphash"
	mathrand "math/rand/v2"
	"sync"
	"time"

	"github.com/nudgesync/nudge/server/wire"
)

// rateBurst is how many seconds' worth of pulls may come at once.
const rateBurst = 5

// minRateWait is what the time to come back after differs by at least.
const minRateWait = 100 * time.Millisecond

// pullRates bound how often a device pulls, and a user with all devices. A loop through the pages of a snapshot
// stays below: 50 pages of 500 rows a second are more than a device stores. It is a client gone wild that meets it.
type pullRates struct {
	devices *buckets[deviceKey]
	users   *buckets[string]
}

func newPullRates(device, user int) *pullRates {
	return &pullRates{newBuckets[deviceKey](device), newBuckets[string](user)}
}

// allow counts a pull of a device, or says that it is one too many. A device that is refused costs its user
// nothing.
func (r *pullRates) allow(key deviceKey, now time.Time) error {
	return allowBoth(r.devices, r.users, key, now, "this device pulls too often", "this user's devices pull too often")
}

// allowBoth takes a token of the device and then one of its user.
func allowBoth(devices *buckets[deviceKey], users *buckets[string], key deviceKey, now time.Time, device, user string) error {
	wait, detail := devices.take(key, now), device
	if wait == 0 {
		wait, detail = users.take(key.user, now), user
	}
	if wait == 0 {
		return nil
	}
	return wire.NewProblem(wire.RateLimited, detail).After(wait + time.Duration(mathrand.Int64N(int64(max(wait, minRateWait)))))
}

// buckets are token buckets by key. One is the time at which it will be full again (the generic cell rate
// algorithm), so a full one need not be kept: what is held are those that were used within the last seconds.
type buckets[K comparable] struct {
	every time.Duration // a token comes
	burst time.Duration // until an empty one is full
	seed  maphash.Seed
	parts [64]bucketPart[K]
}

// bucketPart has a share of the keys, so that pulls do not meet at one lock.
type bucketPart[K comparable] struct {
	mu    sync.Mutex
	full  map[K]time.Time // when each is full again
	sweep int             // at this size the full ones are dropped
}

// minSweep is a size below which it is not worth it.
const minSweep = 64

func newBuckets[K comparable](perSecond int) *buckets[K] {
	return newBucketsOf[K](time.Second/time.Duration(perSecond), rateBurst*perSecond)
}

// newBucketsOf makes buckets of so many tokens, of which one comes every so often.
func newBucketsOf[K comparable](every time.Duration, tokens int) *buckets[K] {
	b := &buckets[K]{every: every, burst: time.Duration(tokens) * every, seed: maphash.MakeSeed()}
	for i := range b.parts {
		b.parts[i] = bucketPart[K]{full: map[K]time.Time{}, sweep: minSweep}
	}
	return b
}

// take takes a token, or says how long to wait for one.
func (b *buckets[K]) take(key K, now time.Time) (wait time.Duration) {
	p := &b.parts[maphash.Comparable(b.seed, key)%uint64(len(b.parts))]
	p.mu.Lock()
	defer p.mu.Unlock()
	full, used := p.full[key]
	if full.Before(now) {
		full = now
	}
	full = full.Add(b.every)
	if wait := full.Sub(now) - b.burst; wait > 0 {
		return wait
	}
	if !used && len(p.full) >= p.sweep {
		p.drop(now)
	}
	p.full[key] = full
	return 0
}

// drop forgets the buckets that are full, and comes again when twice as many are held as are left: it costs each
// pull a constant share.
func (p *bucketPart[K]) drop(now time.Time) {
	kept := make(map[K]time.Time, len(p.full)/2) // a map does not shrink
	for key, full := range p.full {
		if full.After(now) {
			kept[key] = full
		}
	}
	p.full, p.sweep = kept, max(minSweep, 2*len(kept))
}
