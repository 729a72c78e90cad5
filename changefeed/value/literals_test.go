package value_test

import (
	"testing"

	"github.com/nudgesync/nudge/changefeed/value"
	"github.com/nudgesync/nudge/internal/devpg/pgtest"
)

// literals are values by type, each written as Postgres reads it.
var literals = []struct {
	typ    string
	values []string
}{
	{"bool", []string{"t", "f"}},
	{"int2", []string{"0", "-32768", "32767"}},
	{"int4", []string{"0", "-2147483648", "2147483647"}},
	{"int8", []string{"0", "-1", "-9223372036854775808", "9223372036854775807", "9007199254740993"}},
	{"oid", []string{"0", "4294967295"}},
	{"numeric", []string{
		"0", "0.00", "1.50", "-1.50", "100", "1e20", "1e-20", "1e300", "NaN", "Infinity", "-Infinity",
		"0.000000000000000000000000000001", "123456789012345678901234567890.123456789", "-0.0",
	}},
	{"numeric(10,4)", []string{"1.5", "-99999.12345"}},
	{"float4", []string{"0", "-0", "1.1", "3.4028235e38", "1e-45", "NaN", "Infinity", "-Infinity", "16777217"}},
	{"float8", []string{
		"0", "-0", "0.30000000000000004", "1e300", "1e-300", "5e-324", "1.7976931348623157e308", "123456789012345680",
		"1e15", "1e16", "0.0001", "0.00001", "NaN", "Infinity", "-Infinity",
	}},
	{"text", []string{
		"", " ", "plain", "quote \" backslash \\ slash /", "line\nreturn\rtab\tbell\a", "\x01\x1f\x7f", "Füße", "日本語", "😀",
		"\u2028\u2029", "\ufffd", "\uffff", "NULL", "null", "{}", "</script>", "exactly8", "exactly8\"", "1234567é89012345",
	}},
	{"varchar(5)", []string{"", "abc", "ab   "}},
	{"char(5)", []string{"", "a", "ab c", "äö"}},
	{"char", []string{"", "x"}},
	{`"char"`, []string{"", "x", "\"", "\\"}},
	{"name", []string{"", "a", "we\"ird"}},
	{"uuid", []string{"00000000-0000-0000-0000-000000000000", "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11"}},
	{"bytea", []string{`\x`, `\x00ff`, `\xdeadbeef5c22`}},
	{"date", []string{
		"2024-02-29", "0001-01-01", "0001-12-31 BC", "4714-11-24 BC", "9999-12-31", "10000-01-01", "5874897-12-31",
		"infinity", "-infinity",
	}},
	{"timestamp", []string{
		"2024-02-29 23:59:59.999999", "2024-02-29 23:59:59.5", "2024-01-01", "0044-03-15 12:00:00 BC", "4714-11-24 00:00:00 BC",
		"294276-12-31 23:59:59.999999", "infinity", "-infinity", "2024-01-01 24:00:00", "0001-01-01 00:00:00.000001",
	}},
	{"timestamp(0)", []string{"2024-02-29 23:59:59.5"}},
	{"timestamptz", []string{
		"2024-02-29 23:59:59.999999+05:45", "2024-01-01 00:00:00+00", "0044-03-15 12:00:00.25+00 BC", "4714-11-24 00:00:00+00 BC",
		"294276-12-31 23:59:59.999999+00", "infinity", "-infinity", "1890-01-01 00:00:00 Europe/Amsterdam",
	}},
	{"time", []string{"00:00", "24:00", "23:59:59.999999", "12:00:00.5"}},
	{"timetz", []string{"00:00+00", "12:34:56.789+05:45", "12:00-15:59:59", "24:00+01"}},
	{"interval", []string{
		"0", "1 year 2 months 3 days 04:05:06.789", "-1 year -2 days -00:00:01", "1 day", "-00:00:00.000001", "1 mon -1 day",
		"100000 hours", "178000000 years",
	}},
	{"money", []string{"0", "1.5", "-1234567.89", "92233720368547758.07"}},
	{"inet", []string{"127.0.0.1", "10.0.0.0/8", "::1", "fe80::1/64", "::ffff:1.2.3.4"}},
	{"cidr", []string{"10.0.0.0/8", "2001:db8::/32", "192.168.1.1/32"}},
	{"macaddr", []string{"08:00:2b:01:02:03"}},
	{"macaddr8", []string{"08:00:2b:01:02:03:04:05"}},
	{"bit(1)", []string{"0", "1"}},
	{"bit(9)", []string{"101010101"}},
	{"varbit", []string{"", "1011"}},
	{"json", []string{
		`{}`, `[]`, `null`, `true`, `"a"`, `1.50`, `-0`, `1e5`, ` { "b" : [ 1 , 2.0 , {"a":null} ] , "a" : "x" } `, "{\n\t\"a\":\r\n1}",
		`{"a":1,"a":2}`, `"\u00e4\ud83d\ude00\n\/\"\\"`, `[[[[]]]]`, `""`, `{"":""}`, `1e131071`, `1e-16383`, `0e999999`,
		`0.0001e131075`, `10000e-16383`, `0.0e5`, `-1E+2`,
	}},
	{"jsonb", []string{
		`{}`, `[]`, `null`, `false`, `"a\"b\\c\u0001\u007f"`, `1.50`, `{"b":[1,2.0,{"a":null}],"a":"x"}`, `1e300`,
		`{"a":1,"a":2}`, `"日本\u00e4"`, `[1,[2,[3]]]`,
	}},
	{"jsonpath", []string{`$.a[*] ? (@ > 1)`, `$."we\"ird"`}},
	{"xml", []string{`<a b="c">d &amp; e</a>`, `<?xml version="1.0"?><a/>`, `text`}},
	{"tsvector", []string{``, `'a':1 'b c':2,3B '"':4 '\\':5`}},
	{"tsquery", []string{`'a' & !'b' | 'c':*`}},
	{"pg_lsn", []string{"16/B374D848"}},
	{"xid8", []string{"18446744073709551615"}},
	{"xid", []string{"3"}},
	{"cid", []string{"3"}},
	{"tid", []string{"(1,2)"}},
	{"pg_snapshot", []string{"10:20:10,14,15"}},
	{"txid_snapshot", []string{"10:20:10,14,15"}},
	{"refcursor", []string{"c"}},
	{"regclass", []string{"pg_class"}},
	{"regtype", []string{"double precision", "text[]"}},
	{"point", []string{"(1.5,-2)", "(NaN,Infinity)", "(0.30000000000000004,1e300)"}},
	{"line", []string{"{1,2,3}"}},
	{"lseg", []string{"[(1,2),(3,4)]"}},
	{"box", []string{"(1,2),(3,4)"}},
	{"path", []string{"((1,2),(3,4))", "[(1,2)]"}},
	{"polygon", []string{"((1,2),(3,4),(5,6))"}},
	{"circle", []string{"<(1,2),3>"}},
	{"int4range", []string{"empty", "[1,5)", "(,5]", "(,)"}},
	{"int8range", []string{"[1,9223372036854775806]"}},
	{"numrange", []string{"(1.50,NaN]", "[-Infinity,Infinity]"}},
	{"daterange", []string{"[2024-01-01,2024-02-01]", "[infinity,)"}},
	{"tsrange", []string{"[2024-01-01 00:00,2024-01-02 12:30:00.5)"}},
	{"tstzrange", []string{"[2024-01-01 00:00+05:45,infinity]"}},
	{"int4multirange", []string{"{}", "{[1,3),[5,6]}"}},
	{"tstzmultirange", []string{"{[2024-01-01 00:00+00,2024-01-02 00:00+00),[2025-01-01 00:00+00,)}"}},
	{"int2vector", []string{"", "1", "1 -2 3"}},
	{"oidvector", []string{"", "1", "1 2 4294967295"}},

	{"int4[]", []string{
		"{}", "{1}", "{1,NULL,-3}", "{{1,2},{3,NULL}}", "{{{{{{1}}}}}}", "[2:3]={1,2}", "[-1:0][5:6]={{1,2},{3,4}}", "[0:0]={NULL}",
		"{{{1,2},{3,4}},{{5,6},{7,8}}}",
	}},
	{"text[]", []string{
		"{}", `{""}`, `{NULL,"NULL","null",nullable}`, `{"a,b","{c}","d\"e","f\\g"," h ","i;j"}`, `{"line\nbreak","` + "\n\t" + `"}`,
		`{{a,b},{"c d",NULL}}`, `{Füße,日本,😀}`, `{"\\\"\\\\"}`,
	}},
	{"bool[]", []string{"{t,f,NULL}"}},
	{"int8[]", []string{"{9223372036854775807,-1}"}},
	{"numeric[]", []string{"{1.50,NaN,-Infinity,1e-20}"}},
	{"float8[]", []string{"{0.30000000000000004,NaN,Infinity,1e300}"}},
	{"uuid[]", []string{"{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11}"}},
	{"bytea[]", []string{`{"\\x00ff","\\x"}`}},
	{"timestamptz[]", []string{`{"2024-01-01 00:00:00+05:45",infinity,NULL,"0044-03-15 12:00:00+00 BC"}`}},
	{"timestamp[]", []string{`{"2024-01-01 00:00:00.5"}`}},
	{"date[]", []string{`{2024-01-01,infinity,"0044-03-15 BC"}`}},
	{"interval[]", []string{`{"1 day 02:03:04",01:00:00}`}},
	{"json[]", []string{`{"{\"a\": [1, \"b\\\"c\"]}","null",NULL,"\"x\""}`}},
	{"jsonb[]", []string{`{"{\"a\": [1, \"b\\\\\\\"c\"]}",1,"[]"}`}},
	{"box[]", []string{`{(1,2),(3,4);(5,6),(7,8)}`, `{}`, `{NULL;(1,2),(3,4)}`}},
	{"point[]", []string{`{"(1,2)",NULL}`}},
	{"name[]", []string{`{a,"b c"}`}},
	{"oid[]", []string{"{1,2}"}},
	{"int2vector[]", []string{`{"1 2",3}`}},
	{"inet[]", []string{"{10.0.0.1,::1}"}},
	{"int4range[]", []string{`{"[1,2)",empty}`}},
	{"int4multirange[]", []string{`{"{[1,2),[4,5)}"}`}},
	{"varbit[]", []string{`{101,""}`}},
	{`"char"[]`, []string{`{a,""}`}},
	{"char(3)[]", []string{`{a,NULL}`}},
	{"money[]", []string{`{1.5,"-1,000"}`}},
	{"xml[]", []string{`{"<a b=\"c\"/>"}`}},

	{"mood", []string{"happy", `so "so", (ok)`, "{sad}", "null"}},
	{"mood[]", []string{`{happy,"so \"so\", (ok)","{sad}","null",NULL}`}},
	{"positive", []string{"7"}},
	{"nested_domain", []string{"7"}},
	{"positive[]", []string{"{7,NULL}"}},
	{"tags", []string{`{a,"b c"}`, "{}"}},
	{"tags[]", []string{`{"{a,\"b c\"}","{}",NULL}`, `{{"{\"x\\\"y\"}"}}`}},
	{"padded", []string{"a"}},
	{"stamp", []string{"2024-01-01 00:00:00+05:45"}},
	{"pair", []string{
		`(1,a)`, `(,)`, `(1,"")`, `(,"a ""b"" \\ c")`, `(1,"(2,3)")`, `(1," , ")`, `(1,NULL)`, `(1,"{x}")`, "(1,\"a\nb\")",
	}},
	{"pair[]", []string{`{"(1,a)",NULL,"(,\"a \\\"\\\"b\\\"\\\" \\\\\\\\ c\")"}`, `{}`}},
	{"pair_domain", []string{`(1,a)`}},
	{"empty_pair", []string{`()`}},
	{"single", []string{`()`, `("")`, `(a)`}},
	{"deep", []string{
		`("(1,a)","{""(2,b)"",NULL}","{a,""b c""}",1.50,"2024-01-01 00:00:00+00",{},"[1,2)",happy,t,"\\x00ff")`,
		`("(,""say """"hi"""""")",,,NaN,infinity,,empty,,,)`,
		`(,,,,,"{""a"": ""b\\""c\\\\d""}",,"so ""so"", (ok)",,)`,
	}},
	{"reading", []string{`[1.5,2)`}},
	{"reading[]", []string{`{"[1.5,2)",empty}`}},
	{"items", []string{`(1,x,"(2,y)")`}},
	{"items[]", []string{`{"(1,x,\"(2,y)\")"}`}},
	{"hstore", []string{``, `a=>1`, `a=>NULL, "b c"=>"d\"e\\f", ""=>"", "NULL"=>"null"`}},
	{"hstore[]", []string{`{"\"a\"=>\"1\"",NULL}`}},
	{"hstore_domain", []string{`a=>1`}},
	{"citext", []string{"CaSe"}},
	{"citext[]", []string{"{CaSe}"}},
	{"ltree", []string{"a.b.c"}},
	{"cube", []string{"(1,2),(3,4)"}},
}

