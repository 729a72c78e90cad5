package changelog

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/nudgesync/nudge/changefeed/change"
)

// Writer appends to the log on behalf of one feed. It is not safe for concurrent use.
type Writer struct {
	log      *Log
	name     string // of the feed, shown to operators
	maxAge   time.Duration
	state    State
	openedAt time.Time // the newest segment
}

// Writer takes up the log where it stands. name is shown to operators as the leader's; a segment older
// than maxAge is followed by a new one. The error is ErrNoEpoch where NewEpoch must come first; the
// writer is usable for that.
func (l *Log) Writer(ctx context.Context, name string, maxAge time.Duration) (*Writer, error) {
	w := &Writer{log: l, name: name, maxAge: maxAge}
	var err error
	if w.state, err = l.Feed(ctx); err != nil {
		return w, err
	}
	return w, w.readSegment(ctx)
}

// State is what the writer last read or wrote.
func (w *Writer) State() State { return w.state }

func (w *Writer) readSegment(ctx context.Context) error {
	err := w.log.pool.QueryRow(ctx,
		`select created_at from nudge.segments order by segment desc limit 1`).Scan(&w.openedAt)
	if err != nil {
		return fmt.Errorf("read segments: %w", err)
	}
	return nil
}

// NewEpoch begins an epoch: next.Position is where the slot's new history starts, and next.Epoch
// follows the present one. What was logged before stays until retention and is never served again.
func (w *Writer) NewEpoch(ctx context.Context, next State) error {
	err := pgx.BeginFunc(ctx, w.log.pool, func(tx pgx.Tx) error {
		relations, err := json.Marshal(next.Relations)
		if err != nil {
			return err
		}
		if err := lockChanges(ctx, tx); err != nil {
			return err
		}
		tag, err := tx.Exec(ctx, `
insert into nudge.feed as f (slot, epoch, position, horizon, segment, system_id, timeline, database, config_hash,
       config, relations, snapshot_fence, leader, epoch_reason, publication)
values ($1, $2, $3, $3, 0, $4, $5, $6, $7, $8, $9, $10, $11, $12, $15)
on conflict (slot) do update
   set (epoch, position, horizon, system_id, timeline, database, config_hash, config, relations,
        snapshot_fence, leader, epoch_reason, epoch_at, moved_at, publication, doubt)
     = (excluded.epoch, excluded.position, excluded.horizon, excluded.system_id, excluded.timeline,
        excluded.database, excluded.config_hash, excluded.config, excluded.relations,
        excluded.snapshot_fence, excluded.leader, excluded.epoch_reason, now(), now(),
        excluded.publication, null)
 where f.epoch = $13 and f.position = $14`,
			w.log.slot, int64(next.Epoch), int64(next.Position), next.SystemID, next.Timeline, next.Database,
			int64(next.ConfigHash), next.Config, relations, int64(next.SnapshotFence), w.name, next.Reason,
			int64(w.state.Epoch), int64(w.state.Position), next.Publication)
		if err != nil {
			return err
		}
		if tag.RowsAffected() == 0 {
			return ErrFenced
		}
		return openSegment(ctx, tx, w.log.slot, next)
	})
	if err != nil {
		return fmt.Errorf("begin epoch: %w", err)
	}
	next.Horizon, next.Leader, next.Doubt = next.Position, w.name, ""
	w.state = next
	return w.readSegment(ctx)
}

// SetPublication stores what the feed streams from here on.
func (w *Writer) SetPublication(ctx context.Context, publication []byte) error {
	tag, err := w.log.pool.Exec(ctx, `
update nudge.feed set publication = $4 where slot = $1 and epoch = $2 and position = $3`,
		w.log.slot, int64(w.state.Epoch), int64(w.state.Position), publication)
	if err != nil {
		return fmt.Errorf("store publication: %w", err)
	}
	if tag.RowsAffected() == 0 {
		return fmt.Errorf("store publication: %w", ErrFenced)
	}
	w.state.Publication = publication
	return nil
}

// openSegment starts the segment after the newest one, at the state's position. The caller holds the lock
// of the feed's row: an append that waits for it meanwhile goes to the new segment, or fails.
func openSegment(ctx context.Context, tx pgx.Tx, slot string, s State) error {
	var n int32
	err := tx.QueryRow(ctx, `
update nudge.feed set segment = coalesce((select max(segment) from nudge.segments), 0) + 1
 where slot = $1 returning segment`, slot).Scan(&n)
	if err != nil {
		return err
	}
	_, err = tx.Exec(ctx, `select nudge.segment_open($1, $2, $3)`, n, int64(s.Epoch), int64(s.Position))
	return err
}

