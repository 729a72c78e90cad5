package change_test

import (
	"bytes"
	"encoding/json"
	"maps"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nudgesync/nudge/changefeed/change"
)

// Of any two objects the merge is what merging maps yields; of anything else, JSON or not, it is the
// patch or, at most, as long as both. Neither is written to.
func FuzzMergeRow(f *testing.F) {
	f.Add([]byte(`{"a":1}`), []byte(`{"a":"\"","b":[{}]}`))
	f.Fuzz(func(t *testing.T, base, patch []byte) {
		baseBefore, patchBefore := bytes.Clone(base), bytes.Clone(patch)
		got := change.MergeRow(base, patch)
		if !bytes.Equal(base, baseBefore) || !bytes.Equal(patch, patchBefore) {
			t.Fatalf("MergeRow(%q, %q) wrote to them", baseBefore, patchBefore)
		}
		if !bytes.Equal(got, patch) && len(got) > len(base)+len(patch) {
			t.Fatalf("MergeRow(%q, %q) = %q", base, patch, got)
		}
		if !json.Valid(base) || !json.Valid(patch) {
			return
		}
		if !json.Valid(got) {
			t.Fatalf("MergeRow(%q, %q) = %q", base, patch, got)
		}
		was, isObject := object(base)
		over, isObjectToo := object(patch)
		if !isObject || !isObjectToo {
			if !bytes.Equal(got, patch) {
				t.Fatalf("MergeRow(%q, %q) = %q, one is no object", base, patch, got)
			}
			return
		}
		if was == nil || over == nil {
			return // not as the feed writes them
		}
		maps.Copy(was, over)
		merged, _ := object(got)
		if diff := cmp.Diff(was, merged); diff != "" {
			t.Fatalf("MergeRow(%q, %q) = %q: %s", base, patch, got, diff)
		}
	})
}

// object reads one, and whether it is one. It is nil if a name is escaped or stands twice, which the
// feed never writes.
func object(b []byte) (map[string]string, bool) {
	d := json.NewDecoder(bytes.NewReader(b))
	if open, err := d.Token(); err != nil || open != json.Delim('{') {
		return nil, false
	}
	m := make(map[string]string)
	for d.More() {
		start := d.InputOffset()
		name, err := d.Token()
		if err != nil {
			return nil, false
		}
		written := b[start:d.InputOffset()]
		var value json.RawMessage
		if err := d.Decode(&value); err != nil {
			return nil, false
		}
		text := name.(string)
		if _, twice := m[text]; twice || !bytes.Contains(written, []byte(`"`+text+`"`)) {
			return nil, true
		}
		m[text] = string(value)
	}
	return m, true
}
