package value

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

// fuzzTypes is a small catalog with one of everything that nests.
func fuzzTypes() *Types {
	return &Types{loaded: map[uint32]typeDef{
		20000: {isComposite: true, fields: []attribute{{"a", int4OID}, {"b \"q\"", textOID}}},
		20001: {elem: 20000, delim: ','},
		20002: {isHstore: true},
		20003: {base: 1009},
		20004: {elem: 20003, delim: ','},
		20005: {isComposite: true, fields: []attribute{{"p", 20000}, {"ps", 20001}, {"h", 20002}, {"j", jsonOID}, {"ts", 20004}}},
		20006: {elem: 20005, delim: ','},
	}}
}

func FuzzConverter(f *testing.F) {
	oids := []uint32{
		boolOID, byteaOID, int8OID, int2vectorOID, oidvectorOID, textOID, jsonOID, jsonbOID, float8OID, dateOID, timestampOID,
		timestamptzOID, numericOID, 1020, 20000, 20001, 20002, 20003, 20004, 20005, 20006,
	}
	for i := range oids {
		for _, text := range []string{
			"", "t", "-1.50e+3", "NaN", `\x00ff`, "1 2", "2024-01-02 03:04:05.6+00 BC", `{"a": [1, "\ud83d\ude00", null]}`,
			`(1,"a ""b"" \\")`, `[0:1]={NULL,"a\"\\"}`, `"a"=>"1", "b"=>NULL`, "{(1,2),(3,4);NULL}",
		} {
			f.Add(uint8(i), false, []byte(text))
		}
	}
	f.Fuzz(func(t *testing.T, which uint8, wide bool, text []byte) {
		oid := oids[int(which)%len(oids)]
		checkConverter(t, fuzzTypes().Converter(oid, Options{WideNumbersAsStrings: wide}), text)
	})
}

func FuzzArray(f *testing.F) {
	for _, text := range []string{
		"{}", "{1}", `{{a,NULL},{"b c","d\"e"}}`, "[2:3][-1:0]={{1,2},{3,4}}", `{"{\"x\",\"\\\"y\"}"}`, `{"(1,\"a \"\"b\"\"\")",NULL}`, "{{},{1}}",
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		for _, oid := range []uint32{1007, 1009, 1020, 20001, 20004} {
			checkConverter(t, fuzzTypes().Converter(oid, Options{}), text)
		}
	})
}

func FuzzComposite(f *testing.F) {
	for _, text := range []string{
		"(,)", `(1,"")`, `(1,"a, ""b"" \\")`, `("(1,a)","{""(2,b)"",NULL}","""a""=>""1""","{""a"": 1}","{""{a}""}")`, "((1,a),,,,)",
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		for _, oid := range []uint32{20000, 20005, 20002} {
			checkConverter(t, fuzzTypes().Converter(oid, Options{}), text)
		}
	})
}

// checkConverter holds c to its contract: what was in dst stays, and behind it is valid JSON, or
// nothing and ErrPoison. text stays what it was, also when it stands in dst's own array.
func checkConverter(t *testing.T, c Converter, text []byte) {
	t.Helper()
	before := string(text)
	shared := append(make([]byte, 0, 4*len(text)+64), text...)
	out, err := c(shared, shared[:len(text)])
	if string(text) != before || string(out[:len(text)]) != before {
		t.Fatalf("%q: the text was overwritten", before)
	}
	got := out[len(text):]
	if err != nil {
		if !errors.Is(err, ErrPoison) || len(got) != 0 {
			t.Fatalf("%q: got %q, %v", before, got, err)
		}
		got = AppendPoison(nil, text)
	}
	if !json.Valid(got) || !utf8.Valid(got) {
		t.Fatalf("%q: got %q", before, got)
	}
}

// Whatever stands in two composites of an array of them, quoted as record_out and array_out quote, comes back
// as it was; bounds are of no account.
func FuzzQuoted(f *testing.F) {
	f.Add("", "a", false, int16(1))
	f.Add(`a "b" \c`, "x,y", true, int16(2))
	f.Add("{NULL}", "NULL", false, int16(-3))
	f.Add("(1,\")\"", "\x00\n\t é", true, int16(0))
	f.Fuzz(func(t *testing.T, first, second string, null bool, lower int16) {
		if !utf8.ValidString(first) || !utf8.ValidString(second) {
			return // poison: FuzzConverter
		}
		one, other := `(-7,`+quoteField(first)+`)`, `(,`+quoteField(second)+`)`
		text := `{` + quoteElement(one) + `,` + quoteElement(other)
		if null {
			text += `,NULL`
		}
		text += `}`
		if lower != 1 {
			n := int(lower) + 1
			if null {
				n++
			}
			text = fmt.Sprintf("[%d:%d]=%s", lower, n, text)
		}
		out, err := fuzzTypes().Converter(20001, Options{})(nil, []byte(text))
		if err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		var got []map[string]any
		if err := json.Unmarshal(out, &got); err != nil {
			t.Fatalf("%q: %s: %v", text, out, err)
		}
		want := []map[string]any{{"a": -7.0, `b "q"`: first}, {"a": nil, `b "q"`: second}}
		if null {
			want = append(want, nil)
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Fatalf("%q: %s", text, d)
		}
	})
}

// quoteField quotes as record_out does, quoteElement as array_out does.
func quoteField(s string) string {
	return `"` + strings.NewReplacer(`"`, `""`, `\`, `\\`).Replace(s) + `"`
}

func quoteElement(s string) string {
	return `"` + strings.NewReplacer(`"`, `\"`, `\`, `\\`).Replace(s) + `"`
}
