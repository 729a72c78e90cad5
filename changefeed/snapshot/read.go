package snapshot

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/nudgesync/nudge/changefeed/pgoutput"
	"github.com/nudgesync/nudge/changefeed/route"
	"github.com/nudgesync/nudge/changefeed/value"
)

// read runs the page's query in text format, which prints what pgoutput prints (P18).
func (r *Reader) read(ctx context.Context, conn *pgx.Conn, p *plan, w want) (Page, error) {
	table, err := route.NewTable(p.rel, w.rule, p.types, value.Options{WideNumbersAsStrings: r.cfg.Routing.WideNumbersAsStrings})
	if err != nil {
		return Page{}, err
	}
	sql, params := p.first, [][]byte{[]byte(w.user), fmt.Append(nil, w.maxRows+1)}
	if w.after != nil {
		if len(w.after) != len(p.key) {
			return Page{}, ErrNoSuchPlace
		}
		sql = p.next
		for _, k := range w.after {
			params = append(params, []byte(k))
		}
	}
	g := &gathering{plan: p, table: table, want: w, row: make([]pgoutput.Value, len(p.take))}
	all, err := stream(ctx, conn.PgConn(), sql, params, g)
	if err != nil {
		return Page{}, p.readError(ctx, conn, params, err)
	}
	if g.stale {
		return Page{}, errStale
	}
	if g.read > 0 {
		p.width.Store(int64(g.size / g.read))
	}
	g.page.Done = all && !g.over
	if g.page.Done {
		g.page.Last = nil
	}
	return g.page, nil
}

// gathering makes a page of the rows of its query.
type gathering struct {
	want
	plan  *plan
	table *route.Table
	row   []pgoutput.Value // of the row at hand

	page   Page
	stale  bool // the table is not as planned
	over   bool // a row came that is the next page's
	read   int  // rows
	size   int  // bytes: of each row what it takes here or took there, whichever is more
	widest int
	asked  int // rows asked for at last
}

func (g *gathering) full() bool { return g.read == g.maxRows || g.size > g.maxBytes }

// columns sees what columns the rows have.
func (g *gathering) columns(fields []pgproto3.FieldDescription) { g.stale = !g.plan.matches(fields) }

// Rows are asked for a few at a time, a few more each time, and no more than will fit if they are as wide as
// the widest so far, or, at first, as those of the page before: a page may have room for a thousand rows, or for one.
const (
	fewRows  = 8
	manyRows = 64
)

// next is how many rows to ask for, 0 if the page needs no more. A page that has all its rows asks for one,
// to know whether that was all.
func (g *gathering) next() int {
	if g.stale || g.over || g.size > g.maxBytes {
		return 0
	}
	width := g.widest
	switch {
	case g.asked > 0:
		g.asked *= 4
	case g.plan.width.Load() == 0:
		g.asked = fewRows
	default:
		g.asked, width = manyRows, int(g.plan.width.Load())
	}
	g.asked = min(g.asked, manyRows, g.maxRows+1-g.read, (g.maxBytes-g.size)/max(width, 1)+1)
	return g.asked
}

// add takes a row. Its values are valid until it returns.
func (g *gathering) add(values [][]byte) {
	if g.stale {
		return
	}
	if g.full() {
		g.over = true
		return
	}
	g.read++
	width := 0
	for _, v := range values {
		width += len(v)
	}
	for i, at := range g.plan.take {
		if v := values[at]; v == nil {
			g.row[i] = pgoutput.Value{Kind: pgoutput.Null}
		} else {
			g.row[i] = pgoutput.Value{Kind: pgoutput.Text, Text: v}
		}
	}
	g.page.Last = g.page.Last[:0]
	for _, k := range g.plan.key {
		g.page.Last = append(g.page.Last, string(g.row[k].Text))
	}
	if string(g.row[g.plan.owner].Text) == g.user { // "007" is the same number as "7", and not the same user (I10)
		out := Row{Key: g.table.Key(g.row), Row: g.table.Row(g.row)}
		g.page.Rows = append(g.page.Rows, out)
		width = max(width, len(out.Key)+len(out.Row))
	}
	g.size += width
	g.widest = max(g.widest, width)
}
