package change_test

import (
	"encoding/json"
	"maps"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/nudgesync/nudge/changefeed/change"
)

func TestMergeRow(t *testing.T) {
	for _, tt := range []struct{ base, patch, want string }{
		{`{"a":1,"b":"x"}`, `{"b":"y"}`, `{"a":1,"b":"y"}`},
		{`{"a":1}`, `{"c":[1,{"d":","}],"a":null}`, `{"a":null,"c":[1,{"d":","}]}`},
		{`{}`, `{"a":"}\",{"}`, `{"a":"}\",{"}`},
		{`{"a":"\\"}`, `{}`, `{"a":"\\"}`},
		{`{"a": {"b" : 2} , "c":3}`, `{ "c" : 4 }`, `{"a":{"b" : 2},"c":4}`},
	} {
		if got := string(change.MergeRow([]byte(tt.base), []byte(tt.patch))); got != tt.want {
			t.Errorf("MergeRow(%s, %s) = %s, want %s", tt.base, tt.patch, got, tt.want)
		}
	}
}

// Merging bytes means what merging maps means.
func TestMergeRowAsMaps(t *testing.T) {
	value := rapid.OneOf(
		rapid.Map(rapid.String(), func(s string) any { return s }),
		rapid.Map(rapid.Float64Range(-1e9, 1e9), func(f float64) any { return f }),
		rapid.Map(rapid.SliceOfN(rapid.String(), 0, 3), func(s []string) any { return s }),
		rapid.Map(rapid.MapOfN(rapid.String(), rapid.String(), 0, 3), func(m map[string]string) any { return m }),
		rapid.Just[any](nil),
	)
	rapid.Check(t, func(t *rapid.T) {
		object := rapid.MapOfN(rapid.StringN(0, 3, -1), value, 0, 5)
		base, patch := object.Draw(t, "base"), object.Draw(t, "patch")
		encode := func(v any) []byte {
			b, err := json.Marshal(v)
			if err != nil {
				t.Fatal(err)
			}
			return b
		}
		merged := maps.Clone(base)
		maps.Copy(merged, patch)
		var got, want any
		if err := json.Unmarshal(change.MergeRow(encode(base), encode(patch)), &got); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(encode(merged), &want); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatal(diff)
		}
	})
}
