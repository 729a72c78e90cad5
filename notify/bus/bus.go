// Package bus carries appended batches from the feed to every node.
//
// A bus may lose frames and promises nothing about the ones it lost: a receiver compares the positions
// of what it gets and reads what is missing from the log (I7). So a publisher never waits for a
// subscriber, and a subscriber that is too slow loses frames rather than memory.
package bus

import (
	"context"

	"github.com/nudgesync/nudge/changefeed/change"
)

// MaxFrameBytes is the most that the changes of a frame may take, by change.Change.Bytes, to travel with
// it. A larger batch travels as heads only, and its receivers read it from the log (A22).
const MaxFrameBytes = 4 << 20

// Bus is a road from the feed to the nodes. Its methods may be called from any goroutine.
type Bus interface {
	// Publish sends the frame to all that are subscribed, or to none. It does not wait for them, and
	// frames of one publisher keep their order. The frame's changes must not be modified afterwards. An
	// error means that the frame may be lost; it needs no repetition (I7).
	Publish(ctx context.Context, f change.Frame) error

	// Subscribe calls fn for every frame, from one goroutine, until ctx ends; then it returns nil. It
	// calls ready, once, when every frame published from then on comes unless it is lost: read
	// the log's position only after that (A7). A broken connection is mended within, at the price of the
	// frames meanwhile. fn must only read the frame's changes.
	Subscribe(ctx context.Context, ready func(), fn func(change.Frame)) error
}

// Lighten returns the frame as it travels: without its changes if they are too large for a bus.
func Lighten(f change.Frame) change.Frame {
	if changeBytes(f) > MaxFrameBytes {
		f.Changes, f.HeadsOnly = nil, true
	}
	return f
}

func changeBytes(f change.Frame) int {
	n := 0
	for i := range f.Changes {
		n += f.Changes[i].Bytes()
	}
	return n
}
