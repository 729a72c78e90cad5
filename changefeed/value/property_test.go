package value_test

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"pgregory.net/rapid"

	"github.com/nudgesync/nudge/changefeed/value"
)

// TestP18HostileSettings draws random types and values in databases whose settings and encoding change
// what Postgres prints, and compares with to_jsonb under TimeZone UTC.
func TestP18HostileSettings(t *testing.T) {
	for encoding, alphabet := range map[string]string{
		"UTF8":   "ab N\"\\{}(),;:=>'\n\t\r\x01\x7fé日😀\u2028",
		"LATIN1": "ab N\"\\{}(),;:=>'\n\t\r\x01\x7féÿ\u0080",
	} {
		t.Run(encoding, func(t *testing.T) {
			conn := connect(t, hostile(t, encoding))
			run(t, conn, "create extension hstore")
			rapid.Check(t, func(rt *rapid.T) { checkRandomValue(t, rt, conn, alphabet) })
		})
	}
}

func checkRandomValue(t *testing.T, rt *rapid.T, conn *pgx.Conn, alphabet string) {
	run(t, conn, "begin")
	defer run(t, conn, "rollback")
	g := generator{rt: rt, alphabet: []rune(alphabet)}
	typ := g.typ(3)
	for _, ddl := range g.ddl {
		if _, err := conn.Exec(t.Context(), ddl); err != nil {
			rt.Fatalf("%s: %v", ddl, err)
		}
	}
	for range 4 {
		expr := "(" + typ.value() + ")::" + typ.name
		p, err := evaluate(t.Context(), conn, expr)
		if err != nil {
			rt.Fatalf("%s: %v", expr, err)
		}
		types, err := value.Load(t.Context(), conn, []uint32{p.oid})
		if err != nil {
			rt.Fatal(err)
		}
		got, err := types.Converter(p.oid, value.Options{})(nil, p.text)
		if err != nil {
			rt.Fatalf("%s, printed %q: %v", expr, p.text, err)
		}
		if d := diff(got, p.jsonb); d != "" {
			rt.Fatalf("%s, printed %q: got %s, to_jsonb %s: %s", expr, p.text, got, p.jsonb, d)
		}
	}
}

// randomType is a type by name and a source of SQL expressions for its values, none of them NULL.
type randomType struct {
	name  string
	value func() string
}

type generator struct {
	rt       *rapid.T
	alphabet []rune
	ddl      []string // makes the types drawn so far
}

func (g *generator) pick(n int) int { return rapid.IntRange(0, n-1).Draw(g.rt, "pick") }

func (g *generator) text(maxLen int) string {
	return rapid.StringOfN(rapid.SampledFrom(g.alphabet), 0, maxLen, -1).Draw(g.rt, "text")
}

func (g *generator) name(kind string) string { return fmt.Sprintf("%s_%d", kind, len(g.ddl)) }

func (g *generator) typ(depth int) randomType {
	if depth == 0 {
		return g.scalar()
	}
	switch g.pick(6) {
	case 0, 1:
		return g.array(g.typ(depth - 1))
	case 2, 3:
		return g.composite(depth - 1)
	case 4:
		base := g.typ(depth - 1)
		name := g.name("domain")
		g.ddl = append(g.ddl, "create domain "+name+" as "+base.name)
		return randomType{name, func() string { return "(" + base.value() + ")::" + base.name }}
	}
	return g.scalar()
}

func (g *generator) nullable(t randomType) string {
	if g.pick(5) == 0 {
		return "null"
	}
	return "(" + t.value() + ")::" + t.name
}

