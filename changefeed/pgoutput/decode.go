package pgoutput

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/nudgesync/nudge/changefeed/change"
)

// ErrMalformed is wrapped by every error of Decode.
var ErrMalformed = errors.New("malformed pgoutput message")

// Decoder reads messages. It reuses one Message; its zero value is ready to use.
type Decoder struct {
	msg      Message
	old, new []Value
	rest     []byte
	short    bool
}

// Decode reads one message. The result and the tuples in it are valid until the next call, and only as
// long as data is.
func (d *Decoder) Decode(data []byte) (*Message, error) {
	if len(data) == 0 {
		return nil, fmt.Errorf("%w: empty", ErrMalformed)
	}
	kind := Kind(data[0])
	d.rest, d.short = data[1:], false
	d.msg = Message{Kind: kind}
	m := &d.msg
	var err error
	switch kind {
	case Begin:
		m.CommitLSN, m.Time, m.XID = d.lsn(), d.time(), d.uint32()
	case Commit:
		d.byte() // flags, unused
		m.CommitLSN, m.EndLSN, m.Time = d.lsn(), d.lsn(), d.time()
	case Origin:
		d.lsn()
		d.string()
	case Relation:
		m.Rel = d.relation()
	case Type:
		m.TypeOID, m.TypeSchema, m.TypeName = d.uint32(), d.string(), d.string()
	case Insert:
		m.RelationID = d.uint32()
		if d.byte() != 'N' {
			d.short = true
		}
		d.new = d.tuple(d.new[:0])
		m.New = d.new
	case Update:
		m.RelationID = d.uint32()
		k := d.byte()
		if k == 'K' || k == 'O' {
			m.OldKind = OldKind(k)
			d.oldTuple()
			k = d.byte()
		}
		if k != 'N' {
			d.short = true
		}
		d.new = d.tuple(d.new[:0])
		m.New = d.new
	case Delete:
		m.RelationID = d.uint32()
		m.OldKind = OldKind(d.byte())
		if m.OldKind != KeyOnly && m.OldKind != FullOld {
			d.short = true
		}
		d.oldTuple()
	case Truncate:
		n := int(d.uint32())
		flags := d.byte()
		m.Cascade, m.RestartSeqs = flags&1 != 0, flags&2 != 0
		if n > len(d.rest)/4 {
			d.short = true
			break
		}
		m.RelationIDs = make([]uint32, n)
		for i := range m.RelationIDs {
			m.RelationIDs[i] = d.uint32()
		}
	case Logical:
		m.Transactional = d.byte()&1 != 0
		m.LSN, m.Prefix = d.lsn(), d.string()
		m.Content = d.bytes(int(d.uint32()))
	default:
		err = fmt.Errorf("%w: unknown kind %q", ErrMalformed, data[0])
	}
	if err == nil && d.short {
		err = fmt.Errorf("%w: kind %q, %d bytes", ErrMalformed, data[0], len(data))
	}
	if err != nil {
		return nil, err
	}
	return m, nil
}

func (d *Decoder) relation() *Rel {
	r := &Rel{ID: d.uint32(), Schema: d.string(), Name: d.string(), Identity: d.byte()}
	if r.Schema == "" {
		r.Schema = "pg_catalog" // sent empty for the catalog's own
	}
	n := int(d.uint16())
	if n > len(d.rest) {
		d.short = true
		return r
	}
	r.Columns = make([]Column, n)
	for i := range r.Columns {
		r.Columns[i] = Column{
			Identity: d.byte()&1 != 0,
			Name:     d.string(),
			Type:     d.uint32(),
			Modifier: int32(d.uint32()),
		}
	}
	return r
}

func (d *Decoder) tuple(dst []Value) []Value {
	n := int(d.uint16())
	for range n {
		v := Value{Kind: ValueKind(d.byte())}
		switch v.Kind {
		case Null, Unchanged:
		case Text:
			v.Text = d.bytes(int(d.uint32()))
		default:
			d.short = true
		}
		if d.short {
			return dst
		}
		dst = append(dst, v)
	}
	return dst
}

// oldTuple reads the old tuple of d.msg. In one of the key alone, a null is a column that was not sent.
func (d *Decoder) oldTuple() {
	d.old = d.tuple(d.old[:0])
	if d.msg.OldKind == KeyOnly {
		for i := range d.old {
			if d.old[i].Kind == Null {
				d.old[i].Kind = Unchanged
			}
		}
	}
	d.msg.Old = d.old
}

func (d *Decoder) bytes(n int) []byte {
	if n < 0 || n > len(d.rest) {
		d.short = true
		d.rest = nil
		return nil
	}
	b := d.rest[:n:n]
	d.rest = d.rest[n:]
	return b
}

func (d *Decoder) byte() byte {
	if b := d.bytes(1); b != nil {
		return b[0]
	}
	return 0
}

func (d *Decoder) uint16() uint16 {
	if b := d.bytes(2); b != nil {
		return binary.BigEndian.Uint16(b)
	}
	return 0
}

func (d *Decoder) uint32() uint32 {
	if b := d.bytes(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

func (d *Decoder) lsn() change.LSN {
	if b := d.bytes(8); b != nil {
		return change.LSN(binary.BigEndian.Uint64(b))
	}
	return 0
}

func (d *Decoder) string() string {
	i := bytes.IndexByte(d.rest, 0)
	if i < 0 {
		d.short = true
		d.rest = nil
		return ""
	}
	s := string(d.rest[:i])
	d.rest = d.rest[i+1:]
	return s
}

// postgresEpoch is where Postgres counts from, 2000-01-01, in microseconds since 1970.
const postgresEpoch = 946_684_800_000_000

func (d *Decoder) time() time.Time {
	return time.UnixMicro(postgresEpoch + int64(d.lsn())).UTC()
}
