package changelog

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/nudgesync/nudge/changefeed/change"
)

// Page is a stretch of some scopes' changes.
type Page struct {
	State   State // as of the rows
	Changes []change.Change
	More    bool // the ceilings cut it: there is more below State.Head()
}

// Columns of a change, in scanChange's order.
const changeCols = `c.lsn, c.seq, c.scope, c.tbl, c.op::text, c.key, c.row, c.origin, c.reason, c.committed_at`

// firstSegment is the newest segment that begins at or before LSN $2, of epoch $1.
const firstSegment = `(select coalesce(max(segment) filter (where from_lsn <= $2), min(segment)) from nudge.segments where epoch = $1)`

// Read returns the changes of the scopes, and of change.All, after a position: at most maxRows, and
// stopping after the row that passes maxBytes. ErrGone if the log does not reach back to it.
func (l *Log) Read(ctx context.Context, scopes []change.Scope, after change.Position, maxRows, maxBytes int) (Page, error) {
	var p Page
	names := make([]string, 0, len(scopes)+1)
	for _, s := range scopes {
		names = append(names, string(s))
	}
	names = append(names, string(change.All))

	// One round trip, three statements: where the log stands, the rows, of which those below that count,
	// and then the horizon: a partition dropped between the first and the second shows in the third (A9).
	var b pgx.Batch
	b.Queue(stateSQL, l.slot)
	b.Queue(`
select `+changeCols+`
  from unnest($5::text[]) s(scope)
 cross join lateral (
       select * from nudge.changes c
        where c.segment >= `+firstSegment+` and c.scope = s.scope and (c.lsn, c.seq) > ($2, $3)
        order by c.lsn, c.seq limit $4) c
 order by c.lsn, c.seq limit $4`,
		int64(after.Epoch), int64(after.LSN), int64(after.Seq), maxRows+1, names)
	b.Queue(stateSQL, l.slot)
	br := l.pool.SendBatch(ctx, &b)
	defer func() { _ = br.Close() }()

	before, err := scanState(br.QueryRow())
	if err != nil {
		return p, err
	}
	rows, err := br.Query()
	if err != nil {
		return p, fmt.Errorf("read changes: %w", err)
	}
	size := 0
	for rows.Next() {
		c, err := scanChange(rows, after.Epoch)
		if err != nil {
			rows.Close()
			return p, err
		}
		// The rows may be newer than the first statement, and the head must not be newer than the rows.
		if c.Pos.LSN >= before.Position {
			break
		}
		if len(p.Changes) == maxRows || (size > maxBytes && len(p.Changes) > 0) {
			p.More = true
			break
		}
		size += c.Bytes()
		p.Changes = append(p.Changes, c)
	}
	rows.Close()
	if err := rows.Err(); err != nil {
		return p, fmt.Errorf("read changes: %w", err)
	}
	later, err := scanState(br.QueryRow())
	if err != nil {
		return p, err
	}
	if before.Epoch != after.Epoch || later.Epoch != after.Epoch || after.Before(later.Start()) {
		return p, ErrGone
	}
	p.State = before
	return p, nil
}

// Resets are the newest resets of change.All in (after, upto], by table. ErrGone if the log does not reach
// back to after.
func (l *Log) Resets(ctx context.Context, after, upto change.Position) (map[string]change.Position, error) {
	rows, err := l.pool.Query(ctx, `
select distinct on (c.tbl) c.tbl, c.lsn, c.seq
  from nudge.changes c
 where c.segment >= `+firstSegment+`
   and c.segment <= (select max(segment) from nudge.segments where epoch = $1)
   and c.scope = $6 and (c.lsn, c.seq) > ($2, $3) and (c.lsn, c.seq) <= ($4, $5) and c.op = 'r'
 order by c.tbl, c.lsn desc, c.seq desc`,
		int64(after.Epoch), int64(after.LSN), int64(after.Seq), int64(upto.LSN), int64(upto.Seq), string(change.All))
	if err != nil {
		return nil, fmt.Errorf("read resets: %w", err)
	}
	defer rows.Close()
	out := map[string]change.Position{}
	for rows.Next() {
		var table string
		var lsn int64
		var seq int32
		if err := rows.Scan(&table, &lsn, &seq); err != nil {
			return nil, fmt.Errorf("read resets: %w", err)
		}
		out[table] = change.Position{Epoch: after.Epoch, LSN: change.LSN(lsn), Seq: uint32(seq)}
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read resets: %w", err)
	}
	return out, l.reaches(ctx, after)
}

