package value_test

import (
	"context"
	"errors"
	"testing"

	"github.com/nudgesync/nudge/changefeed/value"
	"github.com/nudgesync/nudge/internal/devpg/pgtest"
)

func typeOID(t *testing.T, dsn, name string) (oid uint32, types *value.Types) {
	t.Helper()
	conn := connect(t, dsn)
	if err := conn.QueryRow(t.Context(), "select $1::regtype::oid", name).Scan(&oid); err != nil {
		t.Fatal(err)
	}
	types, err := value.Load(t.Context(), conn, []uint32{oid, 4_000_000_000})
	if err != nil {
		t.Fatal(err)
	}
	return oid, types
}

// pgoutput names a domain column by the domain's own OID (P19), other protocols by its base.
func TestDomainsAreTheirBase(t *testing.T) {
	dsn := pgtest.Database(t)
	run(t, connect(t, dsn), customTypes)
	for _, c := range []struct{ name, text, want string }{
		{"nested_domain", "7", "7"},
		{"tags", `{a,"b c"}`, `["a","b c"]`},
		{"pair_domain", `(1,a)`, `{"a":1,"b \"q\" \\":"a"}`},
		{"stamp", "2024-01-01 00:00:00+00", `"2024-01-01T00:00:00+00:00"`},
		{"hstore_domain", `"a"=>"1", "b"=>NULL`, `{"a":"1","b":null}`},
	} {
		oid, types := typeOID(t, dsn, c.name)
		got, err := types.Converter(oid, value.Options{})(nil, []byte(c.text))
		if err != nil || string(got) != c.want {
			t.Errorf("%s: got %s, %v; want %s", c.name, got, err, c.want)
		}
	}
}

func TestKnown(t *testing.T) {
	dsn := pgtest.Database(t)
	run(t, connect(t, dsn), customTypes)
	oid, types := typeOID(t, dsn, "pair")
	if !types.Known(oid) || !types.Known(int8OID) || types.Known(4_000_000_000) || value.Builtin().Known(oid) {
		t.Error("Known is wrong")
	}
}

// A type named hstore that is not the extension's must not be read as one.
func TestForeignHstore(t *testing.T) {
	dsn := pgtest.Database(t)
	run(t, connect(t, dsn), "create type hstore as enum ('x')")
	oid, types := typeOID(t, dsn, "hstore")
	if got, err := types.Converter(oid, value.Options{})(nil, []byte("x")); err != nil || string(got) != `"x"` {
		t.Errorf("got %s, %v", got, err)
	}
}

func TestCompositeAndHstorePoison(t *testing.T) {
	dsn := pgtest.Database(t)
	run(t, connect(t, dsn), customTypes)
	for name, texts := range map[string][]string{
		"pair": {
			"", "(", "()", "(1)", "(1,a,b)", "1,a", "(1,a", "(x,a)", `(1,"a)`, `(1,"a\)`, `(1,"a"b)`, `(1,a"b")`, "(1,(2))", "(1,a))", `(1,"a"")`,
		},
		"empty_pair": {"", "(1)", "(,)"},
		"single":     {"(a,b)", "(a,)"},
		"hstore":     {"a=>1", `"a"`, `"a"=>`, `"a"=>"b`, `"a"=>"b\`, `"a"=>"b" `, `"a"=>"b",`, `"a"=>"b","c"=>"d"`, `"a"=>null`, "\"a\"=>\"\xff\""},
	} {
		oid, types := typeOID(t, dsn, name)
		for _, text := range texts {
			got, err := types.Converter(oid, value.Options{})([]byte("before"), []byte(text))
			if !errors.Is(err, value.ErrPoison) || string(got) != "before" {
				t.Errorf("%s, %q: got %s, %v", name, text, got, err)
			}
		}
	}
}

func TestLoadFails(t *testing.T) {
	conn := connect(t, pgtest.Database(t))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := value.Load(ctx, conn, []uint32{16}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}
