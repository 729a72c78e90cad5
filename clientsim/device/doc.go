// Package device is the reference client of nudge: what an SDK author reads first. It speaks the
// public protocol (server/wire) and knows nothing else of the server.
//
//	            nudge, ready.behind, own write, push, network's return
//	                                   │
//	 State ◄── page + cursor, as one ──┤ pull loop, one at a time
//	   │                               │
//	   ▼                               ▼
//	Snapshot: what the app shows    ack{cursor}, once has_more is false
//
// State (state.go) is the device's database: rows, marks and cursor, changed by one page at a time,
// wholly or not at all. A page is only taken if it answers a pull from the cursor that State holds,
// so two roads at once (socket and HTTP) can never mix. Device (device.go) keeps a socket open and
// session (session.go) runs the pull loop over it; http.go is the same loop over HTTP, for networks
// that let no socket through and for an app that a push woke.
//
// Nothing here asks on a timer, unless the server says poll_after_s: then, while it refuses sockets, the
// device polls over HTTP, and dials again when a page no longer says so. What else waits is a reconnect
// (backoff.go), a share of a spread nudge (within_ms), a server's hint, or the patience with an answer
// that is owed.
package device
