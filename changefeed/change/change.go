// Package change holds the words that feed, log, tail, bus and pull share: positions, scopes, changes
// and frames. It knows no Postgres, no network and no storage.
package change

import (
	"strings"
	"time"
	"unicode/utf8"
)

// Scope says whose data a change is: the key that the log is ordered under. "user:<id>" is one
// user's own; a shared scope is "<name>:<id>". Nothing may assume that a scope is a user.
type Scope string

// All is the scope of what concerns every scope (a reset for everybody). Every look-up probes it
// beside the scope that was asked for (A15).
const All Scope = "*"

// User is the scope of one user's own rows. id is the owner column's value as Postgres prints it.
func User(id string) Scope { return Scope("user:" + id) }

// ValidUser reports whether a user of that id can exist: 1 to 255 bytes of UTF-8 without NUL. Whatever
// else stands in an owner column owns nothing, and never reaches the log: its index could not hold it.
func ValidUser(id string) bool {
	return id != "" && len(id) <= 255 && utf8.ValidString(id) && !strings.ContainsRune(id, 0)
}

// maxDevice is the longest device id, in bytes.
const maxDevice = 128

// ValidDevice reports whether a device of that id can exist: 1 to 128 of A-Z a-z 0-9 . _ : - (the protocol's
// alphabet, which every encoding of Postgres has).
func ValidDevice(id string) bool {
	if id == "" || len(id) > maxDevice {
		return false
	}
	for i := range len(id) {
		c := id[i]
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9',
			c == '.', c == '_', c == ':', c == '-':
		default:
			return false
		}
	}
	return true
}

// Op is what a change does to a row. The value is the byte stored in the log.
type Op byte

const (
	// Upsert carries every column of the row.
	Upsert Op = 'u'
	// Patch carries the columns that are known; it is a no-op on a device that lacks the row.
	Patch Op = 'p'
	// Delete carries the key alone.
	Delete Op = 'd'
	// Reset says that the scope's rows of the table must be received anew. It carries no key.
	Reset Op = 'r'
)

// String is the op's name on the wire.
func (o Op) String() string {
	switch o {
	case Upsert:
		return "upsert"
	case Patch:
		return "patch"
	case Delete:
		return "delete"
	case Reset:
		return "reset"
	}
	return "invalid"
}

// Reason says why a reset stands. The values are the wire's.
type Reason string

// The reasons of a reset.
const (
	ReasonNew      Reason = "new"      // the device came without a cursor
	ReasonExpired  Reason = "expired"  // its cursor is older than the log
	ReasonEpoch    Reason = "epoch"    // its cursor is of another history of the slot
	ReasonSchema   Reason = "schema"   // a table's columns or the configuration changed
	ReasonTruncate Reason = "truncate" // the table was emptied
	ReasonGrant    Reason = "grant"    // the scope became visible to the user
	ReasonRepair   Reason = "repair"   // something else could not be told exactly
)

// Change is one row event of one committed transaction. Byte slices are immutable once the change
// has left the feed: tail, pull and bus share them.
type Change struct {
	Pos    Position
	Scope  Scope
	Table  string // "public.intakes"; "*" in a reset of every table
	Op     Op
	Key    []byte // JSON object of the key columns; nil for a reset
	Row    []byte // JSON object of the columns; nil for delete and reset
	Origin string // the device that wrote, "" if it did not say
	Reason Reason // of a reset, else ""
	// CommittedAt is the commit time that the source database recorded, in its own clock.
	CommittedAt time.Time
}

// Bytes is the memory that c takes, near enough for budgets.
func (c *Change) Bytes() int {
	return 160 + len(c.Scope) + len(c.Table) + len(c.Key) + len(c.Row) + len(c.Origin)
}

// Frame is one appended batch on its way to the nodes: every change in (Prev, Next], whole
// transactions in commit order. A frame with Prev == Next announces a position and carries nothing.
// A receiver whose head is not Prev has missed something and reads the log (I7).
type Frame struct {
	Epoch  Epoch
	Config uint64 // hash of the routing configuration that made the changes
	Prev   Position
	Next   Position
	// HeadsOnly: the batch was too large to carry; Changes is nil and (Prev, Next] must be read
	// from the log.
	HeadsOnly bool
	Changes   []Change
}