// Roll opens a new segment if the present one is older than the writer's maximum age. It reports
// whether it did.
func (w *Writer) Roll(ctx context.Context, now time.Time) (bool, error) {
	if now.Sub(w.openedAt) < w.maxAge {
		return false, nil
	}
	err := pgx.BeginFunc(ctx, w.log.pool, func(tx pgx.Tx) error {
		return rollTx(ctx, tx, w.log.slot, w.state)
	})
	if err != nil {
		return false, fmt.Errorf("open segment: %w", err)
	}
	return true, w.readSegment(ctx)
}

// rollTx opens a segment at the log's position and fails with ErrFenced if that is not the state's.
func rollTx(ctx context.Context, tx pgx.Tx, slot string, s State) error {
	if _, err := tx.Exec(ctx, `set local lock_timeout = '2s'`); err != nil {
		return err
	}
	if err := lockChanges(ctx, tx); err != nil {
		return err
	}
	tag, err := tx.Exec(ctx, `
select 1 from nudge.feed where slot = $1 and epoch = $2 and position = $3 for update`,
		slot, int64(s.Epoch), int64(s.Position))
	if err != nil {
		return err
	}
	if tag.RowsAffected() == 0 {
		return ErrFenced
	}
	return openSegment(ctx, tx, slot, s)
}

// Unhurried has the rest of a transaction take the time that it takes, whatever the database's or the role's
// settings say: what ends for having been slow would be as slow the next time. transaction_timeout is of
// Postgres 17.
const Unhurried = `
select set_config('statement_timeout', '0', true), set_config('idle_in_transaction_session_timeout', '0', true),
       case when current_setting('transaction_timeout', true) <> '' then set_config('transaction_timeout', '0', true) end`

// lockChanges begins every transaction that writes to the log in several statements. Retention locks the
// table first, to drop a part of it, and the feed's row after it; in another order the two would deadlock.
func lockChanges(ctx context.Context, tx pgx.Tx) error {
	_, err := tx.Exec(ctx, Unhurried+`; lock table only nudge.changes in row exclusive mode`)
	return err
}

// TakeOver ends other connections that are within a transaction on the feed's row, and returns how many
// it told to. It is for a feed that finds the slot free: whoever had it has been replaced. One that was
// stopped in the middle of an append would keep the row locked for as long as it sleeps, and be fenced
// only after that (P10).
func (w *Writer) TakeOver(ctx context.Context) (int, error) {
	var n int
	err := w.log.pool.QueryRow(ctx, `
select count(pg_terminate_backend(a.pid))
  from pg_locks l join pg_stat_activity a on a.pid = l.pid
 where l.locktype = 'relation' and l.relation = 'nudge.feed'::regclass and l.granted and l.mode = 'RowExclusiveLock'
   and a.datname = current_database() and a.usename = current_user and a.pid <> pg_backend_pid()`).Scan(&n)
	if err != nil {
		return 0, fmt.Errorf("take over the log: %w", err)
	}
	return n, nil
}

// durable is a common table expression that has the transaction flushed at its commit, also where the
// database commits asynchronously (I1). A standby is waited for only where the database says so.
const durable = `durable as (
  select case current_setting('synchronous_commit') when 'off' then set_config('synchronous_commit', 'local', true) end)`

// Batch is what one append makes durable: whole transactions in commit order, and the position behind
// them. Changes may be empty: then only the position moves.
type Batch struct {
	Next    change.LSN
	Changes []change.Change
	// Stream, if not nil, has the changes instead of Changes, for one transaction too large for memory.
	Stream Source
	// Relations are the shapes of tables that are new, as text; merged into the state's.
	Relations map[string]string
	// Config, if not nil, puts this routing configuration in force from Next on.
	Config     []byte
	ConfigHash uint64
	// SnapshotFence, if not 0, replaces the state's.
	SnapshotFence uint64
	// Progress, if not nil, is called as changes are handed over: an append takes as long as it takes, if it goes on.
	Progress func()
}

// Source yields the changes of one transaction, in order. Next returns io.EOF after the last; what it
// returns is good until the call after. One goroutine calls it at a time.
type Source interface {
	Next() (*change.Change, error)
}

// Codes of Postgres after which a statement wrote nothing, and a transaction of several may do better.
const (
	noPartition       = "23514" // check_violation, the only one that the log's tables can give
	queryCanceled     = "57014" // by statement_timeout
	transactionExpiry = "25P04" // transaction_timeout
)

// copyFrom is the number of changes from which COPY is quicker than one INSERT of arrays.
const copyFrom = 256

