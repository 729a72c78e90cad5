package pull

import (
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"slices"
	"strings"

	"golang.org/x/crypto/chacha20poly1305"

	"github.com/nudgesync/nudge/changefeed/change"
)

// cursor is what a device holds, sealed: where it stands, and how far a snapshot has come.
type cursor struct {
	pos    change.Position
	config uint64     // hash of the routing configuration
	floor  change.LSN // the device is complete only once the log has passed it (A5)
	tables []string   // the tables it asked for, sorted; nil: all
	snap   *progress  // nil: it follows the log from pos
	head   bool       // names a head in a nudge: may be compared, never pulled from (A6)
}

// equal reports whether the other cursor says the same, so that its text stands for both. In a snapshot none does:
// its progress is moved in place.
func (c *cursor) equal(d *cursor) bool {
	return c.snap == nil && d.snap == nil && c.pos == d.pos && c.config == d.config && c.floor == d.floor && c.head == d.head &&
		slices.Equal(c.tables, d.tables)
}

// progress of a snapshot that starts at the cursor's position.
type progress struct {
	scope  change.Scope // what the reset named: change.All or one scope
	table  string       // "*" or one table
	reason change.Reason
	gen    string
	index  int      // into the snapshot's tables, in name order
	after  []string // the last key sent of that table; nil: none yet
}

var (
	errMalformed = errors.New("malformed cursor")
	errForeign   = errors.New("cursor of another user")
)

// sealer encrypts cursors: they hold row keys (A24), and nobody else can make one. The nonce is random
// and long enough (24 bytes) never to repeat.
type sealer struct{ aead cipher.AEAD }

func newSealer(key []byte) (*sealer, error) {
	aead, err := chacha20poly1305.NewX(key)
	if err != nil {
		return nil, err
	}
	return &sealer{aead: aead}, nil
}

// cursorVersion is the first byte of a sealed record.
const cursorVersion = 1

// userHash tells users apart inside a cursor.
func userHash(user string) []byte {
	h := sha256.Sum256([]byte(user))
	return h[:8]
}

// seal returns the cursor's text for a user.
func (s *sealer) seal(user string, c *cursor) string {
	b := make([]byte, 0, 160)
	flags := byte(0)
	if c.head {
		flags |= 1
	}
	if c.snap != nil {
		flags |= 2
	}
	b = append(b, cursorVersion, flags)
	b = append(b, userHash(user)...)
	b = binary.BigEndian.AppendUint64(b, uint64(c.pos.Epoch))
	b = binary.BigEndian.AppendUint64(b, uint64(c.pos.LSN))
	b = binary.AppendUvarint(b, uint64(c.pos.Seq))
	b = binary.BigEndian.AppendUint64(b, c.config)
	b = binary.AppendUvarint(b, uint64(c.floor))
	b = appendStrings(b, c.tables)
	if p := c.snap; p != nil {
		b = appendStrings(b, []string{string(p.scope), p.table, string(p.reason), p.gen})
		b = binary.AppendUvarint(b, uint64(p.index))
		b = appendStrings(b, p.after)
	}
	nonce := make([]byte, chacha20poly1305.NonceSizeX, chacha20poly1305.NonceSizeX+len(b)+chacha20poly1305.Overhead)
	_, _ = rand.Read(nonce) // never fails
	return base64.RawURLEncoding.EncodeToString(s.aead.Seal(nonce, nonce, b, nil))
}

// open reads a cursor: errMalformed if it is not one of ours, errForeign if it is another user's.
func (s *sealer) open(user, text string) (*cursor, error) {
	if len(text) > 64<<10 {
		return nil, errMalformed
	}
	// One cursor has one text: no stray bits behind its end, no line breaks, which decoding passes over.
	sealed, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil || strings.ContainsAny(text, "\r\n") || len(sealed) < chacha20poly1305.NonceSizeX {
		return nil, errMalformed
	}
	b, err := s.aead.Open(nil, sealed[:chacha20poly1305.NonceSizeX], sealed[chacha20poly1305.NonceSizeX:], nil)
	if err != nil || len(b) < 10 || b[0] != cursorVersion {
		return nil, errMalformed
	}
	if string(b[2:10]) != string(userHash(user)) {
		return nil, errForeign
	}
	r := reader{b: b[10:]}
	c := &cursor{
		head:   b[1]&1 != 0,
		pos:    change.Position{Epoch: change.Epoch(r.uint64()), LSN: change.LSN(r.uint64()), Seq: uint32(r.uvarint())},
		config: r.uint64(),
		floor:  change.LSN(r.uvarint()),
		tables: r.strings(),
	}
	if b[1]&2 != 0 {
		names := r.strings()
		if len(names) != 4 {
			return nil, errMalformed
		}
		c.snap = &progress{
			scope: change.Scope(names[0]), table: names[1], reason: change.Reason(names[2]), gen: names[3],
			index: int(r.uvarint()), after: r.strings(),
		}
	}
	if r.failed || len(r.b) != 0 {
		return nil, errMalformed
	}
	return c, nil
}

// appendStrings writes a list: its length plus one (0: nil), then each with its length.
func appendStrings(b []byte, list []string) []byte {
	if list == nil {
		return append(b, 0)
	}
	b = binary.AppendUvarint(b, uint64(len(list))+1)
	for _, s := range list {
		b = binary.AppendUvarint(b, uint64(len(s)))
		b = append(b, s...)
	}
	return b
}

// reader reads what seal wrote. Sealed records are authentic, so it only guards against panics.
type reader struct {
	b      []byte
	failed bool
}

func (r *reader) bytes(n uint64) []byte {
	if n > uint64(len(r.b)) {
		r.failed = true
		r.b = nil
		return nil
	}
	out := r.b[:n]
	r.b = r.b[n:]
	return out
}

func (r *reader) uint64() uint64 {
	if b := r.bytes(8); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

func (r *reader) uvarint() uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 {
		r.failed = true
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *reader) strings() []string {
	n := r.uvarint()
	if n == 0 || n-1 > uint64(len(r.b)) {
		r.failed = r.failed || n != 0
		return nil
	}
	out := make([]string, n-1)
	for i := range out {
		out[i] = string(r.bytes(r.uvarint()))
	}
	return out
}
