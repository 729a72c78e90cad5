package changefeed

import (
	"bytes"
	"net"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"
)

// Ackable is the rule for positions that are confirmed.
var Ackable = ackable

// WidenSQL is how the gate widens transaction ids.
const WidenSQL = widenSQL

// GateOf is the gate under a snapshot, $2, in place of a new one.
var GateOf = strings.Replace(gateSQL, "pg_current_snapshot()", "$2::text::pg_snapshot", 1)

// Hurry has the feed start over, and notice that the server went silent, sooner than an operator would want.
func (f *Feed) Hurry(startOver, sender time.Duration) {
	f.pace.least, f.pace.most, f.pace.busy, f.pace.sender = startOver, 2*startOver, startOver, sender
}

// MeasureOften has the feed measure its slot all the time.
func (f *Feed) MeasureOften() { f.pace.sample = 20 * time.Millisecond }

// Resting is a session that may rest, for tests.
type Resting struct {
	Busy bool          // the appender is at work
	Done time.Duration // and is done after that; 0: not soon
	Read bool          // something was read and is not decoded yet
	Conn net.Conn      // the connection that it reads from; nil for none
}

// Rest is what the session does before it reads on.
func (r Resting) Rest() error {
	b := newBatches(1)
	b.taken = r.Busy
	if r.Done > 0 {
		timer := time.AfterFunc(r.Done, func() { b.stored(0, true) })
		defer timer.Stop()
	}
	var stream bytes.Buffer
	if r.Read {
		stream.Write([]byte{'1', 0, 0, 0, 4, '2', 0, 0, 0, 4}) // ParseComplete, BindComplete
	}
	front := pgproto3.NewFrontend(&stream, nil)
	if r.Read {
		if _, err := front.Receive(); err != nil {
			return err
		}
	}
	s := &session{conn: &replConn{frontend: front, socket: socketOf(r.Conn)}, batches: b, resting: time.NewTimer(gather)}
	return s.rest()
}
