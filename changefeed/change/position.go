package change

import (
	"cmp"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"
)

// LSN is a byte position in the write-ahead log, as in Postgres's pg_lsn.
type LSN uint64

// ParseLSN reads Postgres's text form, two hexadecimal halves: "16/B374D848".
func ParseLSN(s string) (LSN, error) {
	hi, lo, ok := strings.Cut(s, "/")
	if !ok {
		return 0, fmt.Errorf("LSN %q: no slash", s)
	}
	h, err := strconv.ParseUint(hi, 16, 32)
	if err != nil {
		return 0, fmt.Errorf("LSN %q: %w", s, err)
	}
	l, err := strconv.ParseUint(lo, 16, 32)
	if err != nil {
		return 0, fmt.Errorf("LSN %q: %w", s, err)
	}
	return LSN(h<<32 | l), nil
}

// String is Postgres's text form.
func (l LSN) String() string {
	return fmt.Sprintf("%X/%X", uint32(l>>32), uint32(l))
}

// Epoch names one unbroken history of the slot: a counter in the high 31 bits, random bits in the
// low 32. The counter orders epochs; the random bits tell two histories apart that counted alike
// because the database went back in time (A2). It fits a Postgres bigint.
type Epoch uint64

// Next mints the epoch that follows e.
func (e Epoch) Next() Epoch {
	var b [4]byte
	_, _ = rand.Read(b[:]) // never fails, crypto/rand since Go 1.24
	return Epoch((uint64(e)>>32+1)<<32 | uint64(binary.BigEndian.Uint32(b[:])))
}

// Count is the counter alone.
func (e Epoch) Count() uint32 { return uint32(e >> 32) }

// String shows counter and random bits: "3-9f0c11aa".
func (e Epoch) String() string {
	return fmt.Sprintf("%d-%08x", uint64(e)>>32, uint32(e))
}

// Position is a place in the change log: epoch, commit LSN, index within the transaction from 1.
// Seq 0 means: all commits below LSN. So a keepalive's or a transaction's end LSN L is (L, 0): a
// later commit may stand at L exactly, never below it (A3).
type Position struct {
	Epoch Epoch
	LSN   LSN
	Seq   uint32
}

// Compare orders positions as the log does: -1, 0 or +1.
func (p Position) Compare(q Position) int {
	if c := cmp.Compare(p.Epoch, q.Epoch); c != 0 {
		return c
	}
	if c := cmp.Compare(p.LSN, q.LSN); c != 0 {
		return c
	}
	return cmp.Compare(p.Seq, q.Seq)
}

// Before reports whether p stands strictly before q.
func (p Position) Before(q Position) bool { return p.Compare(q) < 0 }

// IsZero reports whether p is no position at all.
func (p Position) IsZero() bool { return p == Position{} }

// String is for logs: "3-9f0c11aa:16/B374D848.2".
func (p Position) String() string {
	return fmt.Sprintf("%s:%s.%d", p.Epoch, p.LSN, p.Seq)
}
