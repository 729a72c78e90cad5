package route_test

import (
	"testing"
	"time"

	"github.com/nudgesync/nudge/changefeed/pgoutput"
	"github.com/nudgesync/nudge/changefeed/route"
	"github.com/nudgesync/nudge/changefeed/value"
)

// items is a table of (id, user_id, body), routed by user_id.
func items(tb testing.TB) *route.Table {
	tb.Helper()
	rel := &pgoutput.Rel{ID: 1, Schema: "public", Name: "items", Identity: 'f', Columns: []pgoutput.Column{
		{Name: "id", Type: 20, Modifier: -1}, {Name: "user_id", Type: 20, Modifier: -1}, {Name: "body", Type: 25, Modifier: -1},
	}}
	t, err := route.NewTable(rel, route.Rule{Owner: "user_id", Key: []string{"id"}}, value.Builtin(), value.Options{})
	if err != nil {
		tb.Fatal(err)
	}
	return t
}

func text(s string) pgoutput.Value { return pgoutput.Value{Kind: pgoutput.Text, Text: []byte(s)} }

// A transaction of one row is what most are.
func BenchmarkTxOneRow(b *testing.B) {
	t, row := items(b), []pgoutput.Value{text("1234567"), text("42"), text("take with food")}
	var tx route.Tx
	b.ReportAllocs()
	for b.Loop() {
		t.Insert(&tx, row)
		_, _ = tx.Commit(1, 2, time.Time{}, "phone")
	}
}
