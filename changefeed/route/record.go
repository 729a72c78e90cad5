package route

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"

	"github.com/nudgesync/nudge/changefeed/change"
)

// buffer is the size of a file's buffer, of which a few hundred may be in use.
const buffer = 32 << 10

// record is an event as it lies in a file: the distances of order and segment to the record before it,
// the length of the body, each a varint, and the body:
//
//	op, 1 byte, its high bit: born
//	table, a varint into the coder's names ┐
//	length of the scope, scope             ├ the row
//	length of the key, key                 ┘
//	the row's columns, or a reset's reason
type record struct {
	order   uint64
	segment uint64
	body    []byte
	id      int // where the row's name ends in it
}

const bornBit = 0x80

func (r *record) op() change.Op { return change.Op(r.body[0] &^ bornBit) }

// row names the row: equal for equal scope, table and key.
func (r *record) row() []byte { return r.body[1:r.id] }

// coder turns events into bodies and back.
type coder struct {
	tables map[string]uint64
	names  []string
}

func newCoder() coder { return coder{tables: make(map[string]uint64)} }

// encode appends the event's body to b, and returns also where the row's name ends.
func (c *coder) encode(b []byte, e *event) (body []byte, id int) {
	op := byte(e.change.Op)
	if e.born {
		op |= bornBit
	}
	table, ok := c.tables[e.change.Table]
	if !ok {
		table = uint64(len(c.names))
		c.tables[e.change.Table] = table
		c.names = append(c.names, e.change.Table)
	}
	b = binary.AppendUvarint(append(b, op), table)
	b = append(binary.AppendUvarint(b, uint64(len(e.change.Scope))), e.change.Scope...)
	b = append(binary.AppendUvarint(b, uint64(len(e.change.Key))), e.change.Key...)
	id = len(b)
	if e.change.Op == change.Reset {
		return append(b, e.change.Reason...), id
	}
	return append(b, e.change.Row...), id
}

// decode fills e. Its key and row are parts of r's body.
func (c *coder) decode(r *record, e *event) error {
	table, rest, ok := uvarint(r.body[1:])
	var scope []byte
	if ok {
		scope, rest, ok = prefixed(rest)
	}
	if ok {
		e.change.Key, _, ok = prefixed(rest)
	}
	if !ok || table >= uint64(len(c.names)) {
		return errDamaged
	}
	e.born = r.body[0]&bornBit != 0
	e.change.Op, e.change.Table, e.change.Scope = r.op(), c.names[table], change.Scope(scope)
	e.change.Row, e.change.Reason = nil, ""
	switch payload := r.body[r.id:]; {
	case e.change.Op == change.Reset:
		e.change.Reason = change.Reason(payload)
	case len(payload) > 0:
		e.change.Row = payload
	}
	return nil
}

// errDamaged: a file does not hold what was written to it.
var errDamaged = errors.New("the file is damaged")

func uvarint(b []byte) (v uint64, rest []byte, ok bool) {
	v, n := binary.Uvarint(b)
	if n <= 0 {
		return 0, nil, false
	}
	return v, b[n:], true
}

// prefixed splits off what a length stands before; nil if that is nothing.
func prefixed(b []byte) (part, rest []byte, ok bool) {
	n, rest, ok := uvarint(b)
	if !ok || n > uint64(len(rest)) {
		return nil, nil, false
	}
	if n == 0 {
		return nil, rest, true
	}
	return rest[:n:n], rest[n:], true
}

// recordWriter fills a file with records of rising order.
type recordWriter struct {
	file    File
	buf     *bufio.Writer
	order   uint64
	segment uint64
	count   int
	head    []byte
}

func createRecords(d Disk) (*recordWriter, error) {
	f, err := d.Create()
	if err != nil {
		return nil, spillError(err)
	}
	return &recordWriter{file: f, buf: bufio.NewWriterSize(f, buffer)}, nil
}

func (w *recordWriter) write(r *record) error {
	w.head = binary.AppendUvarint(w.head[:0], r.order-w.order)
	w.head = binary.AppendUvarint(w.head, r.segment-w.segment)
	w.head = binary.AppendUvarint(w.head, uint64(len(r.body)))
	w.order, w.segment = r.order, r.segment
	w.count++
	_, _ = w.buf.Write(w.head) // its error stays, and the next write has it
	_, err := w.buf.Write(r.body)
	return spillError(err)
}

// read returns a reader of all that was written. There is one at a time.
func (w *recordWriter) read() (*recordReader, error) {
	if err := w.buf.Flush(); err != nil {
		return nil, spillError(err)
	}
	if _, err := w.file.Seek(0, io.SeekStart); err != nil {
		return nil, spillError(err)
	}
	return &recordReader{buf: bufio.NewReaderSize(w.file, buffer), left: w.count}, nil
}

// close gives the file up. w may be nil.
func (w *recordWriter) close() {
	if w != nil {
		_ = w.file.Close() // nothing of it is wanted any more
	}
}

// recordReader reads the records of a file in order.
type recordReader struct {
	buf  *bufio.Reader
	left int
	now  record
}

// next returns the next record, io.EOF after the last. It is good until the call after.
func (r *recordReader) next() (*record, error) {
	if r.left == 0 {
		return nil, io.EOF
	}
	r.left--
	order, err := binary.ReadUvarint(r.buf)
	if err != nil {
		return nil, cutShort(err)
	}
	segment, err := binary.ReadUvarint(r.buf)
	if err != nil {
		return nil, cutShort(err)
	}
	size, err := binary.ReadUvarint(r.buf)
	if err != nil {
		return nil, cutShort(err)
	}
	r.now.order += order
	r.now.segment += segment
	if uint64(cap(r.now.body)) < size {
		r.now.body = make([]byte, size)
	}
	r.now.body = r.now.body[:size]
	if _, err := io.ReadFull(r.buf, r.now.body); err != nil {
		return nil, cutShort(err)
	}
	if r.now.id, err = nameEnd(r.now.body); err != nil {
		return nil, spillError(err)
	}
	return &r.now, nil
}

// cutShort is an error where there should be a record: even an end of the file is one.
func cutShort(err error) error {
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return spillError(err)
}

// nameEnd finds where the row's name ends in a body.
func nameEnd(body []byte) (int, error) {
	if len(body) == 0 {
		return 0, errDamaged
	}
	_, rest, ok := uvarint(body[1:])
	if ok {
		_, rest, ok = prefixed(rest)
	}
	if ok {
		_, rest, ok = prefixed(rest)
	}
	if !ok {
		return 0, errDamaged
	}
	return len(body) - len(rest), nil
}
