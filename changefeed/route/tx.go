package route

import (
	"time"

	"github.com/nudgesync/nudge/changefeed/change"
)

// Tx gathers the routed events of one transaction and folds them into its net effect.
type Tx struct {
	Malformed int // tuples that did not match their relation
	// Disk is where the events go that are too many for memory. The zero Disk keeps all in memory.
	Disk Disk

	events []event
	bytes  int
	spill  *spill // not nil: the events are on disk
}

// event is a change before its transaction is known.
type event struct {
	change change.Change
	// born: the (scope, table, key) did not exist before this event.
	born bool
}

// Bytes is the memory that the events so far take.
func (tx *Tx) Bytes() int { return tx.bytes }

// Err is what went wrong with the disk, an ErrSpill. The transaction can't be committed then.
func (tx *Tx) Err() error {
	if tx.spill == nil {
		return nil
	}
	return tx.spill.err
}

// ResetAll resets every table for everybody.
func (tx *Tx) ResetAll(reason change.Reason) {
	tx.Reset("*", reason)
}

// Reset resets a table for everybody.
func (tx *Tx) Reset(table string, reason change.Reason) {
	tx.add(event{change: change.Change{Scope: change.All, Table: table, Op: change.Reset, Reason: reason}})
}

func (tx *Tx) add(e event) {
	if tx.spill != nil {
		tx.spill.add(&e)
		return
	}
	tx.bytes += e.change.Bytes()
	tx.events = append(tx.events, e)
	if tx.Disk.Bytes > 0 && tx.bytes > tx.Disk.Bytes {
		tx.toDisk()
	}
}

// toDisk moves the transaction out of memory.
func (tx *Tx) toDisk() {
	tx.spill = newSpill(tx.Disk)
	for i := range tx.events {
		tx.spill.add(&tx.events[i])
	}
	tx.events = nil // its array is as large as it may ever get
	tx.bytes = tx.spill.memory()
}

// Commit returns the net effect: at most one change per (scope, table, key) between two resets, in the
// order of first appearance, numbered from 1. It is a slice or, of a transaction that went to disk, a
// Spilled, which the caller closes. The Tx is empty afterwards.
func (tx *Tx) Commit(e change.Epoch, lsn change.LSN, at time.Time, origin string) ([]change.Change, *Spilled) {
	if tx.spill != nil {
		s := tx.spill.commit(change.Change{Pos: change.Position{Epoch: e, LSN: lsn}, Origin: origin, CommittedAt: at})
		tx.spill, tx.bytes = nil, 0
		return nil, s
	}
	if len(tx.events) > 1 {
		tx.fold()
	}
	out := make([]change.Change, len(tx.events))
	for i := range tx.events {
		c := tx.events[i].change
		c.Pos = change.Position{Epoch: e, LSN: lsn, Seq: uint32(i + 1)}
		c.Origin, c.CommittedAt = origin, at
		out[i] = c
	}
	clear(tx.events)
	tx.events, tx.bytes = tx.events[:0], 0
	return out, nil
}

// Discard forgets the events, and frees what they hold on disk.
func (tx *Tx) Discard() {
	if tx.spill != nil {
		tx.spill.events.close()
	}
	clear(tx.events)
	tx.events, tx.bytes, tx.spill = tx.events[:0], 0, nil
}

type rowID struct {
	scope change.Scope
	table string
	key   string
}

// absorb makes e the net effect of itself and then of next, an event of the same row. It reports whether
// that is anything: a row born in this transaction and gone at its end was never to be seen by anyone, and
// leaves no trace. Anything else followed by a delete is that delete (A1).
func (e *event) absorb(next *event) bool {
	c := next.change
	if c.Op == change.Patch && e.change.Op != change.Delete {
		c.Op = e.change.Op
		c.Row = change.MergeRow(e.change.Row, c.Row)
	}
	e.change = c // born stays what it was before the transaction
	return c.Op != change.Delete || !e.born
}

// fold leaves each row's net effect. Nothing folds across a reset. What is on disk folds in the same way:
// foldPart.
func (tx *Tx) fold() {
	last := make(map[rowID]int, len(tx.events))
	kept := tx.events[:0]
	dropped := false
	for _, e := range tx.events {
		if e.change.Op == change.Reset {
			clear(last)
			kept = append(kept, e)
			continue
		}
		id := rowID{e.change.Scope, e.change.Table, string(e.change.Key)}
		i, seen := last[id]
		if !seen {
			last[id] = len(kept)
			kept = append(kept, e)
			continue
		}
		if !kept[i].absorb(&e) {
			kept[i].change.Op = 0
			dropped = true
			delete(last, id)
		}
	}
	if dropped {
		all := kept
		kept = kept[:0]
		for _, e := range all {
			if e.change.Op != 0 {
				kept = append(kept, e)
			}
		}
	}
	clear(tx.events[len(kept):])
	tx.events = kept
}
