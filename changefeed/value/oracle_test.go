package value_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math/big"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/nudgesync/nudge/changefeed/value"
	"github.com/nudgesync/nudge/internal/devpg/pgtest"
)

// connect opens a session as the feed and the snapshots do.
func connect(t testing.TB, dsn string) *pgx.Conn {
	t.Helper()
	cfg, err := pgx.ParseConfig(dsn)
	if err != nil {
		t.Fatal(err)
	}
	for k, v := range value.SessionSettings() {
		cfg.RuntimeParams[k] = v
	}
	conn, err := pgx.ConnectConfig(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.WithoutCancel(t.Context())) })
	return conn
}

// run executes SQL statements that give no rows.
func run(t testing.TB, conn *pgx.Conn, sql string) {
	t.Helper()
	if _, err := conn.Exec(t.Context(), sql); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// printed is one SQL expression's value: its type, its text as Postgres prints it, and what to_jsonb
// says of it.
type printed struct {
	oid   uint32
	text  []byte
	jsonb []byte
}

func evaluate(ctx context.Context, conn *pgx.Conn, expr string) (printed, error) {
	// The simple protocol prints with the types' output functions, as pgoutput does; ::text would not.
	// What to_jsonb says must not depend on the session's settings that are tested here.
	results, err := conn.PgConn().Exec(ctx, `
		select v, pg_typeof(v)::oid from (select `+expr+`) as x(v);
		set DateStyle = 'ISO, YMD'; set IntervalStyle = 'postgres'; set extra_float_digits = 1; set bytea_output = 'hex';
		set TimeZone = 'UTC'; set lc_monetary = 'C';
		select to_jsonb(v)::text from (select `+expr+`) as x(v);
		reset all`).ReadAll()
	if err != nil {
		return printed{}, err
	}
	row := results[0].Rows[0]
	oid, err := strconv.ParseUint(string(row[1]), 10, 32)
	return printed{uint32(oid), row[0], results[len(results)-2].Rows[0][0]}, err
}

// printText gives an expression's type and text alone, for values that to_jsonb refuses.
func printText(t testing.TB, conn *pgx.Conn, expr string) []byte {
	t.Helper()
	results, err := conn.PgConn().Exec(t.Context(), "select "+expr).ReadAll()
	if err != nil {
		t.Fatalf("%s: %v", expr, err)
	}
	return results[0].Rows[0][0]
}

// diff says how two JSON texts differ in meaning: member order and number notation do not count.
func diff(got, want []byte) string {
	g, err := decode(got)
	if err != nil {
		return fmt.Sprintf("got %q: %v", got, err)
	}
	w, err := decode(want)
	if err != nil {
		return fmt.Sprintf("want %q: %v", want, err)
	}
	if !same(g, w) {
		return "they differ"
	}
	return ""
}

func same(a, b any) bool {
	switch a := a.(type) {
	case map[string]any:
		b, ok := b.(map[string]any)
		return ok && maps.EqualFunc(a, b, same)
	case []any:
		b, ok := b.([]any)
		return ok && slices.EqualFunc(a, b, same)
	case json.Number:
		b, ok := b.(json.Number)
		if !ok || a == b {
			return ok
		}
		x, okX := new(big.Rat).SetString(a.String())
		y, okY := new(big.Rat).SetString(b.String())
		return okX && okY && x.Cmp(y) == 0
	}
	return a == b
}

func decode(text []byte) (any, error) {
	if !json.Valid(text) {
		return nil, fmt.Errorf("not JSON")
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	var v any
	err := d.Decode(&v)
	return v, err
}

// hostile makes a database whose settings, and those of the role in it, change what Postgres prints.
func hostile(t *testing.T, encoding string) string {
	t.Helper()
	cluster := pgtest.Cluster(t)
	admin, err := pgx.Connect(t.Context(), cluster.DSN("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = admin.Close(t.Context()) }()
	name := "hostile_" + strings.ToLower(encoding)
	locale := "C"
	run(t, admin, fmt.Sprintf("create database %s template template0 encoding '%s' lc_collate '%s' lc_ctype '%s'",
		name, encoding, locale, locale))
	t.Cleanup(func() {
		ctx := context.WithoutCancel(t.Context())
		admin, err := pgx.Connect(ctx, cluster.DSN("postgres"))
		if err != nil {
			t.Error(err)
			return
		}
		defer func() { _ = admin.Close(ctx) }()
		if _, err := admin.Exec(ctx, "drop database "+name+" with (force)"); err != nil {
			t.Error(err)
		}
	})
	for _, setting := range []string{
		"DateStyle = 'German, DMY'", "IntervalStyle = 'sql_standard'", "extra_float_digits = -15",
		"bytea_output = 'escape'", "TimeZone = 'Asia/Kathmandu'",
	} {
		run(t, admin, "alter database "+name+" set "+setting)
		run(t, admin, "alter role current_user in database "+name+" set "+setting)
	}
	run(t, admin, "alter database "+name+" set client_encoding = 'LATIN1'")
	// A locale whose money looks different, where the machine has one.
	var locales []string
	rows, err := admin.Query(t.Context(), "select collname::text from pg_collation where collname ~ '^(de_DE|en_US|en_GB)'")
	if err != nil {
		t.Fatal(err)
	}
	if locales, err = pgx.CollectRows(rows, pgx.RowTo[string]); err != nil {
		t.Fatal(err)
	}
	slices.Sort(locales)
	if len(locales) > 0 {
		run(t, admin, fmt.Sprintf("alter database %s set lc_monetary = '%s'", name, locales[0]))
	}
	return cluster.DSN(name)
}

func quote(literal string) string {
	return "'" + strings.ReplaceAll(literal, "'", "''") + "'"
}
