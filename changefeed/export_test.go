package changefeed

// Ackable is the rule for positions that are confirmed.
var Ackable = ackable

// WidenSQL is how the gate widens transaction ids.
const WidenSQL = widenSQL
