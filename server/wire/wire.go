// Package wire is the public protocol, version 1: JSON of pull, socket frames, close codes and
// problems. It imports the standard library only, so that clients can use it as it is.
package wire

import "encoding/json"

// Subprotocol is the WebSocket subprotocol; there is no other.
const Subprotocol = "nudge.v1"

// Version is the protocol version that a hello names.
const Version = 1

// Header names of pulls.
const (
	// HeaderDevice names the asking device on every request.
	HeaderDevice = "Nudge-Device"
	// HeaderCursor carries a fresh cursor on every answer, also on 304.
	HeaderCursor = "Nudge-Cursor"
	// HeaderPollAfter carries a page's poll_after_s, also on 304; without one it is not there.
	HeaderPollAfter = "Nudge-Poll-After"
)

// Sizes that both sides know.
const (
	// MaxClientFrame is the largest frame a client may send, in bytes.
	MaxClientFrame = 16 << 10
	// MaxChangesFrame is the size that a changes frame keeps below, unless one row alone is larger.
	MaxChangesFrame = 256 << 10
	// MaxToken is the largest bearer token, in bytes.
	MaxToken = 8 << 10
)

// Page is the answer of a pull, and the body of a changes frame.
type Page struct {
	Cursor       string   `json:"cursor"`
	HasMore      bool     `json:"has_more"`
	PollAfterS   *int     `json:"poll_after_s"` // pull over HTTP again after so many seconds; null: when nudged
	LastMutation *int64   `json:"last_mutation"`
	Changes      []Change `json:"changes"`
}

// Change ops on the wire.
const (
	OpUpsert = "upsert"
	OpPatch  = "patch"
	OpDelete = "delete"
	OpReset  = "reset"
	OpSweep  = "sweep"
	OpForget = "forget"
)

// Change is one element of a page. Which fields are set depends on Op:
// upsert, patch: Scope, Table, Key, Row · delete: Scope, Table, Key · reset: Scope, Table, Gen, Reason ·
// sweep: Scope, Table, Gen · forget: Scope. Scope and Table are "*" where reset and sweep mean all.
type Change struct {
	Op     string          `json:"op"`
	Scope  string          `json:"scope"`
	Table  string          `json:"table,omitempty"`
	Key    json.RawMessage `json:"key,omitempty"`
	Row    json.RawMessage `json:"row,omitempty"`
	Gen    string          `json:"gen,omitempty"`
	Reason string          `json:"reason,omitempty"`
}

// Frame types, the "t" of a frame.
const (
	// From the client.
	THello = "hello" // Hello, within 5 s of the upgrade
	TPull  = "pull"  // Pull
	TAck   = "ack"   // Ack
	TToken = "token" // Token

	// From the server.
	TReady         = "ready"          // Ready
	TCursor        = "cursor"         // Cursor
	TNudge         = "nudge"          // Nudge
	TChanges       = "changes"        // Changes
	TTokenExpiring = "token_expiring" // TokenExpiring
	TGoaway        = "goaway"         // Goaway
	TError         = "error"          // Error

	// TClose is the last event of a stream, where a socket has a close frame.
	TClose = "close" // Close
)

// Hello opens a session. Cursor is null for a device that holds none.
type Hello struct {
	T      string  `json:"t"`
	V      int     `json:"v"`
	Token  string  `json:"token,omitempty"` // absent when the Authorization header carried it
	Device string  `json:"device"`
	Cursor *string `json:"cursor"`
}

// Pull asks for a page, like GET /v1/changes. ID is the client's own and comes back in the answer.
type Pull struct {
	T      string  `json:"t"`
	ID     int64   `json:"id"`
	Cursor *string `json:"cursor"`
	Limit  int     `json:"limit,omitempty"`
	Nudge  string  `json:"nudge,omitempty"` // the nudge id that caused it, if one did
	// WaitMS: if nothing is new, the answer waits this long for something to come; the server may shorten
	// it. For the pull after an own write, which is accepted before its change has come round, and for
	// which its writer is not nudged.
	WaitMS int `json:"wait_ms,omitempty"`
}

// Ack says that Cursor, which a page carried, is saved on the device.
type Ack struct {
	T      string `json:"t"`
	Cursor string `json:"cursor"`
}

// Token replaces the session's token by a fresher one of the same user.
type Token struct {
	T     string `json:"t"`
	Token string `json:"token"`
}

// Ready says that the session is registered and its cursor was compared with the head.
type Ready struct {
	T       string `json:"t"`
	Session string `json:"session"`
	Head    string `json:"head"` // a cursor
	Behind  bool   `json:"behind"`
	MaxAgeS int    `json:"max_age_s"`
}

// Cursor hands a quiet, up-to-date session a fresh cursor, so that it never expires.
type Cursor struct {
	T      string `json:"t"`
	Cursor string `json:"cursor"`
}

// PushNudge begins the id of a nudge that a push carried: a pull that echoes it says that nobody may be looking.
// Ids are opaque to devices; those of other nudges have no dot.
const PushNudge = "p."

// Nudge says that there is something new up to Head. The device pulls within WithinMS.
type Nudge struct {
	T        string `json:"t"`
	Head     string `json:"head"` // a cursor
	WithinMS int    `json:"within_ms"`
	ID       string `json:"id"`
}

// Changes answers a pull frame.
type Changes struct {
	T  string `json:"t"`
	ID int64  `json:"id"`
	Page
}

// TokenExpiring asks for a token frame; without one the session closes with 4001 in InS seconds.
type TokenExpiring struct {
	T   string `json:"t"`
	InS int    `json:"in_s"`
}

// Goaway asks the client to reconnect after AfterMS milliseconds.
type Goaway struct {
	T       string `json:"t"`
	AfterMS int    `json:"after_ms"`
	Reason  string `json:"reason"`
}

// Error answers a frame that could not be served; the session stays. ID is the pull's, if it was one.
type Error struct {
	T            string `json:"t"`
	ID           *int64 `json:"id,omitempty"`
	Code         Code   `json:"code"`
	Hint         string `json:"hint,omitempty"` // what to do about it, for people
	RetryAfterMS int    `json:"retry_after_ms,omitempty"`
}

// Close says why an event stream ends: a close code, and the reason that a close frame would carry.
type Close struct {
	T      string `json:"t"`
	Code   int    `json:"code"`
	Reason string `json:"reason"`
}
