package api

import "time"

// road is what a session's frames leave by: a WebSocket, or an event stream. Its methods may be called
// from any goroutine; frames go out whole, one behind the other.
type road interface {
	// write sends a frame of the type. An error means that the road is at its end; behind the deadline
	// half a frame may be under way.
	write(deadline time.Time, typ string, frame []byte) error
	// ping asks for a sign of life, as far as the road knows one. errNoPong: the last one was not answered.
	ping(deadline time.Time) error
	// close says why, and ends the road.
	close(code int, cause string)
	// cut ends the road at once, with every write under way. Further calls do nothing.
	cut()
}