func (g *generator) array(elem randomType) randomType {
	// Postgres has no arrays of arrays: a domain stands between.
	if strings.HasSuffix(elem.name, "[]") {
		name := g.name("wrapped")
		g.ddl = append(g.ddl, "create domain "+name+" as "+elem.name)
		elem = randomType{name, elem.value}
	}
	name := elem.name + "[]"
	return randomType{name, func() string {
		if g.pick(6) == 0 {
			return "'{}'"
		}
		bounds := ""
		var build func(dims int) string
		sizes := rapid.SliceOfN(rapid.IntRange(1, 3), 1, 3).Draw(g.rt, "sizes")
		build = func(d int) string {
			var parts []string
			for range sizes[d] {
				if d == len(sizes)-1 {
					parts = append(parts, g.nullable(elem))
				} else {
					parts = append(parts, build(d+1))
				}
			}
			return "array[" + strings.Join(parts, ",") + "]::" + name
		}
		expr := build(0)
		if g.pick(3) == 0 {
			for _, size := range sizes {
				lower := rapid.IntRange(-2, 3).Draw(g.rt, "lower")
				bounds += fmt.Sprintf("[%d:%d]", lower, lower+size-1)
			}
			return "('" + bounds + "=' || (" + expr + ")::text)::" + name
		}
		return expr
	}}
}

func (g *generator) composite(depth int) randomType {
	var fields []randomType
	var columns []string
	for i := range 1 + g.pick(4) {
		f := g.typ(depth)
		fields = append(fields, f)
		column := fmt.Sprintf("%d%s", i, g.text(5))
		columns = append(columns, pgx.Identifier{column}.Sanitize()+" "+f.name)
	}
	name := g.name("composite")
	g.ddl = append(g.ddl, "create type "+name+" as ("+strings.Join(columns, ", ")+")")
	return randomType{name, func() string {
		var parts []string
		for _, f := range fields {
			parts = append(parts, g.nullable(f))
		}
		return "row(" + strings.Join(parts, ",") + ")::" + name
	}}
}

