// Package changelog is the durable, append-only table of changes, in commit order: schema nudge of the
// source database, or of a Postgres of its own.
//
// One writer (the feed) appends; any number of nodes read. The feed's row is the fence: every append
// moves the position from its old value in the same transaction (I2), so a reader that sees a position
// sees every change below it (I4), and a feed that was replaced can't append.
//
//	segment 3 (epoch 1)     segment 4 (epoch 2)     segment 5 (epoch 2)
//	├── dropped by ──┤      ├───────────────────────┼──────────── … position
//	    retention           horizon                 opened when 4 grew old
package changelog

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/nudgesync/nudge/changefeed/change"
)

// Log is one slot's change log. It is safe for concurrent use.
type Log struct {
	pool *pgxpool.Pool
	slot string
}

// Open returns the log of a slot. The pool's connections must run at READ COMMITTED: a pull reads rows
// first and the horizon in a later statement (A9).
func Open(pool *pgxpool.Pool, slot string) *Log { return &Log{pool: pool, slot: slot} }

// ErrNoEpoch: the feed has not started its first epoch yet.
var ErrNoEpoch = errors.New("the change log has no epoch yet")

// ErrFenced: another feed moved the position, or an operator ended the epoch; the caller has been replaced
// (I2, P10).
var ErrFenced = errors.New("the change log was moved by another feed")

// ErrGone: the asked-for stretch begins before the horizon, or in another epoch.
var ErrGone = errors.New("the change log no longer reaches back that far")

// HeartbeatPrefix is the prefix of a transactional WAL message that moves the log's position though it
// changes nothing. Whoever waits for the log to pass a place in the WAL emits one.
const HeartbeatPrefix = "nudge.heartbeat"

// State is the feed's row: where the log stands and under what it was written.
type State struct {
	Epoch      change.Epoch
	Position   change.LSN // (Position, 0): every commit below it is in the log. Also where to resume and what to acknowledge
	Horizon    change.LSN // (Horizon, 0): changes at or before it may be gone
	SystemID   string
	Timeline   int32
	Database   string
	ConfigHash uint64
	Config     []byte            // JSON of the routing configuration in force
	Relations  map[string]string // table → its shape as last streamed or told, as text
	// Publication is JSON: what the feed needs to recognise the publication again (P13).
	Publication []byte
	// Doubt, if not "", is why this epoch must end. Nothing is appended to it any more.
	Doubt string
	// SnapshotFence: snapshots are safe once no transaction id below it is in progress (A4).
	SnapshotFence uint64
	Reason        string // why the epoch began
	EpochAt       time.Time
	MovedAt       time.Time
	Leader        string
}

// Head is the log's position in full.
func (s *State) Head() change.Position { return change.Position{Epoch: s.Epoch, LSN: s.Position} }

// Start is the position before the oldest change that is still there.
func (s *State) Start() change.Position { return change.Position{Epoch: s.Epoch, LSN: s.Horizon} }

const stateSQL = `
select epoch, position, horizon, system_id, timeline, database, config_hash, config, relations,
       coalesce(snapshot_fence, 0), epoch_reason, epoch_at, moved_at, coalesce(leader, ''),
       publication, coalesce(doubt, '')
  from nudge.feed where slot = $1`

func scanState(row pgx.Row) (State, error) {
	var s State
	var epoch, position, horizon, hash, fence int64
	err := row.Scan(&epoch, &position, &horizon, &s.SystemID, &s.Timeline, &s.Database, &hash, &s.Config,
		&s.Relations, &fence, &s.Reason, &s.EpochAt, &s.MovedAt, &s.Leader,
		&s.Publication, &s.Doubt)
	if errors.Is(err, pgx.ErrNoRows) {
		return s, ErrNoEpoch
	}
	if err != nil {
		return s, fmt.Errorf("read feed state: %w", err)
	}
	s.Epoch, s.Position, s.Horizon = change.Epoch(epoch), change.LSN(position), change.LSN(horizon)
	s.ConfigHash, s.SnapshotFence = uint64(hash), uint64(fence)
	return s, nil
}

// Feed reads the feed's row; ErrNoEpoch if there is none.
func (l *Log) Feed(ctx context.Context) (State, error) {
	return scanState(l.pool.QueryRow(ctx, stateSQL, l.slot))
}

// Encoding is that of the log's database, as Postgres names it: UTF8.
func (l *Log) Encoding(ctx context.Context) (string, error) {
	var s string
	if err := l.pool.QueryRow(ctx, `select current_setting('server_encoding')`).Scan(&s); err != nil {
		return "", fmt.Errorf("read the log's encoding: %w", err)
	}
	return s, nil
}

// Doubt has the feed begin a new epoch when it connects next, for the reason given, and keeps it from
// appending until then. It returns the state of the epoch that ends; ErrNoEpoch if there is none.
func (l *Log) Doubt(ctx context.Context, reason string) (State, error) {
	if _, err := l.pool.Exec(ctx, `update nudge.feed set doubt = $2 where slot = $1`, l.slot, reason); err != nil {
		return State{}, fmt.Errorf("doubt the epoch: %w", err)
	}
	return l.Feed(ctx)
}

// State is Feed as an empty frame at the head, for the tail.
func (l *Log) State(ctx context.Context) (change.Frame, error) {
	s, err := l.Feed(ctx)
	if err != nil {
		return change.Frame{}, err
	}
	return change.Frame{Epoch: s.Epoch, Config: s.ConfigHash, Prev: s.Head(), Next: s.Head()}, nil
}

// Claim notes that the slot is this log's, before it is made: one that is found at the first start, without
// that, is somebody else's.
func (l *Log) Claim(ctx context.Context) error {
	_, err := l.Key(ctx, l.claim())
	return err
}

// Claimed reports whether Claim was ever called for this slot.
func (l *Log) Claimed(ctx context.Context) (claimed bool, err error) {
	err = l.pool.QueryRow(ctx, `select exists (select from nudge.keys where name = $1)`, l.claim()).Scan(&claimed)
	if err != nil {
		return false, fmt.Errorf("read whose the slot is: %w", err)
	}
	return claimed, nil
}

func (l *Log) claim() string { return "slot " + l.slot }

// Key returns the secret of that name, and makes it, 32 random bytes, if it is not there yet. All nodes
// of a log get the same.
func (l *Log) Key(ctx context.Context, name string) ([]byte, error) {
	fresh := make([]byte, 32)
	_, _ = rand.Read(fresh) // never fails
	// The no-op update makes the row visible to RETURNING also when another node was first.
	var key []byte
	err := l.pool.QueryRow(ctx, `
insert into nudge.keys (name, value) values ($1, $2)
on conflict (name) do update set value = nudge.keys.value
returning value`, name, fresh).Scan(&key)
	if err != nil {
		return nil, fmt.Errorf("read key %q: %w", name, err)
	}
	return key, nil
}
