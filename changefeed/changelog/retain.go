package changelog

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// Retain drops the segments whose every change is older than before, and moves the horizon in the same
// transaction (A9). The newest segment always stays, and so does what the marker of due devices has yet to read, if
// it moved within a day (A7). It returns how many were dropped. A reader that holds a segment makes it fail after
// two seconds: try again later.
func (l *Log) Retain(ctx context.Context, before time.Time) (int, error) {
	var dropped int
	err := pgx.BeginFunc(ctx, l.pool, func(tx pgx.Tx) error {
		var err error
		dropped, err = retainTx(ctx, tx, l.slot, before)
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("drop old segments: %w", err)
	}
	return dropped, nil
}

// HorizonAge is how far back the log reaches, by the clock of its database: the age of the oldest segment of
// the present epoch. ErrNoEpoch if there is none yet.
func (l *Log) HorizonAge(ctx context.Context) (time.Duration, error) {
	var seconds *float64
	err := l.pool.QueryRow(ctx, `
select extract(epoch from clock_timestamp() - min(g.created_at))::float8
  from nudge.feed f join nudge.segments g on g.epoch = f.epoch where f.slot = $1`, l.slot).Scan(&seconds)
	switch {
	case err != nil:
		return 0, fmt.Errorf("read the horizon's age: %w", err)
	case seconds == nil:
		return 0, ErrNoEpoch
	}
	return time.Duration(*seconds * float64(time.Second)), nil
}

// ErrUnmarked says that the marker of due devices has yet to read what should be dropped, and does not get on.
var ErrUnmarked = errors.New("devices that are due are not marked up to here: no node with the role push runs, or its database is slow")

const (
	markWithin  = 10 * time.Second // it is never behind for long
	markedEvery = 50 * time.Millisecond
)

// Trim drops every change that is in the log now: a cursor before the head expires. It waits until the marker of due
// devices has read them; ErrUnmarked.
func (l *Log) Trim(ctx context.Context) error {
	var upto State
	// Two transactions: one that held the feed's row while it waits for the segments' readers would
	// lock an append out that holds what it waits for.
	err := pgx.BeginFunc(ctx, l.pool, func(tx pgx.Tx) error {
		if err := lockChanges(ctx, tx); err != nil {
			return err
		}
		s, err := scanState(tx.QueryRow(ctx, stateSQL+` for update`, l.slot))
		if err != nil {
			return err
		}
		upto = s
		return rollTx(ctx, tx, l.slot, s)
	})
	if err == nil {
		err = l.drop(ctx, upto)
	}
	if err != nil {
		return fmt.Errorf("trim the log: %w", err)
	}
	return nil
}

// drop retains nothing from before that state, once the marker has read it.
func (l *Log) drop(ctx context.Context, upto State) error {
	for patience := time.Now().Add(markWithin); ; {
		if _, err := l.Retain(ctx, time.Now().Add(time.Hour)); err != nil {
			return err
		}
		now, err := l.Feed(ctx)
		switch {
		case err != nil:
			return err
		case now.Epoch != upto.Epoch || now.Horizon >= upto.Position:
			return nil
		case time.Now().After(patience):
			return ErrUnmarked
		}
		select {
		case <-time.After(markedEvery):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// retainTx drops every segment that is followed by one opened at or before the given time. The drop
// comes first and may wait for readers; the feed's row is locked only after it.
func retainTx(ctx context.Context, tx pgx.Tx, slot string, before time.Time) (int, error) {
	if _, err := tx.Exec(ctx, `set local lock_timeout = '2s'`); err != nil {
		return 0, err
	}
	rows, err := tx.Query(ctx, `
select segment from (
  select segment, epoch, lead(created_at) over next as followed_at, lead(epoch) over next as next_epoch,
         lead(from_lsn) over next as upto
    from nudge.segments window next as (order by segment)) s
 where followed_at <= $1
   and not exists (select from nudge.marking m
                    where m.slot = $2 and m.epoch = s.epoch and m.epoch = s.next_epoch and m.lsn < s.upto
                      and m.moved_at > now() - interval '1 day')
 order by segment`, before, slot)
	if err != nil {
		return 0, err
	}
	old, err := pgx.CollectRows(rows, pgx.RowTo[int32])
	if err != nil || len(old) == 0 {
		return 0, err
	}
	for _, n := range old {
		if _, err := tx.Exec(ctx, `select nudge.segment_drop($1)`, n); err != nil {
			return 0, err
		}
	}
	// The horizon is where the oldest remaining segment of the present epoch begins.
	_, err = tx.Exec(ctx, `
update nudge.feed f
   set horizon = greatest(horizon, (select min(from_lsn) from nudge.segments g where g.epoch = f.epoch))
 where slot = $1`, slot)
	return len(old), err
}
