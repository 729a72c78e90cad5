// Package api is what devices and operators talk to: the pull over HTTP, sockets and event streams, and
// the admin listener. It holds no data; the engine answers pulls, the hub says who is to be nudged.
//
// # A session
//
// A session is one device's socket or event stream. At rest it is one goroutine, the reader, blocked in a
// read; of a stream that is the request's handler, which waits for the client to go. What frames leave by
// is the session's road; everything else is the same for both.
// Everything that others want said to the device (a nudge, a goaway, a close) is noted in the session
// under its lock, and one of the node's writers, which live only while there is something to write, writes
// what is noted:
//
//	hub ──Nudge(head)──►┌─────────────┐
//	sweeper ──tend()───►│ session     │──writer, only while there is
//	Drain ──────shut()─►│  newest head│  something to write──────────────────►┐
//	                    │  flags      │                                       ├─► device
//	reader ◄────────────└─────────────┘                                       │
//	   └── answers to the device's own frames, one after the other ──────────►┘
//
// The reader waits for a frame in as little stack as can be, and has it read and served in a goroutine that
// ends with it: what a session keeps at rest is 2 KB of stack and some 5 KB beside it.
//
// What is noted has a fixed size: the newest head, a goaway, a close. So a device that does not read
// costs constant memory, and whoever notes something never waits for it (I8). One sweeper goroutine
// looks after all sessions: hello deadline, pings, token expiry, maximum age.
//
// # The rules of the socket, as a client author meets them
//
// A close frame says whether to come back (see the close codes in package wire); its reason is the
// cause's name and a hint. An error frame carries a code and a hint, and never ends the session.
//
//   - Before ready only hello is served. Any other frame, and a hello that can't be read, gets
//     error{request_invalid}; without a good hello in 5 s the session closes with 4002.
//   - A hello of another protocol version closes with 4503. Its token: missing, bad or another
//     device's 4501, expired 4001, revoked 4502, not verifiable now 1013. An engine that can't
//     compare the cursor now: 1013.
//   - A cursor in hello that is malformed or foreign gets error{cursor_malformed | cursor_foreign},
//     followed by ready{behind: true}: forget the cursor (and, if foreign, the local rows), then pull
//     without one on this same socket.
//   - A device whose cursor is up to date gets a fresh one in a cursor frame behind ready, and again
//     once per quiet hour; it takes the place of the one it holds.
//   - pull frames are served one after the other, in order. A refused one gets error{id, code}.
//     One with wait_ms (at most 5 s are served) is answered by the first thing that comes, in place
//     of a nudge; frames behind it wait too.
//   - A device is not nudged for its own change, unless it has not pulled it within 2 s.
//   - token: another user or device, or a bad token 4501; expired 4001; revoked 4502; not verifiable
//     now error{token_unverifiable}, and the session goes on until the old token's end.
//   - Revoked while the session lives: 4502, within a second. The token's key went out of force: 1013; the
//     next hello hears what the token is worth. While the node can't know who is revoked, pull gets
//     error{id, token_unverifiable}.
//   - A frame with unknown type, or that is not the JSON it should be: error{request_invalid}.
//     Unknown members are ignored.
//   - A binary frame closes with 1003, text that is not UTF-8 with 1007, a frame above 16 KiB with
//     1009. More than 600 frames a minute (burst 60), pings and pongs among them: 4029. An
//     accepted ack is free.
//   - A device that takes longer than 5 s to take a frame is closed with 4003; one that takes longer
//     than 10 s is cut without a code, because half a frame is under way. No pong in 30 s: cut.
//     A frame of the client's that takes longer than 10 s from its first byte to its last: 4003.
//   - A user may hold 64 places of a node, of sessions and waiting pulls: a hello beyond closes with 4029; a
//     stream or a wait beyond is refused with 429 rate_limited.
//   - The same user and device opens another socket or stream: the older one closes with 4504.
//
// A page that is not read is held for its client, for 10 s and as long as it takes at 64 KiB/s. Of such
// pages, over HTTP and socket, a node holds 128 MiB, and an eighth of that for one user: beyond it a pull is
// refused with overloaded, or rate_limited.
//
// A device may pull 50 times a second, a user with all devices 100 times, five times as many at once, over HTTP and
// socket together; beyond it a pull is refused with rate_limited, and the session goes on. Of what needs the
// database the engine's queue may refuse a pull with overloaded. Every refusal of that kind says when to come back, and
// no two say the same.
//
// A nudge that many hear carries within_ms, the time that this node needs to serve all of them (herd.go): each
// device takes a moment of its own in it.
//
// # Where no socket gets through
//
// GET /v1/events is a session whose frames leave as server-sent events, named after their type; the last
// one is close, with the code and reason of a close frame. The device pulls and acknowledges over HTTP. It
// says where it stands by Last-Event-ID, or by since; a cursor event has its cursor as its id. Comments
// take the place of pings. A socket and a stream of one device are two sessions of it: the newer one stays.
//
// GET /v1/changes?wait=30s answers when there is something new, the device's own change too, or when the
// time is over. It registers with the hub first and looks after, and costs its request's goroutine, one
// slot for the newest head, and a place among the sockets, but no statement and no handshake. One a device:
// a newer one has the older answered. Its token is looked at again before it is answered.
//
// # Devices that are pushed to
//
// PUT /v1/devices/{id} says how the asking device is woken when it holds no session. Its registry is behind a line of
// its own (devices.go). What is heard of any device goes to Hears (hearing.go), which decides whether it matters: the
// cursor of a pull, a hello or an ack is what the device has saved; a page that it is served proves nothing, and
// a session that is open means that it is told there first. A pull that waits counts as a session for as long.
//
// # Polling
//
// An operator may order the fleet to poll (nudge poll, PUT /v1/admin/poll). Then every page says
// poll_after_s, and the header Nudge-Poll-After too, which a 304 needs; a wait is answered at once; sessions
// get goaway{polling}, spread over the time in which they could be admitted again, and close with 1012; and
// new ones are refused with 503 polling. A device that is refused so pulls over HTTP, and again after
// poll_after_s, until a page says null: then it dials. The order is a row that every node reads once a
// second; while it can't be read, the last one stands.
//
// # The contract in writing
//
// openapi.yaml and asyncapi.yaml are served under /v1/. Every answer, frame and close of this package's
// tests is held to them, and so is every code that the sources name.
//
// # Stopping
//
// First Drain: readiness fails, new sockets are refused, every session gets goaway{after_ms} with its
// own share of the window and is closed with 1012 when its time has come. Then Run's context is
// cancelled: what is left closes at once, and Run returns when every session's goroutines have ended.
package api
