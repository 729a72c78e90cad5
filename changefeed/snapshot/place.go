package snapshot

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/nudgesync/nudge/changefeed/change"
	"github.com/nudgesync/nudge/changefeed/changelog"
)

// place is where the server of a connection stands.
type place struct {
	standby  bool
	system   string
	database string
	timeline int32      // 0: not known
	at       change.LSN // how far its WAL goes; on a standby, how far it is replayed
	flushed  change.LSN
	oldest   uint64 // the oldest transaction id that may be in progress
}

// lookSQL: a standby's timeline is the one it receives. What its control file says is older, by minutes.
const lookSQL = `
select standby, (select system_identifier::text from pg_control_system()), current_database()::text,
       coalesce(case when standby then (select received_tli from pg_stat_wal_receiver)
                else ('x' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8))::bit(32)::int end, 0),
       coalesce(case when standby then pg_last_wal_replay_lsn() else pg_current_wal_insert_lsn() end, '0/0')::text,
       coalesce(case when standby then pg_last_wal_replay_lsn() else pg_current_wal_flush_lsn() end, '0/0')::text,
       pg_snapshot_xmin(pg_current_snapshot())::text::bigint
  from (select pg_is_in_recovery() as standby offset 0) s`

func look(ctx context.Context, conn *pgx.Conn) (p place, err error) {
	var at, flushed string
	var oldest int64
	err = conn.QueryRow(ctx, lookSQL).Scan(&p.standby, &p.system, &p.database, &p.timeline, &at, &flushed, &oldest)
	if err != nil {
		return p, fmt.Errorf("snapshot: look where the server stands: %w", err)
	}
	p.oldest = uint64(oldest)
	if p.at, err = change.ParseLSN(at); err != nil {
		return p, err
	}
	p.flushed, err = change.ParseLSN(flushed)
	return p, err
}

// ours fails if the server is not on the history that the log is made from: with ErrBehind if it may turn out to be.
func (p *place) ours(log Standing) error {
	switch {
	case p.system != log.SystemID:
		return fmt.Errorf("%w: it is of another cluster (system %s, not %s)", ErrForeign, p.system, log.SystemID)
	case p.database != log.Database:
		return fmt.Errorf("%w: it is database %q, not %q", ErrForeign, p.database, log.Database)
	case p.timeline == 0:
		return fmt.Errorf("%w: it receives no WAL, or its role may not see that (pg_read_all_stats)", ErrBehind)
	case p.timeline != log.Timeline:
		return fmt.Errorf("%w: it is on timeline %d, not %d", ErrForeign, p.timeline, log.Timeline)
	}
	return nil
}

// before has the connection see every commit up to the log's standing, and fails while a transaction below
// the fence is open.
func (r *Reader) before(ctx context.Context, conn *pgx.Conn, log Standing) error {
	if r.cfg.Pool == r.cfg.Primary {
		return r.passFence(ctx, conn, log.Fence)
	}
	p, err := r.caughtUp(ctx, conn, log)
	if err != nil {
		return err
	}
	if p.oldest < log.Fence {
		return ErrFenced
	}
	return nil
}

// caughtUp waits until a standby has replayed the commit at the log's standing (A24).
func (r *Reader) caughtUp(ctx context.Context, conn *pgx.Conn, log Standing) (place, error) {
	over := time.NewTimer(r.cfg.Patience)
	defer over.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for beaten := false; ; {
		p, err := look(ctx, conn)
		if err != nil {
			return p, err
		}
		missing := p.ours(log)
		switch {
		case errors.Is(missing, ErrForeign):
			return p, missing
		case missing == nil && (p.at > log.Past || p.at == log.Past && !p.standby):
			return p, nil
		case missing == nil:
			missing = fmt.Errorf("%w: it has replayed up to %s, the snapshot stands at %s", ErrBehind, p.at, log.Past)
		}
		if p.at == log.Past && !beaten { // it may have all there is
			if err := r.Beat(ctx); err != nil {
				return p, err
			}
			beaten = true
		}
		select {
		case <-tick.C:
		case <-over.C:
			return p, missing
		case <-ctx.Done():
			return p, fmt.Errorf("snapshot: wait for the replica: %w", ctx.Err())
		}
	}
}

// passFence fails while a transaction below the fence is open on the primary.
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

// behind returns the floor of the page just read, which can then no longer be lost.
func (r *Reader) behind(ctx context.Context, conn *pgx.Conn, log Standing) (change.LSN, error) {
	if r.cfg.Pool == r.cfg.Primary {
		return r.flushed(ctx, conn)
	}
	p, err := look(ctx, conn)
	if err != nil {
		return 0, err
	}
	if err := p.ours(log); err != nil {
		return 0, err
	}
	if p.standby {
		return standbyFloor(p.at), nil
	}
	if p.flushed < p.at {
		err = beat(ctx, conn)
	}
	return p.at, err
}

// standbyFloor is the floor of what a standby showed that has replayed up to a place. A commit shows while its
// record is replayed, and only then does the place move behind it. The record begins at the place, or
// behind the header of a page of WAL, which has 40 bytes at most; a log that is past both has the commit (A5).
func standbyFloor(replayed change.LSN) change.LSN { return replayed + 64 }

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
	conn, err := r.cfg.Primary.Acquire(ctx)
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
