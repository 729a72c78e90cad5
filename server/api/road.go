package api

import (
	"context"
	"net"
	"time"

	"github.com/coder/websocket"

	"github.com/nudgesync/nudge/server/wire"
)

// road is what a session's frames leave by: a WebSocket, or an event stream. Its methods may be called
// from any goroutine; frames go out whole, one behind the other.
type road interface {
	// write sends a frame of the type. An error means that the road is at its end; behind ctx's deadline
	// half a frame may be under way.
	write(ctx context.Context, typ string, frame []byte) error
	// ping asks for a sign of life, as far as the road knows one.
	ping(ctx context.Context) error
	// close says why, and ends the road.
	close(code int, cause string)
	// cut ends the road at once, with every write under way. Further calls do nothing.
	cut()
}

// socketRoad is a WebSocket.
type socketRoad struct {
	conn *websocket.Conn
	raw  net.Conn // under conn, to cut it
}

func (r socketRoad) write(ctx context.Context, _ string, frame []byte) error {
	return r.conn.Write(ctx, websocket.MessageText, frame)
}

func (r socketRoad) ping(ctx context.Context) error { return r.conn.Ping(ctx) }

// close is the close handshake. A client that takes no part in it is left after a while.
func (r socketRoad) close(code int, cause string) {
	_ = r.raw.SetReadDeadline(time.Now().Add(closeWait))
	_ = r.conn.Close(websocket.StatusCode(code), wire.CloseReason(cause))
}

// cut closes what lies under the WebSocket first: half a close handshake would make the library wait. The
// library's own close frees pings that wait for their pong.
func (r socketRoad) cut() {
	_ = r.raw.Close()
	_ = r.conn.CloseNow()
}
