package route

import (
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"math/bits"
	"os"

	"github.com/nudgesync/nudge/changefeed/change"
)

// ErrSpill: the disk failed a large transaction. It is to be streamed again.
var ErrSpill = errors.New("feed_spill_failed: a large transaction can't be kept on disk; free some space, or let it spill to another directory")

// Disk is where a transaction goes that is too large for memory.
type Disk struct {
	// Bytes is the memory that a transaction may take. 0: any amount.
	Bytes int
	// Create makes an empty file.
	Create func() (File, error)
}

// File is written from its start, once, and then read from its start. Nothing is left of it when it is
// closed, or when the process ends in whatever way.
type File interface {
	io.ReadWriteSeeker
	io.Closer
}

// TempFile makes a file without a name in dir; "" is the system's directory for such files. Only this
// process can read it: it holds rows.
func TempFile(dir string) (File, error) {
	f, err := os.CreateTemp(dir, "nudge-spill-*")
	if err != nil {
		return nil, err
	}
	if err := os.Remove(f.Name()); err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}

// spill gathers a transaction on disk: its events, one after the other, in one file. In memory it only
// notes which rows may have come more than once: two bitmaps over a hash of the row. Those that came
// once, mostly all, are their own net effect, and are never looked at again until they are appended.
type spill struct {
	disk   Disk
	err    error
	events *recordWriter
	coder  coder
	rows   rowSet

	order   uint64 // events so far
	segment uint64 // resets so far: rows are told apart by it too, for nothing folds across a reset
	again   int    // memory that the events of rows take that may have come more than once
	buf     []byte
}

func newSpill(d Disk) *spill {
	s := &spill{disk: d, coder: newCoder(), rows: newRowSet(d.Bytes)}
	s.events, s.err = createRecords(d)
	return s
}

// memory is what s takes of it.
func (s *spill) memory() int { return 16*len(s.rows.seen) + buffer }

func (s *spill) add(e *event) {
	if s.err != nil {
		return
	}
	if e.change.Op == change.Reset {
		s.segment++
	}
	r := record{order: s.order, segment: s.segment}
	s.order++
	r.body, r.id = s.coder.encode(s.buf[:0], e)
	s.buf = r.body
	if e.change.Op != change.Reset {
		s.again += s.rows.add(s.rows.hash(&r)) * (e.change.Bytes() + entry)
	}
	s.err = s.events.write(&r)
}

func (s *spill) commit(stamp change.Change) *Spilled {
	s.rows.seen = nil
	return &Spilled{spill: s, stamp: stamp}
}

// rowSet says of a row whether it may have come more than once. False alarms cost time alone.
type rowSet struct {
	seed  maphash.Seed
	mask  uint64
	seen  []uint64
	twice []uint64
}

// newRowSet takes half of the bytes, at most.
func newRowSet(bytes int) rowSet {
	n := uint64(1) << max(6, bits.Len(uint(bytes)<<1)-1) // in each of two bitmaps
	return rowSet{seed: maphash.MakeSeed(), mask: n - 1, seen: make([]uint64, n/64), twice: make([]uint64, n/64)}
}

// hash is that of a row between two resets.
func (s *rowSet) hash(r *record) uint64 {
	return maphash.Bytes(s.seed, r.row()) ^ r.segment*0x9e3779b97f4a7c15
}

// add takes up a row and returns how many events have thereby become ones of a repeated row: itself, and
// the first one with it.
func (s *rowSet) add(h uint64) int {
	i, bit := (h&s.mask)/64, uint64(1)<<(h%64)
	switch {
	case s.seen[i]&bit == 0:
		s.seen[i] |= bit
		return 0
	case s.twice[i]&bit == 0:
		s.twice[i] |= bit
		return 2
	}
	return 1
}

// repeated reports whether the row may have come more than once.
func (s *rowSet) repeated(h uint64) bool {
	return s.twice[(h&s.mask)/64]&(1<<(h%64)) != 0
}

func spillError(err error) error {
	if err == nil || errors.Is(err, ErrSpill) {
		return err
	}
	return fmt.Errorf("%w: %w", ErrSpill, err)
}
