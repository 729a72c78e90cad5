package pull_test

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"reflect"
	"testing"

	"github.com/nudgesync/nudge/server/pull"
)

func newSealer(t testing.TB) pull.Sealer {
	t.Helper()
	s, err := pull.NewSealer(bytes.Repeat([]byte{7}, 32))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// Whatever a record holds that only we can have sealed, it is malformed, or a cursor that is the same when
// it is sealed and opened again; and it is never another user's.
func FuzzCursorRecord(f *testing.F) {
	for _, r := range records() {
		f.Add(r.flags, r.bytes)
	}
	s := newSealer(f)
	f.Fuzz(func(t *testing.T, flags byte, record []byte) {
		text := s.SealRecord("7", flags, record)
		if _, err := s.Open("8", text); len(text) <= 64<<10 && !errors.Is(err, pull.ErrForeign) {
			t.Fatalf("for another user: %v", err)
		}
		c, err := s.Open("7", text)
		if err != nil {
			if !errors.Is(err, pull.ErrMalformed) {
				t.Fatal(err)
			}
			return
		}
		again := s.Seal("7", c)
		if len(again) > len(text) {
			t.Fatalf("%d characters became %d", len(text), len(again))
		}
		twice, err := s.Open("7", again)
		if err != nil || !reflect.DeepEqual(c, twice) {
			t.Fatalf("%x: %+v, then %+v, %v", record, c, twice, err)
		}
	})
}

// No text but what was sealed opens, whatever is changed in it.
func FuzzCursorText(f *testing.F) {
	s := newSealer(f)
	good := s.SealRecord("7", 0, records()["follows"].bytes)
	f.Add(good, 0, byte(0))
	for i := range len(good) {
		f.Add(good, i, byte('A'))
	}
	for by := range byte(128) { // stray bits behind the end
		f.Add(good, len(good)-1, by)
	}
	for _, text := range []string{"", "A", "====", "+/+/", good + "A", good[:len(good)-1], good + "\n", " " + good} {
		f.Add(text, 0, byte(0))
	}
	f.Fuzz(func(t *testing.T, text string, at int, by byte) {
		if at >= 0 && at < len(text) {
			b := []byte(text)
			b[at] ^= by
			text = string(b)
		}
		_, err := s.Open("7", text)
		if err != nil && !errors.Is(err, pull.ErrMalformed) && !errors.Is(err, pull.ErrForeign) {
			t.Fatal(err)
		}
		if sealed, _ := base64.RawURLEncoding.DecodeString(text); err == nil && base64.RawURLEncoding.EncodeToString(sealed) != text {
			t.Fatalf("%q opens, and is not what a sealer writes", text)
		}
	})
}

type record struct {
	flags byte
	bytes []byte
}

// records are cursors of every sort, and some that are none, as bytes behind the user.
func records() map[string]record {
	uvarint := binary.AppendUvarint
	list := func(b []byte, items ...string) []byte {
		b = uvarint(b, uint64(len(items))+1)
		for _, s := range items {
			b = append(uvarint(b, uint64(len(s))), s...)
		}
		return b
	}
	position := func(seq, floor uint64) []byte {
		b := binary.BigEndian.AppendUint64(nil, 1)
		b = binary.BigEndian.AppendUint64(b, 0x199cea8)
		b = binary.BigEndian.AppendUint64(uvarint(b, seq), 0xc0ffee)
		return uvarint(b, floor)
	}
	snapshot := func(scope, table, reason string, index uint64, after ...string) []byte {
		b := list(append(position(0, 0x199cf00), 0), scope, table, reason, "g1")
		b = uvarint(b, index)
		if after == nil {
			return append(b, 0)
		}
		return list(b, after...)
	}
	return map[string]record{
		"follows":          {0, append(position(3, 0), 0)},
		"head":             {1, append(position(3, 0), 0)},
		"floor":            {0, append(position(0, 0x199cf00), 0)},
		"some_tables":      {0, list(position(3, 0), "public.intakes", "public.medications")},
		"no_tables":        {0, list(position(3, 0))},
		"snapshot_starts":  {2, snapshot("user:7", "*", "new", 0)},
		"snapshot_in_it":   {2, snapshot("*", "public.intakes", "truncate", 1, "9", "a b")},
		"snapshot_head":    {3, snapshot("*", "*", "epoch", 0)},
		"snapshot_missing": {2, append(position(3, 0), 0)},
		"snapshot_unasked": {0, snapshot("*", "*", "epoch", 0)},
		"index_over_int":   {2, snapshot("user:7", "*", "new", 1<<63, "x")},
		"seq_over_uint32":  {0, append(position(1<<40, 0), 0)},
		"cut":              {0, position(3, 0)[:20]},
		"list_too_long":    {0, append(position(3, 0), 0xff, 0xff, 0xff, 0x7f)},
		"endless_number":   {0, append(position(3, 0)[:16], bytes.Repeat([]byte{0x80}, 11)...)},
		"empty":            {0, nil},
	}
}
