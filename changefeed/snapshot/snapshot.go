package snapshot

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/nudgesync/nudge/changefeed/change"
	"github.com/nudgesync/nudge/changefeed/route"
)

// Config is what a Reader needs; every field is required but Primary, Changed and Patience.
type Config struct {
	// Pool is where rows are read: the source's primary, or a read replica of it. It is opened with
	// value.SessionSettings.
	Pool *pgxpool.Pool
	// Primary is where heartbeats go. Nil: Pool, which is the primary itself then, and not asked what it is.
	Primary     *pgxpool.Pool
	Routing     *route.Config
	Publication string // whose columns are read: what is not streamed would grow old
	Logger      *slog.Logger
	// Changed is called when a table turns out to have changed since it was last read.
	Changed func()
	// Patience is how long a page waits for a replica. Default: 2 s.
	Patience time.Duration
}

// Reader reads pages. It is safe for concurrent use.
type Reader struct {
	cfg    Config
	fenced atomic.Uint64 // the fence that was last seen passed, on the primary
	unfit  atomic.Bool   // the replica was of no use to the last page

	mu    sync.Mutex
	plans map[string]*plan
}

// Standing is what the log says at the time of a page.
type Standing struct {
	Past  change.LSN // where the snapshot stands: commits up to this one are to be visible
	Fence uint64     // the log's SnapshotFence
	Shape string     // the table's shape, encoded; "" if it has none

	// Whose WAL the log is made from.
	SystemID string
	Timeline int32
	Database string
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

// What a page fails with. Try again later: ErrFenced, ErrUnknown, ErrBehind.
var (
	// ErrFenced: transactions that began before the epoch are still open; a snapshot taken now could miss
	// what they will commit (A4).
	ErrFenced = errors.New("snapshot: older transactions are still open")
	// ErrUnknown: the log does not know the table as it is. It may never do so, if that is undone in time, and a
	// device would keep what no change tells of (I5).
	ErrUnknown = errors.New("snapshot: the log does not know the table as it is")
	// ErrBehind: the replica lacks what the log holds, and did not replay it in time; or receives nothing, so that
	// it can't be told whose replica it is; or its replay got into the way of the page time and again.
	ErrBehind = errors.New("snapshot: the replica is behind")
	// ErrForeign: the rows' database is no copy of the source as the log knows it.
	ErrForeign = errors.New("snapshot: source.snapshot_dsn names no replica of the source")
	// ErrUnreadable: the table does not exist, or lacks the columns that say whose its rows are and which, or one
	// that is denied. Nothing of it can be anybody's, until that is mended; the feed resets it then.
	ErrUnreadable = errors.New("snapshot: the table can't be read")
	// ErrNoSuchPlace: the key to go on after is no possible key of the table, whose type has changed. The
	// snapshot must begin anew.
	ErrNoSuchPlace = errors.New("snapshot: the table has no such key any more")
	// ErrNoSuchOwner: the user is no possible value of the owner column. Nothing can be theirs.
	ErrNoSuchOwner = errors.New("snapshot: the user can own no row of this table")
)

// New returns a reader.
func New(cfg Config) (*Reader, error) {
	if cfg.Pool == nil || cfg.Routing == nil || cfg.Publication == "" || cfg.Logger == nil {
		return nil, errors.New("snapshot: a field of Config is missing")
	}
	if cfg.Primary == nil {
		cfg.Primary = cfg.Pool
	}
	if cfg.Changed == nil {
		cfg.Changed = func() {}
	}
	if cfg.Patience <= 0 {
		cfg.Patience = 2 * time.Second
	}
	return &Reader{cfg: cfg, plans: make(map[string]*plan)}, nil
}

// tries is how often a page is read that a replica's replay cancels, as it may at any time, or whose connection
// turns out to have ended.
const tries = 3

// Page reads the rows of table that user owns, after the key given as text (nil: from the start): at
// most maxRows, and stopping after the row that passes maxBytes.
func (r *Reader) Page(ctx context.Context, table, user string, after []string, log Standing, maxRows, maxBytes int) (Page, error) {
	rule, ok := r.cfg.Routing.Tables[table]
	if !ok {
		return Page{}, fmt.Errorf("snapshot: table %q is not configured", table)
	}
	w := want{table: table, rule: rule, user: user, after: after, maxRows: maxRows, maxBytes: maxBytes}
	for try := 1; ; try++ {
		page, err := r.attempt(ctx, w, log)
		if (conflicts(err) || errors.Is(err, errEnded)) && try < tries && ctx.Err() == nil {
			continue
		}
		if conflicts(err) {
			err = fmt.Errorf("%w: %w", ErrBehind, err)
		}
		r.tell(err)
		return page, err
	}
}

// tell logs when the replica is of no use any more, and when it is again.
func (r *Reader) tell(err error) {
	switch {
	case errors.Is(err, ErrBehind), errors.Is(err, ErrForeign):
		if !r.unfit.Swap(true) {
			r.cfg.Logger.Warn("no rows are read for devices that start: the replica can't be used", "error", err, "hint", "run nudge check")
		}
	case err == nil && r.unfit.Swap(false):
		r.cfg.Logger.Info("the replica can be used again")
	}
}

// want is what a page is asked for.
type want struct {
	table             string
	rule              route.Rule
	user              string
	after             []string
	maxRows, maxBytes int
}

func (r *Reader) attempt(ctx context.Context, w want, log Standing) (Page, error) {
	conn, err := r.cfg.Pool.Acquire(ctx)
	if err != nil {
		return Page{}, fmt.Errorf("snapshot: %w", err)
	}
	defer conn.Release()
	page, err := r.pageOn(ctx, conn.Conn(), w, log)
	if err != nil && conn.Conn().IsClosed() {
		err = fmt.Errorf("%w: %w", errEnded, err)
	}
	return page, err
}

// errEnded: the connection ended before the page was complete: the server was restarted, say.
var errEnded = errors.New("snapshot: the connection has ended")

func (r *Reader) pageOn(ctx context.Context, conn *pgx.Conn, w want, log Standing) (Page, error) {
	if err := r.before(ctx, conn, log); err != nil {
		return Page{}, err
	}
	page, err := r.planned(ctx, conn, w, log.Shape)
	if err != nil {
		return Page{}, err
	}
	page.Floor, err = r.behind(ctx, conn, log)
	return page, err
}

// planned reads the page by a plan that fits the table as it is.
func (r *Reader) planned(ctx context.Context, conn *pgx.Conn, w want, shape string) (Page, error) {
	for fresh := false; ; fresh = true {
		p, err := r.plan(ctx, conn, w.table, shape, w.rule, fresh)
		if err != nil {
			return Page{}, err
		}
		page, err := r.read(ctx, conn, p, w)
		if !errors.Is(err, errStale) {
			return page, err
		}
		r.cfg.Changed()
		if fresh {
			return Page{}, err
		}
	}
}

// conflicts reports whether a standby's replay cancelled a statement, or ended its connection.
func conflicts(err error) bool { return hasCode(err, "40001", "40P01") }
