package route

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"io"
	"slices"

	"github.com/nudgesync/nudge/changefeed/change"
)

const (
	// entry is the memory that a row takes while it folds, beside its change.
	entry = 128
	// maxParts bounds the files in use at a time. Only a transaction that repeats more rows than fit in so
	// many parts of the memory allowed takes more memory than that.
	maxParts = 256
)

// Spilled is the net effect of a transaction that went to disk: what Commit would have returned, in the
// same order, byte for byte, one at a time.
//
//	events ──► repeated? ──no──────────────────────────► Next
//	               └─yes─► parts, by row ──► folded ──────┘
//
// Events of rows that may have come more than once are dealt out by row to files small enough to fold in
// memory, one after the other. The result stands in the place of the row's first event. Everything is
// read and written from start to end.
//
// First Fold, then Next to the end. A Spilled is used by one goroutine at a time.
type Spilled struct {
	*spill
	stamp change.Change // what all of its changes have in common

	folded []*run // by part; nil: nothing is left of its rows
	reader *recordReader
	out    event
	seq    uint32
}

// Bytes is the memory that s takes while it waits.
func (s *Spilled) Bytes() int { return 8*len(s.rows.twice) + buffer }

// Events is how many events went in, Changes how many Next has returned.
func (s *Spilled) Events() int { return int(s.order) }

// Changes is the number of changes that Next has returned so far.
func (s *Spilled) Changes() int { return int(s.seq) }

// Close frees the disk.
func (s *Spilled) Close() {
	s.events.close()
	for _, r := range s.folded {
		if r != nil {
			r.file.close()
		}
	}
	s.folded = nil
}

// Fold works out the net effect, for Next to read. Its error is ErrSpill or the context's.
func (s *Spilled) Fold(ctx context.Context) error {
	if s.err != nil {
		return s.err
	}
	s.folded = make([]*run, min(s.again/s.disk.Bytes+1, maxParts))
	if s.again > 0 {
		parts, err := s.deal(ctx)
		for i, p := range parts {
			if p != nil && err == nil {
				s.folded[i], err = s.foldPart(ctx, p)
			}
			p.close()
		}
		if err != nil {
			return err
		}
	}
	s.reader, s.err = s.events.read()
	return s.err
}

// deal copies the events of repeated rows to files, all of a row to the same one.
func (s *Spilled) deal(ctx context.Context) (parts []*recordWriter, err error) {
	parts = make([]*recordWriter, len(s.folded))
	r, err := s.events.read()
	if err != nil {
		return parts, err
	}
	err = each(ctx, r, func(r *record) error {
		part, repeated := s.part(r)
		if !repeated {
			return nil
		}
		if parts[part] == nil {
			if parts[part], err = createRecords(s.disk); err != nil {
				return err
			}
		}
		return parts[part].write(r)
	})
	return parts, err
}

// part is the number of the part that folds the record's row, if that may have come more than once.
func (s *Spilled) part(r *record) (int, bool) {
	if r.op() == change.Reset {
		return 0, false
	}
	h := s.rows.hash(r)
	if !s.rows.repeated(h) {
		return 0, false
	}
	return int(h >> 32 % uint64(len(s.folded))), true
}

// pending is a row's net effect so far, in the place of its first event.
type pending struct {
	event
	order uint64
}

// foldPart does to a part what Tx.fold does in memory. A row that comes back after it left no trace stands
// in the place where it came back.
func (s *Spilled) foldPart(ctx context.Context, part *recordWriter) (*run, error) {
	in, err := part.read()
	if err != nil {
		return nil, err
	}
	var out *recordWriter
	rows := make(map[string]*pending)
	segment := uint64(0)
	finish := func() error {
		if len(rows) == 0 {
			return nil
		}
		if out == nil {
			if out, err = createRecords(s.disk); err != nil {
				return err
			}
		}
		sorted := make([]*pending, 0, len(rows))
		for _, p := range rows {
			sorted = append(sorted, p)
		}
		clear(rows)
		slices.SortFunc(sorted, func(a, b *pending) int { return cmp.Compare(a.order, b.order) })
		for _, p := range sorted {
			r := record{order: p.order, segment: segment}
			r.body, r.id = s.coder.encode(s.buf[:0], &p.event)
			s.buf = r.body
			if err := out.write(&r); err != nil {
				return err
			}
		}
		return nil
	}
	err = each(ctx, in, func(r *record) error {
		if r.segment != segment { // a reset stands in between
			if err := finish(); err != nil {
				return err
			}
			segment = r.segment
		}
		own := *r
		own.body = bytes.Clone(r.body)
		p := &pending{order: r.order}
		if err := s.coder.decode(&own, &p.event); err != nil {
			return spillError(err)
		}
		first, seen := rows[string(own.row())]
		switch {
		case !seen:
			rows[string(own.row())] = p
		case !first.absorb(&p.event):
			delete(rows, string(own.row()))
		}
		return nil
	})
	if err == nil {
		err = finish()
	}
	var reader *recordReader
	if err == nil && out != nil {
		reader, err = out.read()
	}
	if err != nil || out == nil {
		out.close()
		return nil, err
	}
	return &run{file: out, reader: reader}, nil
}

// Next returns the next change, io.EOF after the last. It is good until the call after. Other errors are
// ErrSpill.
func (s *Spilled) Next() (*change.Change, error) {
	for {
		r, err := s.reader.next()
		if err != nil {
			return nil, err
		}
		if part, repeated := s.part(r); repeated {
			if s.folded[part] == nil {
				continue
			}
			if r, err = s.folded[part].at(r.order); err != nil {
				return nil, err
			}
			if r == nil {
				continue // folded into an earlier one, or gone without trace
			}
		}
		s.out.change = s.stamp
		if err := s.coder.decode(r, &s.out); err != nil {
			return nil, spillError(err)
		}
		s.seq++
		s.out.change.Pos.Seq = s.seq
		return &s.out.change, nil
	}
}

// run is a folded part, read in step with the events.
type run struct {
	file   *recordWriter
	reader *recordReader
	head   *record // nil: to be read
	ended  bool
}

// at returns the record of that order, nil if there is none. Orders asked for rise.
func (r *run) at(order uint64) (*record, error) {
	if r.head == nil && !r.ended {
		head, err := r.reader.next()
		switch {
		case errors.Is(err, io.EOF):
			r.ended = true
		case err != nil:
			return nil, err
		}
		r.head = head
	}
	if r.head == nil || r.head.order != order {
		return nil, nil
	}
	head := r.head
	r.head = nil
	return head, nil
}

// each calls fn for every record, until an error or the end of ctx.
func each(ctx context.Context, in *recordReader, fn func(*record) error) error {
	for n := 0; ; n++ {
		if n%4096 == 0 && ctx.Err() != nil {
			return context.Cause(ctx)
		}
		r, err := in.next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := fn(r); err != nil {
			return err
		}
	}
}
