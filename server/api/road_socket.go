package api

import (
	"context"
	"sync"
	"time"

	"github.com/coder/websocket"

	"github.com/nudgesync/nudge/server/wire"
)

// socketRoad is a WebSocket.
type socketRoad struct {
	conn *websocket.Conn
	in   *inlet // under conn

	writing sync.Mutex // held for the writing of one frame: the deadline is the connection's
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

func (r *socketRoad) ping(ctx context.Context) error { return r.conn.Ping(ctx) }

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
