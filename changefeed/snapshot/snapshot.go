// Package snapshot reads the rows that a user owns from the app's live tables, page by page in key order.
//
// A snapshot starts from a position read before its first page; whatever is committed later is replayed
// from the log over it. I6 makes that exact on the primary: a commit that the log holds at the start is
// visible to every page.
//
// A page may also hold what the log does not have yet, or, under asynchronous commit, what a crash can
// still take back. So every page says how far the WAL went when it was read (Page.Floor), is handed out
// only once the WAL is flushed up to there, and the device is told that it is complete only when the log
// has passed it (A5).
package snapshot

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/nudgesync/nudge/changefeed/change"
	"github.com/nudgesync/nudge/changefeed/changelog"
	"github.com/nudgesync/nudge/changefeed/pgoutput"
	"github.com/nudgesync/nudge/changefeed/route"
	"github.com/nudgesync/nudge/changefeed/value"
)

// Config is what a Reader needs; every field but Changed is required.
type Config struct {
	Pool        *pgxpool.Pool // to the source's primary, opened with value.SessionSettings
	Routing     *route.Config
	Publication string // whose columns are read: what is not streamed would grow old
	Logger      *slog.Logger
	// Changed is called when a table turns out to have changed since it was last read.
	Changed func()
}

// Reader reads pages. It is safe for concurrent use.
type Reader struct {
	cfg    Config
	fenced atomic.Uint64 // the fence that was last seen passed

	mu    sync.Mutex
	plans map[string]*plan
}

