package changefeed

import (
	"sync"

	"github.com/nudgesync/nudge/changefeed/change"
	"github.com/nudgesync/nudge/changefeed/route"
)

// transaction is one decoded, routed transaction, or an adopted position (no xid, no changes).
type transaction struct {
	xid     uint32
	end     change.LSN
	changes []change.Change
	spilled *route.Spilled // its changes instead, if they were too many for memory
	// relations are the signatures of tables streamed anew in it.
	relations map[string]string
	// config: this transaction puts the wanted configuration in force.
	config bool
	// fence: snapshots must wait for every transaction that is open now.
	fence bool
	size  int // in memory, bytes
}

// routed reports whether the transaction may have changes.
func (t *transaction) routed() bool { return len(t.changes) > 0 || t.spilled != nil }

// close frees what the transaction holds on disk.
func (t *transaction) close() {
	if t.spilled != nil {
		t.spilled.Close()
	}
}

// batches is the place between session and appender: transactions that are received and not stored.
type batches struct {
	limit int

	mu      sync.Mutex
	waiting []transaction
	size    int
	adopt   change.LSN    // a keepalive's WAL end, worth storing once nothing is waiting
	taken   bool          // the appender is at work on some
	err     error         // of the appender
	more    chan struct{} // capacity 1: something is waiting
	less    chan struct{} // capacity 1: the appender took some
}

func newBatches(limit int) *batches {
	return &batches{limit: limit, more: make(chan struct{}, 1), less: make(chan struct{}, 1)}
}

// put adds a transaction. It never blocks; the session looks at full before it reads on.
func (b *batches) put(t transaction) {
	b.mu.Lock()
	b.waiting = append(b.waiting, t)
	b.size += t.size
	b.mu.Unlock()
	signal(b.more)
}

// adoptable says that the server's WAL ends at lsn and holds nothing for us up to there.
func (b *batches) adoptable(lsn change.LSN) {
	b.mu.Lock()
	b.adopt = lsn
	b.mu.Unlock()
	signal(b.more)
}

// idle reports whether everything received is stored.
func (b *batches) idle() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.waiting) == 0 && !b.taken
}

// busy reports whether the appender is at work.
func (b *batches) busy() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.taken
}

// full reports whether the session must stop reading, and the appender's error if it failed.
func (b *batches) full() (bool, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.size >= b.limit, b.err
}

// take returns everything that waits, up to and including a change of configuration, a spilled
// transaction by itself, or an adopted position if nothing waits. Its result is empty if there is neither.
func (b *batches) take() []transaction {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.waiting) == 0 {
		if b.adopt == 0 {
			return nil
		}
		t := transaction{end: b.adopt}
		b.adopt, b.taken = 0, true
		return []transaction{t}
	}
	n := len(b.waiting)
	for i := range b.waiting {
		if b.waiting[i].spilled != nil {
			n = max(i, 1)
			break
		}
		if b.waiting[i].config {
			n = i + 1
			break
		}
	}
	out := b.waiting[:n:n]
	b.waiting = append([]transaction(nil), b.waiting[n:]...)
	b.adopt, b.taken = 0, true // what waited came after it
	return out
}

// stored says that n bytes of what was taken are durable.
func (b *batches) stored(size int, all bool) {
	b.mu.Lock()
	b.size -= size
	if all {
		b.taken = false
	}
	b.mu.Unlock()
	signal(b.less)
}

func (b *batches) fail(err error) {
	b.mu.Lock()
	b.err = err
	b.mu.Unlock()
	signal(b.less)
}

// discard frees what still waits, once session and appender have ended.
func (b *batches) discard() {
	for i := range b.waiting {
		b.waiting[i].close()
	}
}

func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
