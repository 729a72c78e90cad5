package bus

import (
	"context"
	"sync"
	"sync/atomic"

	"github.com/nudgesync/nudge/changefeed/change"
)

// What waits for a subscriber before it loses the next frame: a second of frames in a busy system, and
// no more memory than this.
const (
	bufferedFrames = 1024
	bufferedBytes  = 64 << 20
)

// Local is the bus of a single node, within the process.
type Local struct {
	published, dropped, light atomic.Uint64

	mu   sync.Mutex
	subs map[*subscription]struct{}
}

// subscription is the queue of one subscriber. Publish adds to it with mu held.
type subscription struct {
	frames chan change.Frame
	bytes  atomic.Int64 // of the changes in frames
}

// Stats counts what a bus did since it was made.
type Stats struct {
	Published uint64 // frames
	Light     uint64 // of those, sent as heads only because of their size
	Dropped   uint64 // frames that one subscriber was too slow for
}

// NewLocal returns a bus without subscribers.
func NewLocal() *Local {
	return &Local{subs: make(map[*subscription]struct{})}
}

// Publish implements Bus. It fails only if ctx has ended.
func (l *Local) Publish(ctx context.Context, f change.Frame) error {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	light := Lighten(f)
	if light.HeadsOnly && !f.HeadsOnly {
		l.light.Add(1)
	}
	l.published.Add(1)

	l.mu.Lock() // also keeps two publishers' frames in one order for all subscribers
	defer l.mu.Unlock()
	for s := range l.subs {
		if !s.offer(light) {
			l.dropped.Add(1)
		}
	}
	return nil
}

// offer queues the frame, or reports that there is no room.
func (s *subscription) offer(f change.Frame) bool {
	size := int64(changeBytes(f))
	if s.bytes.Add(size) <= bufferedBytes {
		select {
		case s.frames <- f:
			return true
		default:
		}
	}
	s.bytes.Add(-size)
	return false
}

// Subscribe implements Bus.
func (l *Local) Subscribe(ctx context.Context, ready func(), fn func(change.Frame)) error {
	s := &subscription{frames: make(chan change.Frame, bufferedFrames)}
	l.mu.Lock()
	l.subs[s] = struct{}{}
	l.mu.Unlock()
	defer func() {
		l.mu.Lock()
		delete(l.subs, s)
		l.mu.Unlock()
	}()
	ready()
	for ctx.Err() == nil {
		select {
		case f := <-s.frames:
			s.bytes.Add(-int64(changeBytes(f)))
			fn(f)
		case <-ctx.Done():
		}
	}
	return nil
}

// Stats returns the counters.
func (l *Local) Stats() Stats {
	return Stats{Published: l.published.Load(), Light: l.light.Load(), Dropped: l.dropped.Load()}
}