// plan is how a table is read. It is immutable.
type plan struct {
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

// ErrFenced: transactions that began before the epoch are still open; a snapshot taken now could miss
// what they will commit (A4). Try again later.
var ErrFenced = errors.New("snapshot: older transactions are still open")

// ErrUnknown: the log does not know the table as it is. It may never do so, if that is undone in time, and a
// device would keep what no change tells of (I5). Try again soon.
var ErrUnknown = errors.New("snapshot: the log does not know the table as it is")

// Standing is what the log says at the time of a page.
type Standing struct {
	Fence uint64 // its SnapshotFence
	Shape string // the table's shape, encoded; "" if it has none
}

// Row is one row, as the feed would send it.
type Row struct{ Key, Row []byte }

// Page is a stretch of a user's rows of one table, in key order.
type Page struct {
	Rows  []Row
	Last  []string   // the last key read, as text, to go on after; nil when Done
	Done  bool       // there are no more rows
	Floor change.LSN // how far the WAL went when the page was read
}

// New returns a reader.
func New(cfg Config) (*Reader, error) {
	if cfg.Pool == nil || cfg.Routing == nil || cfg.Publication == "" || cfg.Logger == nil {
		return nil, errors.New("snapshot: a field of Config is missing")
	}
	if cfg.Changed == nil {
		cfg.Changed = func() {}
	}
	return &Reader{cfg: cfg, plans: make(map[string]*plan)}, nil
}

// Page reads the rows of table that user owns, after the key given as text (nil: from the start): at
// most maxRows, and stopping after the row that passes maxBytes.
func (r *Reader) Page(ctx context.Context, table, user string, after []string, log Standing, maxRows, maxBytes int) (Page, error) {
	rule, ok := r.cfg.Routing.Tables[table]
	if !ok {
		return Page{}, fmt.Errorf("snapshot: table %q is not configured", table)
	}
	conn, err := r.cfg.Pool.Acquire(ctx)
	if err != nil {
		return Page{}, fmt.Errorf("snapshot: %w", err)
	}
	defer conn.Release()
	if err := r.passFence(ctx, conn.Conn(), log.Fence); err != nil {
		return Page{}, err
	}
	for fresh := false; ; fresh = true {
		p, err := r.plan(ctx, conn.Conn(), table, log.Shape, rule, fresh)
		if err != nil {
			return Page{}, err
		}
		page, err := r.read(ctx, conn.Conn(), p, rule, user, after, maxRows, maxBytes)
		if !errors.Is(err, errStale) {
			return page, err
		}
		r.cfg.Changed()
		if fresh {
			return Page{}, err
		}
	}
}

// passFence fails while a transaction below the fence is open.
func (r *Reader) passFence(ctx context.Context, conn *pgx.Conn, fence uint64) error {
	if fence == r.fenced.Load() {
		return nil // a lower one may be of a database that went back: it must be seen passed too
	}
	var oldest int64
	if err := conn.QueryRow(ctx, `select pg_snapshot_xmin(pg_current_snapshot())::text::bigint`).Scan(&oldest); err != nil {
		return fmt.Errorf("snapshot: read open transactions: %w", err)
	}
	if uint64(oldest) < fence {
		return ErrFenced
	}
	r.fenced.Store(fence)
	return nil
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

// read runs the page's query in text format, which prints what pgoutput prints (P18), and notes the WAL's
// end behind it.
func (r *Reader) read(ctx context.Context, conn *pgx.Conn, p *plan, rule route.Rule, user string, after []string, maxRows, maxBytes int) (Page, error) {
	table, err := route.NewTable(p.rel, rule, p.types, value.Options{WideNumbersAsStrings: r.cfg.Routing.WideNumbersAsStrings})
	if err != nil {
		return Page{}, err
	}
	sql, params := p.first, [][]byte{[]byte(user), fmt.Append(nil, maxRows+1)}
	if after != nil {
		if len(after) != len(p.key) {
			return Page{}, ErrNoSuchPlace
		}
		sql = p.next
		for _, k := range after {
			params = append(params, []byte(k))
		}
	}
	var page Page
	size, read := 0, 0
	row := make([]pgoutput.Value, len(p.take))
	rr := conn.PgConn().ExecParams(ctx, sql, params, nil, nil, nil)
	stale := !p.matches(rr.FieldDescriptions())
	page.Done = true
	for rr.NextRow() {
		if stale || !page.Done {
			continue // drains what is left
		}
		if read == maxRows || size > maxBytes {
			page.Done = false
			continue
		}
		read++
		for i, at := range p.take {
			if v := rr.Values()[at]; v == nil {
				row[i] = pgoutput.Value{Kind: pgoutput.Null}
			} else {
				row[i] = pgoutput.Value{Kind: pgoutput.Text, Text: v}
			}
		}
		page.Last = page.Last[:0]
		for _, k := range p.key {
			page.Last = append(page.Last, string(row[k].Text))
		}
		if string(row[p.owner].Text) != user {
			continue // "007" is the same number as "7", and not the same user (I10)
		}
		out := Row{Key: table.Key(row), Row: table.Row(row)}
		size += len(out.Key) + len(out.Row)
		page.Rows = append(page.Rows, out)
	}
	if _, err := rr.Close(); err != nil {
		return Page{}, p.readError(ctx, conn, params, err)
	}
	if stale {
		return Page{}, errStale
	}
	if page.Done {
		page.Last = nil
	}
	page.Floor, err = r.flushed(ctx, conn)
	return page, err
}

// matches reports whether a result has the columns that the plan was made for.
func (p *plan) matches(fields []pgconn.FieldDescription) bool {
	if len(fields) != len(p.all) {
		return len(fields) == 0 // an error comes instead of rows
	}
	for i, f := range fields {
		if f.TableOID != p.rel.ID || f.Name != p.all[i] || f.DataTypeOID != p.allOIDs[i] {
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

// ErrUnreadable: the table does not exist, or lacks the columns that say whose its rows are and which, or one that
// is denied. Nothing of it can be anybody's, until that is mended; the feed resets it then.
var ErrUnreadable = errors.New("snapshot: the table can't be read")

// ErrNoSuchPlace: the key to go on after is no possible key of the table, whose type has changed. The
// snapshot must begin anew.
var ErrNoSuchPlace = errors.New("snapshot: the table has no such key any more")

// ErrNoSuchOwner: the user is no possible value of the owner column. Nothing can be theirs.
var ErrNoSuchOwner = errors.New("snapshot: the user can own no row of this table")

// flushed returns how far the WAL goes and waits until it is flushed up to there: what the page showed
// can then no longer be lost. A commit, of a heartbeat, flushes all that was written before it.
func (r *Reader) flushed(ctx context.Context, conn *pgx.Conn) (change.LSN, error) {
	var inserted, flushed string
	err := conn.QueryRow(ctx, `select pg_current_wal_insert_lsn()::text, pg_current_wal_flush_lsn()::text`).Scan(&inserted, &flushed)
	if err != nil {
		return 0, fmt.Errorf("snapshot: read WAL position: %w", err)
	}
	floor, err := change.ParseLSN(inserted)
	if err != nil {
		return 0, err
	}
	safe, err := change.ParseLSN(flushed)
	if err != nil {
		return 0, err
	}
	if safe < floor {
		if err := beat(ctx, conn); err != nil {
			return 0, err
		}
	}
	return floor, nil
}

// Beat moves the log: its position will pass whatever the WAL holds now.
func (r *Reader) Beat(ctx context.Context) error {
	conn, err := r.cfg.Pool.Acquire(ctx)
	if err != nil {
		return fmt.Errorf("snapshot: heartbeat: %w", err)
	}
	defer conn.Release()
	return beat(ctx, conn.Conn())
}

func beat(ctx context.Context, conn *pgx.Conn) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	_, err := conn.Exec(ctx, `
with durable as (select set_config('synchronous_commit', 'local', true))
select pg_logical_emit_message(true, $1, '') from durable`, changelog.HeartbeatPrefix)
	if err != nil {
		return fmt.Errorf("snapshot: heartbeat: %w", err)
	}
	return nil
}
