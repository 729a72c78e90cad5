package changelog

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"sync"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/nudgesync/nudge/changefeed/change"
)

const (
	copySQL = `
copy nudge.changes (segment, lsn, seq, scope, tbl, op, key, row, origin, reason, committed_at)
from stdin with (format binary)`
	copyColumns = 11
	// copySignature, flags and the length of a header extension begin the binary format of COPY.
	copySignature = "PGCOPY\n\xff\r\n\x00" + "\x00\x00\x00\x00" + "\x00\x00\x00\x00"
	// copyChunk is how much is encoded at a time, bytes.
	copyChunk = 64 << 10
)

// errStopped is read from a copyReader whose COPY has ended.
var errStopped = errors.New("the copy has ended")

// copyChanges appends the source's changes to a segment, within the connection's transaction.
func copyChanges(ctx context.Context, conn *pgconn.PgConn, segment int32, src Source) error {
	r := &copyReader{segment: uint32(segment), src: src, buf: []byte(copySignature)}
	_, err := conn.CopyFrom(ctx, r, copySQL)
	if failed := r.stop(); failed != nil {
		return failed // what the server says of it is only that we gave up
	}
	return err
}

// copyReader encodes changes in COPY's binary format as they are read.
type copyReader struct {
	segment uint32

	// A connection that breaks leaves pgconn's reading goroutine behind: stop waits for its last Read.
	mu   sync.Mutex
	src  Source
	buf  []byte
	done int   // bytes of buf that were read
	err  error // for when buf is empty
}

// stop makes later Reads fail, and returns the source's error if it had one.
func (r *copyReader) stop() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	err := r.err
	r.err, r.buf, r.done = errStopped, nil, 0
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// Read implements io.Reader.
func (r *copyReader) Read(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.buf)-r.done < copyChunk {
		r.buf, r.done = r.buf[:copy(r.buf, r.buf[r.done:])], 0
	}
	for r.err == nil && len(r.buf)-r.done < copyChunk {
		var c *change.Change
		if c, r.err = r.src.Next(); r.err == nil {
			r.buf = r.append(r.buf, c)
		} else if errors.Is(r.err, io.EOF) {
			r.buf = append(r.buf, 0xff, 0xff) // the trailer
		}
	}
	if r.done == len(r.buf) || r.err != nil && !errors.Is(r.err, io.EOF) {
		return 0, r.err
	}
	n := copy(p, r.buf[r.done:])
	r.done += n
	return n, nil
}

func (r *copyReader) append(b []byte, c *change.Change) []byte {
	b = binary.BigEndian.AppendUint16(b, copyColumns)
	b = appendInt4(b, r.segment)
	b = appendInt8(b, uint64(c.Pos.LSN))
	b = appendInt4(b, c.Pos.Seq)
	b = appendText(b, string(c.Scope))
	b = appendText(b, c.Table)
	b = append(b, 0, 0, 0, 1, byte(c.Op))
	b = appendTextOrNull(b, c.Key)
	b = appendTextOrNull(b, c.Row)
	b = appendTextOrNull(b, c.Origin)
	b = appendTextOrNull(b, c.Reason)
	return appendInt8(b, uint64(c.CommittedAt.UnixMicro()))
}

func appendInt4(b []byte, v uint32) []byte {
	return binary.BigEndian.AppendUint32(append(b, 0, 0, 0, 4), v)
}

func appendInt8(b []byte, v uint64) []byte {
	return binary.BigEndian.AppendUint64(append(b, 0, 0, 0, 8), v)
}

func appendText[T ~string | ~[]byte](b []byte, v T) []byte {
	return append(binary.BigEndian.AppendUint32(b, uint32(len(v))), v...)
}

func appendTextOrNull[T ~string | ~[]byte](b []byte, v T) []byte {
	if len(v) == 0 {
		return append(b, 0xff, 0xff, 0xff, 0xff)
	}
	return appendText(b, v)
}

// slice is a Source of changes in memory.
type slice struct{ rest []change.Change }

func (s *slice) Next() (*change.Change, error) {
	if len(s.rest) == 0 {
		return nil, io.EOF
	}
	c := &s.rest[0]
	s.rest = s.rest[1:]
	return c, nil
}

// moving is a Source that says when it is read.
type moving struct {
	Source
	progress func()
}

func (m moving) Next() (*change.Change, error) {
	m.progress()
	return m.Source.Next()
}
