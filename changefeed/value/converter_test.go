package value_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/nudgesync/nudge/changefeed/value"
	"github.com/nudgesync/nudge/internal/devpg/pgtest"
)

// OIDs of built-in types, for tests that need no database.
const (
	boolOID, byteaOID, int8OID, int4OID, textOID, jsonOID, float8OID = 16, 17, 20, 23, 25, 114, 701
	dateOID, timestampOID, timestamptzOID, numericOID, uuidOID       = 1082, 1114, 1184, 1700, 2950
	int4ArrayOID, textArrayOID, numericArrayOID, oidvectorOID        = 1007, 1009, 1231, 30
)

func convert(oid uint32, text string) (string, error) {
	out, err := value.Builtin().Converter(oid, value.Options{})(nil, []byte(text))
	return string(out), err
}

// to_jsonb's own text is compared by meaning elsewhere; these are the bytes that devices get.
func TestExactBytes(t *testing.T) {
	for _, c := range []struct {
		oid        uint32
		text, want string
	}{
		{boolOID, "t", "true"},
		{numericOID, "1.50", "1.50"},
		{numericOID, "-Infinity", `"-Infinity"`},
		{float8OID, "1e+300", "1e+300"},
		{float8OID, "NaN", `"NaN"`},
		{timestampOID, "2024-02-29 23:59:59.5", `"2024-02-29T23:59:59.5"`},
		{timestamptzOID, "2024-02-29 23:59:59.5+00", `"2024-02-29T23:59:59.5+00:00"`},
		{timestamptzOID, "2024-02-29 23:59:59+05:45", `"2024-02-29T23:59:59+05:45"`},
		{timestamptzOID, "0044-03-15 12:00:00+00:17:30 BC", `"0044-03-15T12:00:00+00:17:30 BC"`},
		{timestamptzOID, "-infinity", `"-infinity"`},
		{byteaOID, `\x00ff`, `"\\x00ff"`},
		{jsonOID, "{ \"a\" :\n1.0}", "{ \"a\" :\n1.0}"},
		{textOID, "a\"\\\n\r\t\x01é\u2028", `"a\"\\\n\r\t\u0001é` + "\u2028\""},
		{int4ArrayOID, "[2:3]={1,NULL}", "[1,null]"},
		{textArrayOID, `{{a,"b\"c"}}`, `[["a","b\"c"]]`},
		{oidvectorOID, "1 2", `["1","2"]`},
		{16384, "whatever", `"whatever"`},
	} {
		got, err := convert(c.oid, c.text)
		if err != nil || got != c.want {
			t.Errorf("type %d, %q: got %s, %v; want %s", c.oid, c.text, got, err, c.want)
		}
	}
}