func (g *generator) scalar() randomType {
	integer := func(lo, hi int64) string {
		return strconv.FormatInt(rapid.Int64Range(lo, hi).Draw(g.rt, "integer"), 10)
	}
	literal := func(s string) string { return quote(s) }
	// An interval as hours, for Postgres 14 reads no more than 2³¹ of any unit.
	clock := func(lo, hi time.Duration) string {
		d := time.Duration(rapid.Int64Range(int64(lo/time.Microsecond), int64(hi/time.Microsecond)).Draw(g.rt, "clock")) * time.Microsecond
		sign := ""
		if d < 0 {
			sign, d = "-", -d
		}
		return fmt.Sprintf("%s%d:%02d:%02d.%06d", sign, d/time.Hour, d/time.Minute%60, d/time.Second%60, d/time.Microsecond%1e6)
	}
	// What is to be added to 1970 for 4714 BC to the year 294276.
	instant := func() string {
		return literal(integer(-2440588, 106751990)+" days "+clock(0, 24*time.Hour-1)) + "::interval"
	}
	scalars := []randomType{
		{"bool", func() string { return rapid.SampledFrom([]string{"true", "false"}).Draw(g.rt, "bool") }},
		{"int2", func() string { return literal(integer(math.MinInt16, math.MaxInt16)) }},
		{"int4", func() string { return literal(integer(math.MinInt32, math.MaxInt32)) }},
		{"int8", func() string { return literal(integer(math.MinInt64, math.MaxInt64)) }},
		{"float8", func() string {
			bits := rapid.Uint64().Draw(g.rt, "bits")
			return literal(strconv.FormatFloat(math.Float64frombits(bits), 'g', -1, 64))
		}},
		{"float4", func() string {
			bits := rapid.Uint32().Draw(g.rt, "bits")
			return literal(strconv.FormatFloat(float64(math.Float32frombits(bits)), 'g', -1, 32))
		}},
		{"numeric", func() string {
			return literal(rapid.StringMatching(`-?[0-9]{1,30}(\.[0-9]{1,20})?(e-?[0-9]{1,2})?|NaN|-?Infinity`).Draw(g.rt, "numeric"))
		}},
		{"text", func() string { return literal(g.text(20)) }},
		{"varchar", func() string { return literal(g.text(20)) }},
		{"char(7)", func() string { return literal(g.text(7)) }},
		{"name", func() string { return literal(g.text(10)) }},
		{"bytea", func() string {
			return literal(`\x` + hex.EncodeToString(rapid.SliceOfN(rapid.Byte(), 0, 20).Draw(g.rt, "bytes")))
		}},
		{"uuid", func() string { return literal(rapid.StringMatching(`[0-9a-f]{32}`).Draw(g.rt, "uuid")) }},
		{"date", func() string { return "date '2000-01-01' + " + integer(-2451545, 2145031948) + "::int" }},
		{"timestamp", func() string { return "timestamp '1970-01-01' + " + instant() }},
		{"timestamptz", func() string { return "timestamptz '1970-01-01' + " + instant() }},
		{"time", func() string { return "time '00:00' + " + literal(clock(0, 24*time.Hour-1)) + "::interval" }},
		{"timetz", func() string {
			return literal(rapid.StringMatching(`(0[0-9]|1[0-9]):[0-5][0-9]:[0-5][0-9]\.[0-9]{1,6}[+-](0[0-9]|1[0-4]):[0-5][0-9]`).Draw(g.rt, "timetz"))
		}},
		{"interval", func() string {
			return literal(integer(-100000, 100000) + " months " + integer(-100000, 100000) + " days " +
				clock(-1e15*time.Microsecond, 1e15*time.Microsecond))
		}},
		{"money", func() string { return "(" + integer(math.MinInt32, math.MaxInt32) + "::numeric / 100)" }},
		{"inet", func() string {
			return literal(rapid.StringMatching(`1[0-9]\.[0-9]\.[1-9][0-9]\.[0-9](/2[0-9])?|[0-9a-f]{1,4}::[0-9a-f]{1,4}(/1[01][0-9])?`).Draw(g.rt, "inet"))
		}},
		{"varbit", func() string { return literal(rapid.StringMatching(`[01]{0,20}`).Draw(g.rt, "bits")) }},
		{"json", func() string { return literal(g.json(3)) }},
		{"jsonb", func() string { return literal(g.json(3)) }},
		{"point", func() string { return literal("(" + integer(-1e6, 1e6) + ".1,1e" + integer(-300, 300) + ")") }},
		{"box", func() string { return literal("(" + integer(-1e6, 1e6) + ",0.3),(1," + integer(-9, 9) + ")") }},
		{"tstzrange", func() string {
			return "tstzrange(null, timestamptz '1970-01-01' + " + instant() + ", '[]')"
		}},
		{"datemultirange", func() string {
			return "datemultirange(daterange('2000-01-01', date '2000-01-01' + " + integer(0, 100000) + "::int, '[]'))"
		}},
		{"tsvector", func() string { return "array_to_tsvector(array[" + literal("x"+g.text(5)) + "])" }},
		{"hstore", func() string { return "hstore(" + literal(g.text(8)) + "," + literal(g.text(8)) + ")" }},
	}
	return scalars[g.pick(len(scalars))]
}

func (g *generator) json(depth int) string {
	str := func() string {
		b, err := json.Marshal(g.text(10))
		if err != nil {
			g.rt.Fatal(err)
		}
		// \u escapes of encoding/json for characters that a LATIN1 database lacks never arise: they are
		// not in its alphabet.
		return string(b)
	}
	n := 4
	if depth > 0 {
		n = 6
	}
	switch g.pick(n) {
	case 0:
		return rapid.SampledFrom([]string{"null", "true", "false"}).Draw(g.rt, "word")
	case 1:
		return rapid.StringMatching(`-?(0|[1-9][0-9]{0,20})(\.[0-9]{1,10})?([eE][+-]?[0-9]{1,2})?`).Draw(g.rt, "number")
	case 2, 3:
		return str()
	case 4:
		var parts []string
		for range g.pick(4) {
			parts = append(parts, g.json(depth-1))
		}
		return "[ " + strings.Join(parts, " ,\n") + "]"
	}
	var parts []string
	for range g.pick(4) {
		parts = append(parts, str()+" : "+g.json(depth-1))
	}
	return "{" + strings.Join(parts, ",\t") + " }"
}
