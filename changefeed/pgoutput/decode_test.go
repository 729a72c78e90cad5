package pgoutput_test

import (
	"encoding/binary"
	"errors"
	"testing"

	"github.com/nudgesync/nudge/changefeed/pgoutput"
)

// message builds the bytes of a message from its parts.
func message(parts ...any) []byte {
	var b []byte
	for _, p := range parts {
		switch p := p.(type) {
		case byte:
			b = append(b, p)
		case rune:
			b = append(b, byte(p))
		case uint16:
			b = binary.BigEndian.AppendUint16(b, p)
		case uint32:
			b = binary.BigEndian.AppendUint32(b, p)
		case uint64:
			b = binary.BigEndian.AppendUint64(b, p)
		case string: // NUL-terminated
			b = append(append(b, p...), 0)
		case []byte: // as it is
			b = append(b, p...)
		}
	}
	return b
}

func text(s string) []byte {
	return message('t', uint32(len(s)), []byte(s))
}

// samples holds one message of every kind.
var samples = map[string][]byte{
	"begin":    message('B', uint64(100), uint64(5_000_000), uint32(77)),
	"commit":   message('C', byte(0), uint64(100), uint64(140), uint64(5_000_000)),
	"origin":   message('O', uint64(9), "elsewhere"),
	"relation": message('R', uint32(16400), "public", "intakes", 'i', uint16(2), byte(1), "id", uint32(20), uint32(0xffffffff), byte(0), "note", uint32(25), uint32(0xffffffff)),
	"type":     message('Y', uint32(17000), "public", "mood"),
	"insert":   message('I', uint32(16400), 'N', uint16(2), text("9"), 'n'),
	"update":   message('U', uint32(16400), 'N', uint16(2), text("9"), 'u'),
	"updateK":  message('U', uint32(16400), 'K', uint16(2), text("8"), 'n', 'N', uint16(2), text("9"), text("x")),
	"updateO":  message('U', uint32(16400), 'O', uint16(2), text("8"), text("old"), 'N', uint16(2), text("9"), 'u'),
	"delete":   message('D', uint32(16400), 'K', uint16(2), text("9"), 'n'),
	"truncate": message('T', uint32(2), byte(1), uint32(16400), uint32(16401)),
	"logical":  message('M', byte(1), uint64(90), "nudge.origin", uint32(5), []byte("phone")),
}

func TestDecode(t *testing.T) {
	var d pgoutput.Decoder
	m, err := d.Decode(samples["begin"])
	if err != nil || m.CommitLSN != 100 || m.XID != 77 || m.Time.Format("2006-01-02T15:04:05") != "2000-01-01T00:00:05" {
		t.Errorf("begin: %+v, %v", m, err)
	}
	m, err = d.Decode(samples["commit"])
	if err != nil || m.CommitLSN != 100 || m.EndLSN != 140 {
		t.Errorf("commit: %+v, %v", m, err)
	}
	m, err = d.Decode(samples["relation"])
	if err != nil || m.Rel.Name != "intakes" || m.Rel.Identity != 'i' || len(m.Rel.Columns) != 2 || !m.Rel.Columns[0].Identity || m.Rel.Columns[1].Type != 25 {
		t.Errorf("relation: %+v, %v", m, err)
	}
	m, err = d.Decode(samples["updateO"])
	if err != nil || m.OldKind != pgoutput.FullOld || string(m.Old[1].Text) != "old" || m.New[1].Kind != pgoutput.Unchanged {
		t.Errorf("update: %+v, %v", m, err)
	}
	m, err = d.Decode(samples["delete"])
	if err != nil || m.OldKind != pgoutput.KeyOnly || string(m.Old[0].Text) != "9" || m.Old[1].Kind != pgoutput.Unchanged {
		t.Errorf("delete: %+v, %v", m, err)
	}
	m, err = d.Decode(samples["truncate"])
	if err != nil || len(m.RelationIDs) != 2 || !m.Cascade || m.RestartSeqs {
		t.Errorf("truncate: %+v, %v", m, err)
	}
	m, err = d.Decode(samples["logical"])
	if err != nil || !m.Transactional || m.Prefix != "nudge.origin" || string(m.Content) != "phone" {
		t.Errorf("logical: %+v, %v", m, err)
	}
}

// Every strict prefix of every message is refused, and none panics (P27).
func TestP27TruncatedMessages(t *testing.T) {
	var d pgoutput.Decoder
	for name, data := range samples {
		if _, err := d.Decode(data); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		for n := range data {
			if _, err := d.Decode(data[:n]); !errors.Is(err, pgoutput.ErrMalformed) {
				t.Errorf("%s cut to %d of %d bytes: %v", name, n, len(data), err)
			}
		}
	}
}