func TestPoison(t *testing.T) {
	for _, c := range []struct {
		oid   uint32
		texts []string
	}{
		{boolOID, []string{"", "true ", "x", "tt"}},
		{int4OID, []string{"", "-", "+1", "01", "1.5", "1 ", "0x1", "1_000", "٣"}},
		{numericOID, []string{"", "-", ".5", "5.", "01", "1e", "1e+", "nan", "inf", "1,5", "--1", "1.5.2", "0x10"}},
		{byteaOID, []string{"", "abc", `\x0`, `\xzz`, `\000`}},
		{dateOID, []string{"", "01.02.2024", "2024-1-2", "2024-01-02 AD", "24-01-02", "2024-01-02T", "123456789-01-02"}},
		{timestampOID, []string{"", "2024-01-02", "2024-01-02T03:04:05", "2024-01-02 03:04", "2024-01-02 03:04:05.", "2024-01-02 03:04:05+00"}},
		{timestamptzOID, []string{
			"", "2024-01-02 03:04:05", "2024-01-02 03:04:05 UTC", "02.01.2024 03:04:05 UTC", "2024-01-02 03:04:05+0", "2024-01-02 03:04:05+00:",
			"2024-01-02 03:04:05+00:00:00:00", "2024-01-02 03:04:05.1234567+00", "Tue Jan 02 03:04:05 2024 UTC",
		}},
		{jsonOID, []string{
			"", "{", "[1,]", `{"a"}`, `{"a":}`, `{a:1}`, `{"a":1,}`, `"`, `"\`, `"\x"`, `"\u12"`, "\"\x01\"", "\"\xff\"", "tru", "nul", "01", "1 2", "[}",
			"NaN", strings.Repeat("[", 1_000_000), strings.Repeat("[", 8001) + strings.Repeat("]", 8001),
		}},
		{textOID, []string{"\xff", "abc\x80", "é\xc3", "\xed\xa0\x80"}},
		{int4ArrayOID, []string{
			"", "1", "{", "}", "{}}", "{1", "{1,}", "{,1}", "{1}{2}", "{{}}", "{{1},2}", "{1,{2}}", "{{1,2},{3}}", "{x}", `{"1}`, `{"1\`,
			"{{{{{{{1}}}}}}}", "[1:2]", "[1:2]=", "[1:2={1,2}", "[a:b]={1,2}", "[1:1][1:1]={1}", "{1;2}", `{1"2"}`, `{"1"2}`, `{\1}`, "{1} ",
		}},
		{oidvectorOID, []string{" ", "1 ", " 1", "1  2", "x", "1,2"}},
	} {
		for _, text := range c.texts {
			dst := []byte("before")
			out, err := value.Builtin().Converter(c.oid, value.Options{})(dst, []byte(text))
			if !errors.Is(err, value.ErrPoison) {
				t.Errorf("type %d, %.40q: got %.40s, %v; want ErrPoison", c.oid, text, out, err)
			}
			if string(out) != "before" {
				t.Errorf("type %d, %.40q: dst came back as %q", c.oid, text, out)
			}
		}
	}
}

func TestPoisonErrorsKeepTheValueSecret(t *testing.T) {
	_, err := convert(numericOID, "secret")
	if err == nil || strings.Contains(err.Error(), "secret") {
		t.Errorf("got %v", err)
	}
}

// What json accepts and to_jsonb refuses must be poison, and nothing else of it.
func TestJSONThatToJSONBRefuses(t *testing.T) {
	conn := connect(t, pgtest.Database(t))
	for _, literal := range []string{
		`"\u0000"`, `{"\u0000":1}`, `["a\u0000"]`, `"\ud800"`, `"\udc00"`, `"\ud800x"`, `"\ud800\ud800"`, `"\ud800\n"`,
		`1e131072`, `10e131071`, `1e-16384`, `0e-999999`, `0e99999999999`, `1e99999999999999999999`, `10000e-16384`,
		"1" + strings.Repeat("0", 131072), "0." + strings.Repeat("0", 16383) + "1",
	} {
		text := printText(t, conn, quote(literal)+"::json")
		if string(text) != literal {
			t.Fatalf("%.40s printed as %.40s", literal, text)
		}
		if p, err := evaluate(t.Context(), conn, quote(literal)+"::json"); err == nil {
			t.Errorf("to_jsonb takes %.40s: %.40s", literal, p.jsonb)
		}
		if got, err := convert(jsonOID, literal); !errors.Is(err, value.ErrPoison) {
			t.Errorf("%.40s: got %.40s, %v", literal, got, err)
		}
	}
	for _, literal := range []string{
		`"\u0001"`, `"\\u0000"`, `"\ud83d\ude00"`, "1" + strings.Repeat("0", 131071), "0." + strings.Repeat("0", 16382) + "1",
		"0." + strings.Repeat("0", 16000) + "1e100", strings.Repeat("[", 5000) + strings.Repeat("]", 5000),
	} {
		p, err := evaluate(t.Context(), conn, quote(literal)+"::json")
		if err != nil {
			t.Errorf("%.40s: %v", literal, err)
			continue
		}
		got, err := convert(jsonOID, string(p.text))
		if err != nil {
			t.Errorf("%.40s: %v", literal, err)
			continue
		}
		if d := diff([]byte(got), p.jsonb); d != "" {
			t.Errorf("%.40s: %.200s", literal, d)
		}
	}
}

// One poisonous element spoils the value, wherever it is, and leaves no half of it behind.
func TestPoisonInside(t *testing.T) {
	conn := connect(t, pgtest.Database(t))
	run(t, conn, `create type note as (id int, docs json[])`)
	for _, expr := range []string{
		`array['1', '"\u0000"']::json[]`, `row(1, array['"\ud800"']::json[])::note`, `array[row(1, array['"\u0000"'])]::note[]`,
	} {
		text := printText(t, conn, expr)
		var oid uint32
		if err := conn.QueryRow(t.Context(), "select pg_typeof("+expr+")::oid").Scan(&oid); err != nil {
			t.Fatal(err)
		}
		types, err := value.Load(t.Context(), conn, []uint32{oid})
		if err != nil {
			t.Fatal(err)
		}
		out, err := types.Converter(oid, value.Options{})([]byte("before"), text)
		if !errors.Is(err, value.ErrPoison) || string(out) != "before" {
			t.Errorf("%s: got %q, %v", expr, out, err)
		}
	}
}

func TestAppendPoison(t *testing.T) {
	got := string(value.AppendPoison([]byte("x:"), []byte("a\"\xff\x00b")))
	if want := `x:{"$nudge":"unrepresentable","text":"a\"` + "\uFFFD" + `\u0000b"}`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestAppendStringReplacesInvalidUTF8(t *testing.T) {
	for in, want := range map[string]string{
		"":                    `""`,
		"\xff":                "\"\uFFFD\"",
		"é\xc3(é":             "\"é\uFFFD(é\"",
		"12345678\xe2\x80xyz": "\"12345678\uFFFD\uFFFDxyz\"",
		"\xed\xa0\x80":        "\"\uFFFD\uFFFD\uFFFD\"",
		"\uFFFD":              "\"\uFFFD\"",
		"日本\"語\"":             `"日本\"語\""`,
	} {
		if got := string(value.AppendString(nil, []byte(in))); got != want {
			t.Errorf("%q: got %s, want %s", in, got, want)
		}
	}
}

func TestWideNumbersAsStrings(t *testing.T) {
	conn := connect(t, pgtest.Database(t))
	run(t, conn, `create domain amount as numeric(20,2);
		create type dose as (id int8, n int4, price amount, parts int8[], note jsonb, f float8)`)
	for _, c := range []struct{ expr, want string }{
		{"9007199254740993::int8", `"9007199254740993"`},
		{"1.50::numeric", `"1.50"`},
		{"'NaN'::numeric", `"NaN"`},
		{"1::int4", `1`},
		{"'{1,-2,NULL}'::int8[]", `["1","-2",null]`},
		{"'[0:1]={1.0,Infinity}'::numeric[]", `["1.0","Infinity"]`},
		{
			`row(1, 2, 3, array[4], '{"a": 5.0}', 6.5)::dose`,
			`{"id":"1","n":2,"price":"3.00","parts":["4"],"note":{"a": 5.0},"f":6.5}`,
		},
	} {
		p, err := evaluate(t.Context(), conn, c.expr)
		if err != nil {
			t.Fatalf("%s: %v", c.expr, err)
		}
		types, err := value.Load(t.Context(), conn, []uint32{p.oid})
		if err != nil {
			t.Fatal(err)
		}
		got, err := types.Converter(p.oid, value.Options{WideNumbersAsStrings: true})(nil, p.text)
		if err != nil || string(got) != c.want {
			t.Errorf("%s: got %s, %v; want %s", c.expr, got, err, c.want)
		}
	}
	for _, text := range []string{"", "x", "1e"} {
		for _, oid := range []uint32{int8OID, numericOID} {
			got, err := value.Builtin().Converter(oid, value.Options{WideNumbersAsStrings: true})(nil, []byte(text))
			if !errors.Is(err, value.ErrPoison) {
				t.Errorf("type %d, %q: got %s, %v", oid, text, got, err)
			}
		}
	}
}

func TestHotTypesDoNotAllocate(t *testing.T) {
	dst := make([]byte, 0, 1024)
	for oid, text := range map[uint32]string{
		boolOID: "t", int4OID: "42", int8OID: "9007199254740993", float8OID: "0.30000000000000004", numericOID: "1234.50",
		textOID: "Füße \"and\" more\n", uuidOID: "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", timestampOID: "2024-01-02 03:04:05.678",
		timestamptzOID: "2024-01-02 03:04:05.678+00", dateOID: "2024-01-02", byteaOID: `\xdeadbeef`, jsonOID: `{"a":[1,"x"]}`,
		int4ArrayOID: "{1,2,3}", textArrayOID: `{a,"b \"c\""}`, numericArrayOID: "{1.5,NULL}",
	} {
		c, in := value.Builtin().Converter(oid, value.Options{}), []byte(text)
		if n := testing.AllocsPerRun(100, func() {
			if _, err := c(dst, in); err != nil {
				t.Error(err)
			}
		}); n != 0 {
			t.Errorf("type %d allocates %v times", oid, n)
		}
	}
}

// An app's columns, of which most values are plain.
func BenchmarkRow(b *testing.B) {
	columns := []struct {
		oid  uint32
		text string
	}{
		{int8OID, "9007199254740993"},
		{uuidOID, "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"},
		{int8OID, "1234567"},
		{textOID, "Take one tablet in the morning, with water"},
		{textOID, "Nach dem Frühstück, nicht nüchtern"},
		{boolOID, "t"},
		{numericOID, "12.50"},
		{float8OID, "0.30000000000000004"},
		{timestamptzOID, "2024-01-02 03:04:05.678901+00"},
		{timestamptzOID, "2024-01-02 03:04:05.678901+00"},
		{3802, `{"source": "watch", "steps": [1, 2, 3], "ok": true}`},
		{textArrayOID, `{morning,"with food"}`},
	}
	var converters []value.Converter
	var texts [][]byte
	size := 0
	for _, c := range columns {
		converters = append(converters, value.Builtin().Converter(c.oid, value.Options{}))
		texts = append(texts, []byte(c.text))
		size += len(c.text)
	}
	dst := make([]byte, 0, 1024)
	b.SetBytes(int64(size))
	b.ReportAllocs()
	for b.Loop() {
		dst = dst[:0]
		for i, c := range converters {
			var err error
			if dst, err = c(dst, texts[i]); err != nil {
				b.Fatal(err)
			}
		}
	}
}
