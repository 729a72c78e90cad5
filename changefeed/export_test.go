package changefeed

import (
	"strings"
	"time"
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
