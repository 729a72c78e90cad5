package api

import (
	"net/http"
	"sync"
	"time"

	"github.com/nudgesync/nudge/server/wire"
)

// A client has answerWithin to take an answer, and as much longer as its body needs at answerRate.
const (
	answerWithin = 10 * time.Second
	answerRate   = 64 << 10 // bytes a second
)

// userShare is the part of the node's bytes in flight that one user may have.
const userShare = 8

// bodies are the pages that are being written: a client that does not read has its page held for it, so
// what all of them hold has a bound, and what one user's do has a smaller one.
type bodies struct {
	most int // bytes

	mu     sync.Mutex
	held   int
	byUser map[string]int
}

func newBodies(most int) *bodies { return &bodies{most: most, byUser: map[string]int{}} }

// take counts n bytes for the user until release is called, or says that there is no room for them. A page
// that alone is above a bound passes it: or it would never pass.
func (b *bodies) take(user string, n int) (release func(), err error) {
	if n == 0 {
		return func() {}, nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	switch own := b.byUser[user]; {
	case own > 0 && own+n > b.most/userShare:
		return nil, wire.NewProblem(wire.RateLimited, "this user's pages are not being read")
	case b.held > 0 && b.held+n > b.most:
		return nil, busy("too many pages are not being read")
	}
	b.held += n
	b.byUser[user] += n
	return func() { b.give(user, n) }, nil
}

func (b *bodies) give(user string, n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.held -= n
	if b.byUser[user] -= n; b.byUser[user] == 0 {
		delete(b.byUser, user)
	}
}

// limitWrite bounds the writing of a body of n bytes from now on.
func limitWrite(w http.ResponseWriter, n int) {
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(answerWithin + time.Duration(n)*time.Second/answerRate))
}