const customTypes = `
create extension hstore; create extension citext; create extension ltree; create extension cube;
create type mood as enum ('happy', 'so "so", (ok)', '{sad}', 'null');
create domain positive as int check (value > 0);
create domain nested_domain as positive;
create domain tags as text[];
create domain padded as char(3);
create domain stamp as timestamptz;
create domain hstore_domain as hstore;
create type pair as (a int, "b ""q"" \" text);
create domain pair_domain as pair;
create type empty_pair as ();
create type single as (sole text);
create type deep as (p pair, ps pair[], t tags, n numeric, ts timestamptz, j json, r int4range, m mood, b bool, raw bytea);
create type reading as range (subtype = float8);
create table items (id int, gone int, name text, p pair);
alter table items drop column gone;
`

func TestLiteralsMeanWhatToJSONBMeans(t *testing.T) {
	conn := connect(t, pgtest.Database(t))
	run(t, conn, customTypes)
	for _, l := range literals {
		t.Run(l.typ, func(t *testing.T) {
			for _, literal := range l.values {
				expr := quote(literal) + "::" + l.typ
				p, err := evaluate(t.Context(), conn, expr)
				if err != nil {
					t.Errorf("%s: %v", expr, err)
					continue
				}
				types, err := value.Load(t.Context(), conn, []uint32{p.oid})
				if err != nil {
					t.Fatal(err)
				}
				got, err := types.Converter(p.oid, value.Options{})(nil, p.text)
				if err != nil {
					t.Errorf("%s, printed %q: %v", expr, p.text, err)
					continue
				}
				if d := diff(got, p.jsonb); d != "" {
					t.Errorf("%s, printed %q: got %s, to_jsonb %s\n%s", expr, p.text, got, p.jsonb, d)
				}
			}
		})
	}
}
