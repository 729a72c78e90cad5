package device

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Urgency is how soon a change has to be told. The values are the database's.
type Urgency int

// The urgencies of a table's changes.
const (
	Lazy Urgency = 0 // an hour later than it could
	Soon Urgency = 1 // as soon as the budget lets it
	Now  Urgency = 2 // past the budget, if the app has an alert to show
)

// Config is what a Store is made of.
type Config struct {
	// Pool connects to the database of the change log, at READ COMMITTED.
	Pool *pgxpool.Pool
	Slot string
	Keys *Keys
	// Grace is how long a device that is told over a socket, or has just registered, may take to acknowledge
	// before it is pushed to.
	Grace time.Duration
	// Urgency is by table, "schema.name". Tables that are not named are Soon.
	Urgency map[string]Urgency
	// Intervals are the least times between two pushes to a device, by road; Interval's where there is none.
	Intervals map[string]time.Duration
	// Alerts are the apps that have an alert to show for changes that are urgent Now.
	Alerts []string
	// Pulled is told, if it is not nil, how long after its push was accepted a device pulled for it.
	Pulled func(road string, after time.Duration)
	Log    *slog.Logger
}

// Store is the devices of one slot. Its methods may be called from any goroutine of any number of nodes.
type Store struct {
	cfg       Config
	tables    []string
	urgencies []int16
}

// NewStore returns the devices of cfg's slot.
func NewStore(cfg Config) *Store {
	s := &Store{cfg: cfg}
	for table, u := range cfg.Urgency {
		s.tables = append(s.tables, table)
		s.urgencies = append(s.urgencies, int16(u))
	}
	if s.cfg.Alerts == nil {
		s.cfg.Alerts = []string{}
	}
	return s
}

// Codes of Postgres after which nothing was written and the same call may do better.
const (
	uniqueViolation = "23505" // two devices register one target at once
	deadlock        = "40P01"
)

// attempts has fn run again when it met another writer.
func attempts(ctx context.Context, fn func(context.Context) error) error {
	for n := 1; ; n++ {
		err := fn(ctx)
		var pg *pgconn.PgError
		if n == 5 || !errors.As(err, &pg) || pg.Code != uniqueViolation && pg.Code != deadlock {
			return err
		}
	}
}

func validText(s string, most int) bool {
	return len(s) <= most && utf8.ValidString(s) && !strings.ContainsRune(s, 0)
}

// printable is what of a provider's words the ledger keeps.
func printable(s string) string {
	s = strings.ReplaceAll(strings.ToValidUTF8(s, "?"), "\x00", "?")
	return strings.ToValidUTF8(s[:min(len(s), maxName)], "")
}