// Append makes the batch durable and moves the position from where the writer knows it to b.Next, in
// one transaction. ErrFenced means that another feed took over. After any other error the caller can't
// know whether the batch is in the log: it must take up the log anew.
func (w *Writer) Append(ctx context.Context, b Batch) error {
	next := w.state
	next.Position = b.Next
	if b.Config != nil {
		next.Config, next.ConfigHash = b.Config, b.ConfigHash
	}
	if b.SnapshotFence != 0 {
		next.SnapshotFence = b.SnapshotFence
	}
	if len(b.Relations) > 0 {
		merged := make(map[string]string, len(next.Relations)+len(b.Relations))
		for _, m := range []map[string]string{next.Relations, b.Relations} {
			for k, v := range m {
				merged[k] = v
			}
		}
		next.Relations = merged
	}
	small := len(b.Changes) < copyFrom && b.Stream == nil && b.Config == nil && b.SnapshotFence == 0 && len(b.Relations) == 0
	var err error
	if small {
		err = w.appendSmall(ctx, b)
	}
	// A statement that was planned before another opened a segment does not know it, and wrote nothing; nor did
	// one that had to end before its time.
	if pgErr := (*pgconn.PgError)(nil); !small || errors.As(err, &pgErr) &&
		(pgErr.Code == noPartition || pgErr.Code == queryCanceled || pgErr.Code == transactionExpiry) {
		err = w.appendLarge(ctx, b, next)
	}
	if err != nil {
		return fmt.Errorf("append to %s: %w", b.Next, err)
	}
	w.state = next // durable from here on
	return nil
}

// appendSmall is one statement, and so one transaction and one round trip.
func (w *Writer) appendSmall(ctx context.Context, b Batch) error {
	n := len(b.Changes)
	lsn, seq, at := make([]int64, n), make([]int32, n), make([]int64, n)
	scope, table, op, reason := make([]string, n), make([]string, n), make([]string, n), make([]*string, n)
	key, row, origin := make([]*string, n), make([]*string, n), make([]*string, n)
	for i := range b.Changes {
		c := &b.Changes[i]
		lsn[i], seq[i], at[i] = int64(c.Pos.LSN), int32(c.Pos.Seq), c.CommittedAt.UnixMicro()
		scope[i], table[i], op[i] = string(c.Scope), c.Table, string(rune(c.Op))
		key[i], row[i] = textOrNil(string(c.Key)), textOrNil(string(c.Row))
		origin[i], reason[i] = textOrNil(c.Origin), textOrNil(string(c.Reason))
	}
	var moved int
	err := w.log.pool.QueryRow(ctx, `
with `+durable+`, fence as (
  update nudge.feed set position = $4, leader = $5, moved_at = now() from durable
   where slot = $1 and epoch = $2 and position = $3 and doubt is null returning segment),
rows as (
  insert into nudge.changes (segment, lsn, seq, scope, tbl, op, key, row, origin, reason, committed_at)
  select fence.segment, x.lsn, x.seq, x.scope, x.tbl, x.op::"char", x.key, x.row, x.origin, x.reason, x.at
    from fence, unnest($6::bigint[], $7::int[], $8::text[], $9::text[], $10::text[], $11::text[],
                       $12::text[], $13::text[], $14::text[], $15::bigint[])
         as x(lsn, seq, scope, tbl, op, key, row, origin, reason, at))
select count(*) from fence`,
		w.log.slot, int64(w.state.Epoch), int64(w.state.Position), int64(b.Next), w.name,
		lsn, seq, scope, table, op, key, row, origin, reason, at).Scan(&moved)
	if err != nil {
		return err
	}
	if moved == 0 {
		return ErrFenced
	}
	return nil
}

func (w *Writer) appendLarge(ctx context.Context, b Batch, next State) error {
	relations, err := json.Marshal(next.Relations)
	if err != nil {
		return err
	}
	return pgx.BeginFunc(ctx, w.log.pool, func(tx pgx.Tx) error {
		if err := lockChanges(ctx, tx); err != nil {
			return err
		}
		var segment int32
		err := tx.QueryRow(ctx, `
with `+durable+`
update nudge.feed
   set position = $4, leader = $5, moved_at = now(), config_hash = $6, config = $7, relations = $8, snapshot_fence = $9
  from durable
 where slot = $1 and epoch = $2 and position = $3 and doubt is null
returning segment`,
			w.log.slot, int64(w.state.Epoch), int64(w.state.Position), int64(b.Next), w.name,
			int64(next.ConfigHash), next.Config, relations, int64(next.SnapshotFence)).Scan(&segment)
		if errors.Is(err, pgx.ErrNoRows) {
			return ErrFenced
		}
		if err != nil {
			return err
		}
		src := b.Stream
		if src == nil {
			src = &slice{b.Changes}
		}
		if b.Progress != nil {
			src = moving{src, b.Progress}
		}
		return copyChanges(ctx, tx.Conn().PgConn(), segment, src)
	})
}

func textOrNil(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}
