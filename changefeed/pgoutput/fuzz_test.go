package pgoutput_test

import (
	"bytes"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nudgesync/nudge/changefeed/pgoutput"
)

// What was decoded says the same when it is written down and decoded again; what is written down is
// no longer than what came, and no prefix of it is a message (P27).
func FuzzDecode(f *testing.F) {
	for _, data := range samples {
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		before := bytes.Clone(data)
		var d, again pgoutput.Decoder
		m, err := d.Decode(data)
		if !bytes.Equal(data, before) {
			t.Fatalf("%q was written to", before)
		}
		if err != nil {
			if m != nil || !errors.Is(err, pgoutput.ErrMalformed) {
				t.Fatalf("%v, %v", m, err)
			}
			return
		}
		if m.Kind == pgoutput.Origin {
			return // nothing of it is kept
		}
		written := encode(m)
		twice, err := again.Decode(written)
		if err != nil {
			t.Fatalf("%q, written as %q: %v", data, written, err)
		}
		if diff := cmp.Diff(m, twice); diff != "" {
			t.Fatalf("%q, written as %q: %s", data, written, diff)
		}
		if spare := len("pg_catalog"); len(written) > len(data)+spare {
			t.Fatalf("%d bytes became %d", len(data), len(written))
		}
		for n := range written {
			if _, err := again.Decode(written[:n]); !errors.Is(err, pgoutput.ErrMalformed) {
				t.Fatalf("%q cut to %d bytes: %v", written, n, err)
			}
		}
	})
}

// encode writes a message down as the manual says.
func encode(m *pgoutput.Message) []byte {
	micros := uint64(m.Time.UnixMicro() - 946_684_800_000_000) // from 2000 on
	kind := byte(m.Kind)
	switch m.Kind {
	case pgoutput.Begin:
		return message(kind, uint64(m.CommitLSN), micros, m.XID)
	case pgoutput.Commit:
		return message(kind, byte(0), uint64(m.CommitLSN), uint64(m.EndLSN), micros)
	case pgoutput.Relation:
		b := message(kind, m.Rel.ID, m.Rel.Schema, m.Rel.Name, m.Rel.Identity, uint16(len(m.Rel.Columns)))
		for _, c := range m.Rel.Columns {
			b = append(b, message(flag(c.Identity, 1), c.Name, c.Type, uint32(c.Modifier))...)
		}
		return b
	case pgoutput.Type:
		return message(kind, m.TypeOID, m.TypeSchema, m.TypeName)
	case pgoutput.Insert:
		return message(kind, m.RelationID, 'N', tuple(m.New))
	case pgoutput.Update:
		if m.OldKind == pgoutput.NoOld {
			return message(kind, m.RelationID, 'N', tuple(m.New))
		}
		return message(kind, m.RelationID, byte(m.OldKind), tuple(m.Old), 'N', tuple(m.New))
	case pgoutput.Delete:
		return message(kind, m.RelationID, byte(m.OldKind), tuple(m.Old))
	case pgoutput.Truncate:
		b := message(kind, uint32(len(m.RelationIDs)), flag(m.Cascade, 1)|flag(m.RestartSeqs, 2))
		for _, id := range m.RelationIDs {
			b = append(b, message(id)...)
		}
		return b
	case pgoutput.Logical:
		return message(kind, flag(m.Transactional, 1), uint64(m.LSN), m.Prefix, uint32(len(m.Content)), m.Content)
	}
	return nil
}

func tuple(values []pgoutput.Value) []byte {
	b := message(uint16(len(values)))
	for _, v := range values {
		b = append(b, byte(v.Kind))
		if v.Kind == pgoutput.Text {
			b = append(b, message(uint32(len(v.Text)), v.Text)...)
		}
	}
	return b
}

func flag(set bool, bit byte) byte {
	if set {
		return bit
	}
	return 0
}
