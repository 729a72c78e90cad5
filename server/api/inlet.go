package api

import (
	"bufio"
	"errors"
	"net"
	"sync"
	"time"
)

var (
	errBetweenFrames = errors.New("between two frames")
	errHandedOver    = errors.New("the close handshake reads")
)

// inlet is the connection under a WebSocket. It lets the reader wait for a frame outside of the library: a
// session waits nearly all its life, and a goroutine's stack stays as large as what it waits in has made it.
// In wait that is the least there is, a fourth of what the library's own way down would keep.
type inlet struct {
	net.Conn
	buffer *bufio.Reader // the library's, over this

	// Owned by whom the library lets read.
	early []byte // frames that came along with the request
	pause bool   // the next read returns errBetweenFrames

	mu         sync.Mutex
	beginning  bool          // no message has begun: what ends now ends between two of them
	waiting    bool          // the reader is in wait
	handedOver bool          // to the close handshake
	left       chan struct{} // closed when the reader has left wait for it; nil: nobody asked
}

// Read reads for the library.
func (in *inlet) Read(p []byte) (int, error) {
	if in.pause {
		in.pause = false
		return 0, errBetweenFrames
	}
	if len(in.early) > 0 {
		n := copy(p, in.early)
		in.early = in.early[n:]
		return n, nil
	}
	in.early = nil
	return in.Conn.Read(p)
}

// wait returns once a frame has begun, or with errHandedOver.
func (in *inlet) wait() error {
	in.mu.Lock()
	if in.handedOver {
		in.mu.Unlock()
		return errHandedOver
	}
	in.waiting = true
	in.mu.Unlock()
	_, err := in.buffer.Peek(1)
	in.mu.Lock()
	defer in.mu.Unlock()
	in.waiting, in.beginning = false, true
	if in.handedOver {
		close(in.left)
		return errHandedOver
	}
	return err
}

// begun notes that a message has begun.
func (in *inlet) begun() {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.beginning = false
}

// control notes that a control frame was read to its end. The library would wait for the next frame; with
// nothing more in the buffer it is interrupted, and the reader waits instead.
func (in *inlet) control() {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.pause = in.beginning && !in.handedOver && in.buffer.Buffered() == 0
}

// handOver lets the close handshake read: it returns when the reader waits no more, and never will again.
func (in *inlet) handOver() {
	in.mu.Lock()
	in.handedOver = true
	if !in.waiting {
		in.mu.Unlock()
		return
	}
	left := make(chan struct{})
	in.left = left
	_ = in.SetReadDeadline(time.Now())
	in.mu.Unlock()
	<-left
}
