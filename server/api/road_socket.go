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

// write gives the connection the deadline instead of the library the context: that costs no allocation, a
// timer of its own, nor a context that the library keeps until the next frame.
func (r *socketRoad) write(ctx context.Context, _ string, frame []byte) error {
	r.writing.Lock()
	defer r.writing.Unlock()
	if deadline, ok := ctx.Deadline(); ok {
		if err := r.in.SetWriteDeadline(deadline); err != nil {
			return err
		}
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
