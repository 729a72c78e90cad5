package device

import "time"

// Bounds of the reconnect backoff.
const (
	backoffBase = 100 * time.Millisecond
	backoffCap  = 10 * time.Second
)

// backoff is exponential with full jitter: the n-th wait is a random share of base·2ⁿ, at most cap.
type backoff struct {
	random  func() float64 // in [0, 1)
	attempt int
}

// next is how long to wait now. A server's hint wins over our own reckoning; it counts as an attempt
// all the same.
func (b *backoff) next(hint time.Duration) time.Duration {
	ceiling := backoffCap
	if b.attempt < 7 { // 100 ms · 2⁷ is past the cap
		ceiling = min(backoffCap, backoffBase<<b.attempt)
	}
	b.attempt++
	if hint > 0 {
		return hint
	}
	return time.Duration(b.random() * float64(ceiling))
}

// reset forgets the attempts.
func (b *backoff) reset() { b.attempt = 0 }
