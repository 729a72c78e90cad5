// Package pgoutput reads the messages of Postgres's pgoutput plugin, protocol version 1 (the
// "Logical Replication Message Formats" chapter of its manual).
//
// It never panics on hostile or truncated input (P27), and it allocates only for relations: tuples
// alias the buffer they were read from, and are valid until the next call of Decode.
package pgoutput

import (
	"time"

	"github.com/nudgesync/nudge/changefeed/change"
)

// Kind is the first byte of a message.
type Kind byte

// The kinds of protocol version 1.
const (
	Begin    Kind = 'B'
	Commit   Kind = 'C'
	Origin   Kind = 'O'
	Relation Kind = 'R'
	Type     Kind = 'Y'
	Insert   Kind = 'I'
	Update   Kind = 'U'
	Delete   Kind = 'D'
	Truncate Kind = 'T'
	Logical  Kind = 'M' // pg_logical_emit_message
)

// Message is any message; which fields are set depends on Kind.
type Message struct {
	Kind Kind

	// Begin: CommitLSN (the transaction's final LSN, equal to the commit's), Time and XID.
	// Commit: CommitLSN, EndLSN and Time.
	CommitLSN change.LSN
	EndLSN    change.LSN
	Time      time.Time
	XID       uint32

	Rel *Rel // Relation

	// Insert, Update, Delete: the relation's id, and tuples.
	RelationID uint32
	OldKind    OldKind
	Old        []Value
	New        []Value

	// Truncate.
	RelationIDs []uint32
	Cascade     bool
	RestartSeqs bool

	// Logical.
	Transactional bool
	LSN           change.LSN
	Prefix        string
	Content       []byte

	// Type: its OID and name; of a domain, the name of its base type (P19).
	TypeOID    uint32
	TypeSchema string
	TypeName   string
}

// OldKind says what an old tuple holds.
type OldKind byte

// What an old tuple holds.
const (
	NoOld   OldKind = 0   // there is none: the replica identity did not change
	KeyOnly OldKind = 'K' // the columns of the replica identity; the others are Unchanged
	FullOld OldKind = 'O' // every column: REPLICA IDENTITY FULL
)

// Value is one column of a tuple.
type Value struct {
	Kind ValueKind
	Text []byte // of a Text value
}

// ValueKind is how a column's value was sent.
type ValueKind byte

// How a column's value was sent.
const (
	Null      ValueKind = 'n'
	Unchanged ValueKind = 'u' // not sent: an unchanged TOAST value (P11), or beside the key of an old tuple
	Text      ValueKind = 't'
)

// Rel describes a table as it is at this place of the stream.
type Rel struct {
	ID       uint32 // the table's OID
	Schema   string
	Name     string
	Identity byte // d default, n nothing, f full, i index
	Columns  []Column
}

// Column is one column of a Rel.
type Column struct {
	Identity bool // part of the replica identity
	Name     string
	Type     uint32 // OID
	Modifier int32  // atttypmod
}
