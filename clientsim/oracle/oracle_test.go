package oracle_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/nudgesync/nudge/clientsim/device"
	"github.com/nudgesync/nudge/clientsim/oracle"
	"github.com/nudgesync/nudge/internal/devpg/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

var (
	tables = []oracle.Table{
		{Name: "public.medications", Owner: "user_id", Key: []string{"id"}},
		{Name: "public.intakes", Owner: "user_id", Key: []string{"id"}},
	}
	stock = oracle.Stock{Medications: "public.medications", Intakes: "public.intakes"}
)

// The source: user 7 has a medication with one intake taken and one not; user 8 has a medication.
var source = []struct{ table, user, doc string }{
	{"public.medications", "7", `{"id": "m", "user_id": 7, "supplied": 10, "stock": 9, "name": "é"}`},
	{"public.intakes", "7", `{"id": "a", "user_id": 7, "medication_id": "m", "taken_at": "2026-01-01T00:00:00+00:00", "dose": 1.50}`},
	{"public.intakes", "7", `{"id": "b", "user_id": 7, "medication_id": "m", "taken_at": null, "dose": 9007199254740993}`},
	{"public.medications", "8", `{"id": "x", "user_id": 8, "supplied": 10, "stock": 10, "name": ""}`},
}

func truth(t *testing.T) *oracle.Truth {
	t.Helper()
	out := oracle.NewTruth(tables)
	for _, s := range source {
		if err := out.Add(s.table, s.user, s.doc); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

// right is what a device of user 7 must show, written by another hand than the source.
func right() []device.Row {
	return []device.Row{
		row("public.intakes", "a", `{"dose":1.5,"taken_at":"2026-01-01T00:00:00+00:00","medication_id":"m","user_id":7,"id":"a"}`),
		row("public.intakes", "b", `{"dose":9007199254740993,"taken_at":null,"medication_id":"m","user_id":7,"id":"b"}`),
		row("public.medications", "m", `{"name":"\u00e9","stock":9,"supplied":10,"user_id":7,"id":"m"}`),
	}
}

func row(table, id, columns string) device.Row {
	return device.Row{
		ID:      device.ID{Scope: "user:7", Table: table, Key: `{"id":"` + id + `"}`},
		Columns: json.RawMessage(columns),
	}
}

// TestOracleCanFail plants every kind of mistake into what a device holds, and wants it named.
func TestOracleCanFail(t *testing.T) {
	tests := []struct {
		name  string
		plant func([]device.Row) []device.Row
		want  []string // of Compare: kind, table, key, and a part of the detail
		rules []string // of Inspect
	}{
		{"nothing", func(r []device.Row) []device.Row { return r }, nil, nil},
		{
			"a missing row", func(r []device.Row) []device.Row { return r[1:] },
			[]string{`missing public.intakes {"id":"a"} `},
			[]string{`torn public.medications {"id":"m"} stock 9, but 10 supplied and 0 taken`},
		},
		{
			"everything missing", func([]device.Row) []device.Row { return nil },
			[]string{`missing public.intakes {"id":"a"} `, `missing public.intakes {"id":"b"} `, `missing public.medications {"id":"m"} `},
			nil,
		},
		{
			"a row too many",
			func(r []device.Row) []device.Row {
				return append(r, row("public.intakes", "c", `{"id":"c","user_id":7,"medication_id":"m","taken_at":null}`))
			},
			[]string{`extra public.intakes {"id":"c"} `},
			nil,
		},
		{
			"a changed number, by one in 2^53",
			func(r []device.Row) []device.Row {
				r[1].Columns = json.RawMessage(strings.Replace(string(r[1].Columns), "9007199254740993", "9007199254740992", 1))
				return r
			},
			[]string{`changed public.intakes {"id":"b"} dose is 9007199254740992, not 9007199254740993`},
			nil,
		},
		{
			"a lost column, and one more",
			func(r []device.Row) []device.Row {
				r[1].Columns = json.RawMessage(strings.Replace(string(r[1].Columns), `"taken_at":null`, `"taken":null`, 1))
				return r
			},
			[]string{`changed public.intakes {"id":"b"} taken is null, not absent; taken_at is absent, not null`},
			nil,
		},
		{
			"another user's row",
			func(r []device.Row) []device.Row {
				return append(r, row("public.medications", "x", `{"id":"x","user_id":8,"supplied":10,"stock":10,"name":""}`))
			},
			[]string{`leaked public.medications {"id":"x"} it belongs to user 8`},
			[]string{`leaked public.medications {"id":"x"} its user_id is "8"`},
		},
		{
			"a deleted row of another user",
			func(r []device.Row) []device.Row {
				return append(r, row("public.medications", "y", `{"id":"y","user_id":8,"supplied":10,"stock":10}`))
			},
			[]string{`leaked public.medications {"id":"y"} its user_id is "8"`},
			[]string{`leaked public.medications {"id":"y"} its user_id is "8"`},
		},
		{
			"another scope",
			func(r []device.Row) []device.Row { r[1].Scope = "user:8"; return r },
			nil,
			[]string{`leaked public.intakes {"id":"b"} its scope is user:8, not user:7`},
		},
		{
			"a torn transaction",
			func(r []device.Row) []device.Row {
				r[2].Columns = json.RawMessage(strings.Replace(string(r[2].Columns), `"stock":9`, `"stock":10`, 1))
				return r
			},
			[]string{`changed public.medications {"id":"m"} stock is 10, not 9`},
			[]string{`torn public.medications {"id":"m"} stock 10, but 10 supplied and 1 taken`},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			held := oracle.Held{Device: "d", User: "7", Rows: tt.plant(right())}
			check(t, "Compare", truth(t).Compare(held), tt.want)
			check(t, "Inspect", oracle.NewTruth(tables).Inspect(held, stock), tt.rules)
		})
	}
}

func check(t *testing.T, what string, got []oracle.Difference, want []string) {
	t.Helper()
	var names []string
	for _, d := range got {
		if d.Device != "d" || d.User != "7" {
			t.Errorf("%s names device %q of user %q", what, d.Device, d.User)
		}
		names = append(names, strings.Join([]string{string(d.Kind), d.Table, d.Key, d.Detail}, " "))
	}
	if strings.Join(names, "\n") != strings.Join(want, "\n") {
		t.Errorf("%s found\n%s\nwant\n%s", what, strings.Join(names, "\n"), strings.Join(want, "\n"))
	}
}

func TestAddRefuses(t *testing.T) {
	if err := truth(t).Add("public.intakes", "7", `[]`); err == nil {
		t.Error("took a row that is no object")
	}
}

func TestRead(t *testing.T) {
	ctx := t.Context()
	conn, err := pgx.Connect(ctx, pgtest.Database(t))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(ctx) }()
	if _, err := conn.Exec(ctx, `
		set timezone to 'Asia/Kathmandu';
		create table public.notes (id bigint, part text, "Owner" bigint, at timestamptz, amount numeric, primary key (id, part));
		insert into public.notes values
			(9007199254740993, 'ü', 7, '2026-01-01 12:00:00+05:45', 1.10),
			(2, 'x', 8, null, 'NaN'), (3, 'y', 9, null, null)`); err != nil {
		t.Fatal(err)
	}
	notes := []oracle.Table{{Name: "public.notes", Owner: "Owner", Key: []string{"id", "part"}}}
	got, err := oracle.Read(ctx, conn, notes, []string{"7", "8"})
	if err != nil {
		t.Fatal(err)
	}
	if got.Rows() != 2 {
		t.Errorf("%d rows, want 2", got.Rows())
	}
	held := oracle.Held{Device: "d", User: "7", Rows: []device.Row{{
		ID:      device.ID{Scope: "user:7", Table: "public.notes", Key: `{"id":9007199254740993,"part":"ü"}`},
		Columns: json.RawMessage(`{"id":9007199254740993,"part":"ü","Owner":7,"at":"2026-01-01T06:15:00+00:00","amount":1.1}`),
	}}}
	check(t, "Compare", got.Compare(held), nil)
	if _, err := oracle.Read(ctx, conn, []oracle.Table{{Name: "public.absent", Owner: "o"}}, nil); err == nil || !strings.Contains(err.Error(), "public.absent") {
		t.Errorf("error %v, want one that names the table", err)
	}
}
