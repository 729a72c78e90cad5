package snapshot

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/nudgesync/nudge/changefeed/pgoutput"
	"github.com/nudgesync/nudge/changefeed/route"
	"github.com/nudgesync/nudge/changefeed/value"
)

// plan is how a table is read. It is immutable, but for width.
type plan struct {
	width atomic.Int64 // bytes a row of the page read last; 0: none yet

	shape   string   // as the log had it
	all     []string // every column, as select * returns them
	allOIDs []uint32
	rel     *pgoutput.Rel // the columns that are streamed
	take    []int         // their places in all
	key     []int         // places of the key columns in rel
	owner   int           // place of the owner column in rel
	types   *value.Types
	first   string // SQL of the first page: $1 owner, $2 limit
	next    string // of a later one: $3… the last key
}

// errStale: the table does not have the columns of the plan any more.
var errStale = errors.New("snapshot: the table has changed")

// plan returns how to read a table, from the catalog if it is not known, the log has come to know another
// shape of it (a type may read differently, which no column shows), or a fresh one is asked for.
func (r *Reader) plan(ctx context.Context, conn *pgx.Conn, table, shape string, rule route.Rule, fresh bool) (*plan, error) {
	r.mu.Lock()
	p := r.plans[table]
	r.mu.Unlock()
	if p != nil && p.shape == shape && !fresh {
		return p, nil
	}
	// All of it from one state of the catalog.
	err := pgx.BeginTxFunc(ctx, conn, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) (err error) {
		p, err = r.newPlan(ctx, tx, table, shape, rule)
		return err
	})
	if err != nil {
		if errors.Is(err, ErrUnknown) {
			r.cfg.Changed()
		}
		return nil, err
	}
	r.mu.Lock()
	r.plans[table] = p
	r.mu.Unlock()
	return p, nil
}

// newPlan reads the catalog. It fails if the log does not know what it finds, which it says first.
func (r *Reader) newPlan(ctx context.Context, tx pgx.Tx, table, shape string, rule route.Rule) (*plan, error) {
	seen, err := route.Look(ctx, tx, r.cfg.Publication, []string{table})
	if err != nil {
		return nil, err
	}
	var known route.Shape
	if shape != "" {
		if known, err = route.DecodeShape(shape); err != nil {
			return nil, err
		}
	}
	if !seen[table].Shape.ReadsAs(&known) {
		return nil, fmt.Errorf("%w: %s", ErrUnknown, table)
	}
	catalog, err := route.Catalog(ctx, tx, []string{table})
	if err != nil {
		return nil, err
	}
	t, ok := catalog[table]
	if !ok {
		return nil, fmt.Errorf("%w: table %s does not exist", ErrUnreadable, table)
	}
	streamed, err := route.StreamedColumns(ctx, tx, r.cfg.Publication, table)
	if err != nil {
		return nil, err
	}
	p, err := planOf(t, streamed, rule)
	if err != nil {
		return nil, err
	}
	p.shape = shape
	oids := make([]uint32, len(p.rel.Columns))
	for i, c := range p.rel.Columns {
		oids[i] = c.Type
	}
	p.types, err = value.Load(ctx, tx, oids)
	return p, err
}

func planOf(t *route.CatalogTable, streamed []string, rule route.Rule) (*plan, error) {
	p := &plan{rel: &pgoutput.Rel{ID: t.OID, Schema: t.Schema, Name: t.Name}, owner: -1}
	for i, c := range t.Columns {
		p.all, p.allOIDs = append(p.all, c.Name), append(p.allOIDs, c.BaseType)
		if !slices.Contains(streamed, c.Name) {
			continue // it would never change again (P16)
		}
		if c.Name == rule.Owner {
			p.owner = len(p.take)
		}
		p.take = append(p.take, i)
		p.rel.Columns = append(p.rel.Columns, pgoutput.Column{Name: c.Name, Type: c.Type})
	}
	if p.owner < 0 {
		return nil, fmt.Errorf("%w: %s has no column %q", ErrUnreadable, t.QualifiedName(), rule.Owner)
	}
	for _, name := range rule.Deny {
		if _, ok := t.Column(name); !ok { // it may be there under another name (I10)
			return nil, fmt.Errorf("%w: %s has no column %q, which is denied", ErrUnreadable, t.QualifiedName(), name)
		}
	}
	if !slices.Equal(t.PrimaryKey, rule.Key) {
		return nil, fmt.Errorf("%w: %s has the primary key %q and was configured with %q: restart every node", ErrUnreadable, t.QualifiedName(), t.PrimaryKey, rule.Key)
	}
	var key, params []string
	for i, k := range rule.Key {
		at := -1
		for j, c := range p.rel.Columns {
			if c.Name == k {
				at = j
			}
		}
		if at < 0 {
			return nil, fmt.Errorf("%w: %s has no column %q", ErrUnreadable, t.QualifiedName(), k)
		}
		p.key = append(p.key, at)
		key = append(key, pgx.Identifier{k}.Sanitize())
		params = append(params, fmt.Sprintf("$%d", i+3))
	}
	only := "" // of a plain table: what inherits from it streams under its own name
	if t.Kind == 'r' {
		only = "only "
	}
	from := fmt.Sprintf("select * from %s%s where %s = $1", only, pgx.Identifier{t.Schema, t.Name}.Sanitize(), pgx.Identifier{rule.Owner}.Sanitize())
	order := " order by " + strings.Join(key, ", ") + " limit $2::bigint"
	p.first = from + order
	p.next = from + " and (" + strings.Join(key, ", ") + ") > (" + strings.Join(params, ", ") + ")" + order
	return p, nil
}

// matches reports whether a result has the columns that the plan was made for.
func (p *plan) matches(fields []pgproto3.FieldDescription) bool {
	if len(fields) != len(p.all) {
		return false
	}
	for i, f := range fields {
		if f.TableOID != p.rel.ID || string(f.Name) != p.all[i] || f.DataTypeOID != p.allOIDs[i] {
			return false
		}
	}
	return true
}

// readError tells a user that can't own anything, a place that is none any more, and a table that has
// changed from a real failure. params are those of the page's query.
func (p *plan) readError(ctx context.Context, conn *pgx.Conn, params [][]byte, err error) error {
	// Where nothing is read, only the parameters can be at fault.
	wrong := func(sql string, params ...[]byte) bool {
		params[1] = []byte("0")
		_, err := conn.PgConn().ExecParams(ctx, sql, params, nil, nil, nil).Close()
		return noValue(err)
	}
	switch {
	case noValue(err) && wrong(p.first, params[0], nil):
		return ErrNoSuchOwner
	case noValue(err) && len(params) > 2 && wrong(p.next, params...):
		return ErrNoSuchPlace
	case hasCode(err, "42703", "42P01", "42883"):
		return errStale
	}
	return fmt.Errorf("snapshot: read page: %w", err)
}

// noValue reports whether a text was no value of its type.
func noValue(err error) bool { return hasCode(err, "22P02", "22003", "22007", "22008") }

func hasCode(err error, codes ...string) bool {
	var pgErr *pgconn.PgError
	return errors.As(err, &pgErr) && slices.Contains(codes, pgErr.Code)
}
