package api

import (
	"context"
	"sync"
	"time"
)

// lateDeadline is a context with a deadline whose timer starts when somebody looks at it. Nobody does in a pull
// from memory, of which timer and cancellation would be a tenth.
type lateDeadline struct {
	parent context.Context
	at     time.Time

	mu     sync.Mutex
	armed  context.Context // parent with the deadline; nil: nobody has looked yet
	cancel context.CancelFunc
}

func (d *lateDeadline) arm() context.Context {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.armed == nil {
		d.armed, d.cancel = context.WithDeadline(d.parent, d.at)
	}
	return d.armed
}

// stop gives the timer back, and cancels whoever still waits. It is called once, when nobody will look anew.
func (d *lateDeadline) stop() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.cancel != nil {
		d.cancel()
	}
}

func (d *lateDeadline) Deadline() (time.Time, bool) { return d.arm().Deadline() } // the parent's may be earlier
func (d *lateDeadline) Done() <-chan struct{}       { return d.arm().Done() }
func (d *lateDeadline) Err() error                  { return d.arm().Err() }
func (d *lateDeadline) Value(key any) any           { return d.arm().Value(key) } // as contexts made of it ask for their parent
