package pull

import (
	"context"
	"errors"
	"sync"
)

// beats has one heartbeat serve everybody who waits for the log to pass some place: what each of them needs is
// any heartbeat that is sent after it asked. So many devices that start at once cost no heartbeat each.
type beats struct {
	sending chan struct{} // of capacity 1; full while a heartbeat is on its way

	mu   sync.Mutex
	next *beat // not begun yet; nil: nobody waits for one
}

// beat is one heartbeat. err is set before done is closed.
type beat struct {
	done chan struct{}
	err  error
}

// errAbandoned: the pull that was to send the heartbeat has ended.
var errAbandoned = errors.New("the heartbeat was given up")

func newBeats() *beats { return &beats{sending: make(chan struct{}, 1)} }

// after returns once a heartbeat was sent that began after the call. The first to ask for one sends it, for all
// that asked until it begins.
func (b *beats) after(ctx context.Context, send func(context.Context) error) error {
	for {
		b.mu.Lock()
		n := b.next
		mine := n == nil
		if mine {
			n = &beat{done: make(chan struct{})}
			b.next = n
		}
		b.mu.Unlock()
		if mine {
			return b.send(ctx, n, send)
		}
		select {
		case <-n.done:
		case <-ctx.Done():
			return ctx.Err()
		}
		if !errors.Is(n.err, errAbandoned) {
			return n.err
		}
	}
}

func (b *beats) send(ctx context.Context, n *beat, send func(context.Context) error) error {
	defer close(n.done)
	var err error
	select {
	case b.sending <- struct{}{}:
		defer func() { <-b.sending }()
		b.begin()
		err = send(ctx)
	case <-ctx.Done():
		b.begin()
		err = ctx.Err()
	}
	n.err = err
	if ctx.Err() != nil {
		n.err = errAbandoned
	}
	return err
}

// begin leaves whoever asks from now on to the next heartbeat.
func (b *beats) begin() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.next = nil
}
