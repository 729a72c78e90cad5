// Package device knows the devices that can be woken: where a push reaches each of them, whether it has
// something to hear, and what became of the pushes so far.
//
// A device is due while the newest change of its user that it did not write itself lies past what it has
// acknowledged. That is a state, not a queue: one row a device, where the latest head wins, so that retries
// and bursts collapse by themselves.
//
//	change log ──► Marker ──► nudge.due ──► Claim ──► push (by whoever calls) ──► Settle
//	                             ▲                                                  │
//	sockets, pulls ──► Inbox ────┘ clears what was acknowledged                     └► nudge.wakes (ledger)
//
// The Marker reads the log, not the bus, from a position of its own that moves in the transaction that marks (A7):
// whatever is lost or killed on the way, the next pass begins where the last one that committed ended. A
// registration excludes a pass while it looks where the marker stands, so that a change is seen by one of them.
// Acknowledgements are the opposite: they are gathered in memory and written in one statement a second a
// node; one that is lost costs a push too many, never a change (I9).
//
// Of nudge.due's times, next_at alone is what workers go by. held_until is the lease of the worker that
// has the device, or how long its provider wants to be left alone; not_before is how long the budget of
// its platform lasts. Marking respects both; only an alert goes past the budget.
package device
