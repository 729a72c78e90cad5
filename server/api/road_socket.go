package api

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"

	"github.com/nudgesync/nudge/server/wire"
)

var errNoPong = errors.New("no pong")

// socketRoad is a WebSocket.
type socketRoad struct {
	conn *websocket.Conn
	in   *inlet // under conn

	writing sync.Mutex  // held for the writing of one frame: the deadline is the connection's
	pinged  atomic.Bool // and no pong has come since
}

// write gives the connection the deadline, and not the library a context: that would cost a timer and some
// allocations a frame, and the library holds on to its last context.
func (r *socketRoad) write(deadline time.Time, _ string, frame []byte) error {
	r.writing.Lock()
	defer r.writing.Unlock()
	if err := r.in.SetWriteDeadline(deadline); err != nil {
		return err
	}
	if err := r.conn.Write(context.Background(), websocket.MessageText, frame); err != nil {
		return err
	}
	return r.in.SetWriteDeadline(time.Time{}) // control frames are the library's to time
}

// pingFrame is a ping without payload (RFC 6455 §5.5.2).
var pingFrame = [2]byte{0x80 | 9, 0}

// ping writes past the library, whose own ping takes a goroutine that waits for the pong, and leaves 200 bytes
// behind. It can't split another frame: those of more than one write are written under the same lock.
func (r *socketRoad) ping(deadline time.Time) error {
	if r.pinged.Swap(true) {
		return errNoPong
	}
	r.writing.Lock()
	defer r.writing.Unlock()
	if err := r.in.SetWriteDeadline(deadline); err != nil {
		return err
	}
	if _, err := r.in.Write(pingFrame[:]); err != nil {
		return err
	}
	return r.in.SetWriteDeadline(time.Time{})
}

// lives notes a pong.
func (r *socketRoad) lives() { r.pinged.Store(false) }

// close is the close handshake. A client that takes no part in it is left after a while.
func (r *socketRoad) close(code int, cause string) {
	r.in.handOver()
	_ = r.in.SetReadDeadline(time.Now().Add(closeWait))
	_ = r.conn.Close(websocket.StatusCode(code), wire.CloseReason(cause))
}

// cut closes what lies under the WebSocket first: half a close handshake would make the library wait. The
// library's own close frees pings that wait for their pong.
func (r *socketRoad) cut() {
	_ = r.in.Close()
	_ = r.conn.CloseNow()
}
