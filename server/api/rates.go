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
// nothing. The user is asked first: a device's name is whatever a client calls itself, so names are remembered at no
// more than the user's rate.
func (r *pullRates) allow(key deviceKey, now time.Time) error {
	return allowBoth(r.devices, r.users, key, now, "this device pulls too often", "this user's devices pull too often")
}

// allowBoth takes a token of the user and then one of its device.
func allowBoth(devices *buckets[deviceKey], users *buckets[string], key deviceKey, now time.Time, device, user string) error {
	wait, detail := users.take(key.user, now), user
	if wait == 0 {
		if wait = devices.take(key, now); wait > 0 {
			users.giveBack(key.user)
			detail = device
		}
	}
	if wait == 0 {
		return nil
	}
	return wire.NewProblem(wire.RateLimited, detail).After(wait + time.Duration(mathrand.Int64N(int64(max(wait, minRateWait)))))
}

// forget drops what was not used within the last seconds. Pulls do that by themselves while there are many; this is for
// when they have ended.
func (r *pullRates) forget(now time.Time) {
	r.devices.forget(now)
	r.users.forget(now)
}

// bucket is a token bucket: the time at which it will be full again (the generic cell rate algorithm). The zero
// bucket is full.
type bucket struct{ full time.Time }

// take takes a token, or says how long to wait for one. A token comes every so often, and an empty bucket is full
// after burst.
func (b *bucket) take(now time.Time, every, burst time.Duration) (wait time.Duration) {
	full := b.full
	if full.Before(now) {
		full = now
	}
	full = full.Add(every)
	if wait := full.Sub(now) - burst; wait > 0 {
		return wait
	}
	b.full = full
	return 0
}

// buckets are token buckets by key. A full one need not be kept: what is held are those that were used within the
// last seconds.
type buckets[K comparable] struct {
	every time.Duration // a token comes
	burst time.Duration // until an empty one is full
	seed  maphash.Seed
	parts [64]bucketPart[K]
}

// bucketPart has a share of the keys, so that pulls do not meet at one lock.
type bucketPart[K comparable] struct {
	mu    sync.Mutex
	used  map[K]bucket
	sweep int // at this size the full ones are dropped
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
		b.parts[i] = bucketPart[K]{used: map[K]bucket{}, sweep: minSweep}
	}
	return b
}

// take takes a token, or says how long to wait for one.
func (b *buckets[K]) take(key K, now time.Time) (wait time.Duration) {
	p := b.part(key)
	p.mu.Lock()
	defer p.mu.Unlock()
	one, used := p.used[key]
	if wait := one.take(now, b.every, b.burst); wait > 0 {
		return wait
	}
	if !used && len(p.used) >= p.sweep {
		p.drop(now)
	}
	p.used[key] = one
	return 0
}

// giveBack undoes a take.
func (b *buckets[K]) giveBack(key K) {
	p := b.part(key)
	p.mu.Lock()
	defer p.mu.Unlock()
	if one, used := p.used[key]; used {
		p.used[key] = bucket{one.full.Add(-b.every)}
	}
}

func (b *buckets[K]) part(key K) *bucketPart[K] {
	return &b.parts[maphash.Comparable(b.seed, key)%uint64(len(b.parts))]
}

func (b *buckets[K]) forget(now time.Time) {
	for i := range b.parts {
		p := &b.parts[i]
		p.mu.Lock()
		if len(p.used) > 0 {
			p.drop(now)
		}
		p.mu.Unlock()
	}
}

// drop forgets the buckets that are full, and comes again when twice as many are held as are left: it costs each
// pull a constant share.
func (p *bucketPart[K]) drop(now time.Time) {
	kept := make(map[K]bucket, len(p.used)/2) // a map does not shrink
	for key, one := range p.used {
		if one.full.After(now) {
			kept[key] = one
		}
	}
	p.used, p.sweep = kept, max(minSweep, 2*len(kept))
}
