package auth

import (
	"crypto/sha256"
	"sync"
)

// cacheSize is how many tokens a generation of the cache holds; an entry takes some 220 bytes.
const cacheSize = 32 << 10

// digest names a token in the cache, so that the cache holds no credential, and no more for a longer one.
func digest(token string) [sha256.Size]byte {
	return sha256.Sum256(append(make([]byte, 0, 1<<10), token...)) // most tokens are copied on the stack
}

// cache remembers the identities of verified tokens. A device shows the same token at every pull
// and reconnect; an RS256 or ES256 signature costs tens of microseconds to verify and a digest less
// than one, which in a reconnect storm decides how fast a node admits.
//
// Only verified tokens enter, so nobody without a valid one can push others out. It keeps two generations and
// drops the older one when the younger is full: bounded, without a list to maintain at each hit. A
// token in use moves to the younger generation.
type cache struct{ parts [cacheParts]cachePart }

// cacheParts is how many locks share the tokens, so that requests do not meet at one.
const cacheParts = 64

type cachePart struct {
	size int // of a generation

	mu           sync.Mutex
	young, older map[[sha256.Size]byte]*Identity // pointers: a map keeps a good deal of free places
}

func newCache(size int) *cache {
	c := &cache{}
	for i := range c.parts {
		c.parts[i] = cachePart{size: size / cacheParts, young: map[[sha256.Size]byte]*Identity{}}
	}
	return c
}

// get returns what put stored. Whether it has expired since is the caller's to check.
func (c *cache) get(sum [sha256.Size]byte) (Identity, bool) { return c.part(sum).get(sum) }

func (c *cache) put(sum [sha256.Size]byte, id Identity) { c.part(sum).put(sum, id) }

func (c *cache) part(sum [sha256.Size]byte) *cachePart { return &c.parts[sum[0]%cacheParts] }

func (c *cachePart) get(sum [sha256.Size]byte) (Identity, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	id, ok := c.young[sum]
	if !ok {
		if id, ok = c.older[sum]; !ok {
			return Identity{}, false
		}
		c.store(sum, id)
	}
	return *id, true
}

func (c *cachePart) put(sum [sha256.Size]byte, id Identity) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.store(sum, &id)
}

func (c *cachePart) store(sum [sha256.Size]byte, id *Identity) {
	if len(c.young) >= c.size {
		c.older, c.young = c.young, map[[sha256.Size]byte]*Identity{}
	}
	c.young[sum] = id
}
