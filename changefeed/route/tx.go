package route

import (
	"time"

	"github.com/nudgesync/nudge/changefeed/change"
)

// Tx gathers the routed events of one transaction and folds them into its net effect.
type Tx struct {
	Malformed int // tuples that did not match their relation

	events []event
}

// event is a change before its transaction is known.
type event struct {
	change change.Change
	// born: the (scope, table, key) did not exist before this event.
	born bool
}

// Len is the number of routed events so far.
func (tx *Tx) Len() int { return len(tx.events) }

// Bytes is the memory that the last n events take.
func (tx *Tx) Bytes(n int) int {
	size := 0
	for i := len(tx.events) - n; i < len(tx.events); i++ {
		size += tx.events[i].change.Bytes()
	}
	return size
}

// ResetAll resets every table for everybody.
func (tx *Tx) ResetAll(reason change.Reason) {
	tx.Reset("*", reason)
}

// Reset resets a table for everybody.
func (tx *Tx) Reset(table string, reason change.Reason) {
	tx.add(event{change: change.Change{Scope: change.All, Table: table, Op: change.Reset, Reason: reason}})
}

func (tx *Tx) add(e event) { tx.events = append(tx.events, e) }

// Commit returns the net effect: at most one change per (scope, table, key) between two resets, in the
// order of first appearance, numbered from 1. The Tx is empty afterwards.
func (tx *Tx) Commit(e change.Epoch, lsn change.LSN, at time.Time, origin string) []change.Change {
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
	tx.events = tx.events[:0]
	return out
}

type rowID struct {
	scope change.Scope
	table string
	key   string
}

// fold leaves each row's net effect. A row born in this transaction and gone at its end was never to be
// seen by anyone: it leaves no trace. Anything else followed by a delete is that delete (A1).
func (tx *Tx) fold() {
	last := make(map[rowID]int, len(tx.events))
	kept := tx.events[:0]
	dropped := false
	for _, e := range tx.events {
		if e.change.Op == change.Reset {
			clear(last) // a barrier: nothing folds across it
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
		prev := &kept[i]
		if e.change.Op == change.Patch && prev.change.Op != change.Delete {
			e.change.Op = prev.change.Op
			e.change.Row = change.MergeRow(prev.change.Row, e.change.Row)
		}
		prev.change = e.change // born stays what it was before the transaction
		if e.change.Op == change.Delete && prev.born {
			prev.change.Op = 0 // leaves no trace
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