// Stretch calls fn for every change of every scope in (after, upto], in commit order. ErrGone if the log
// does not reach back to after. fn must not keep the log busy: it runs inside the query.
func (l *Log) Stretch(ctx context.Context, after, upto change.Position, fn func(change.Change) error) error {
	if after.Epoch != upto.Epoch {
		return ErrGone
	}
	rows, err := l.pool.Query(ctx, `
select `+changeCols+`
  from nudge.changes c
 where c.segment >= `+firstSegment+`
   and c.segment <= (select max(segment) from nudge.segments where epoch = $1)
   and c.lsn between $2 and $4 and (c.lsn, c.seq) > ($2, $3) and (c.lsn, c.seq) <= ($4, $5)
 order by c.lsn, c.seq`,
		int64(after.Epoch), int64(after.LSN), int64(after.Seq), int64(upto.LSN), int64(upto.Seq))
	if err != nil {
		return fmt.Errorf("read stretch: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		c, err := scanChange(rows, after.Epoch)
		if err != nil {
			return err
		}
		if err := fn(c); err != nil {
			return err
		}
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("read stretch: %w", err)
	}
	return l.reaches(ctx, after)
}

// reaches fails with ErrGone if the log does not reach back to a position. It is asked after the rows were
// read (A9).
func (l *Log) reaches(ctx context.Context, after change.Position) error {
	s, err := l.Feed(ctx)
	if err != nil {
		return err
	}
	if s.Epoch != after.Epoch || after.Before(s.Start()) {
		return ErrGone
	}
	return nil
}

// Newest returns a position after which about maxBytes of changes stand, or the log's start if it holds
// less. It reads two rows, whatever the log's size: rows lie in commit order in their segment's pages.
func (l *Log) Newest(ctx context.Context, maxBytes int64) (change.Position, error) {
	s, err := l.Feed(ctx)
	if err != nil {
		return change.Position{}, err
	}
	rows, err := l.pool.Query(ctx, `
select segment, pg_relation_size(format('nudge.changes_%s', segment)::regclass)
  from nudge.segments where epoch = $1 order by segment desc`, int64(s.Epoch))
	if err != nil {
		return change.Position{}, fmt.Errorf("read segments: %w", err)
	}
	type segment struct {
		N    int
		Size int64
	}
	segments, err := pgx.CollectRows(rows, pgx.RowToStructByPos[segment])
	if err != nil {
		return change.Position{}, fmt.Errorf("read segments: %w", err)
	}
	const page = 8192
	for _, g := range segments {
		if g.Size < maxBytes {
			maxBytes -= g.Size
			continue
		}
		at := change.Position{Epoch: s.Epoch}
		err := l.pool.QueryRow(ctx, fmt.Sprintf(`
select lsn, seq from nudge.changes_%d where ctid >= '(%d,0)' order by lsn, seq limit 1`, g.N, (g.Size-maxBytes)/page)).
			Scan(&at.LSN, &at.Seq)
		if errors.Is(err, pgx.ErrNoRows) {
			return s.Head(), nil
		}
		if err != nil {
			return change.Position{}, fmt.Errorf("find newest stretch: %w", err)
		}
		return at, nil
	}
	return s.Start(), nil
}

func scanChange(rows pgx.Rows, e change.Epoch) (change.Change, error) {
	var c change.Change
	var lsn, at int64
	var seq int32
	var op string
	var origin, reason *string
	if err := rows.Scan(&lsn, &seq, (*string)(&c.Scope), &c.Table, &op, &c.Key, &c.Row, &origin, &reason, &at); err != nil {
		return c, fmt.Errorf("read change: %w", err)
	}
	c.Pos = change.Position{Epoch: e, LSN: change.LSN(lsn), Seq: uint32(seq)}
	c.Op = change.Op(op[0])
	if origin != nil {
		c.Origin = *origin
	}
	if reason != nil {
		c.Reason = change.Reason(*reason)
	}
	c.CommittedAt = time.UnixMicro(at).UTC()
	return c, nil
}
