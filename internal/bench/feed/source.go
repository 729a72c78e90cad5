package main

import (
	"context"
	"fmt"
	"path/filepath"

	"github.com/jackc/pgx/v5"

	"github.com/nudgesync/nudge/changefeed/change"
	"github.com/nudgesync/nudge/changefeed/changelog"
	"github.com/nudgesync/nudge/internal/devpg"
	"github.com/nudgesync/nudge/migrations"
)

const (
	publication  = "nudge"
	rowsPerLarge = 100
)

// schema is a table as an app would have it. The fill commits as often as it is told.
const schema = `
create table intakes (
  id bigint primary key, user_id bigint not null, medication_id bigint not null, status text not null,
  dose numeric(6,2), note text, taken_at timestamptz not null);
create unique index intakes_identity on intakes (user_id, id);
alter table intakes replica identity using index intakes_identity;
create publication ` + publication + ` for table intakes;
create procedure fill(first bigint, n int, per_tx int) language plpgsql as $$
begin
  for i in 0 .. n / per_tx - 1 loop
    insert into intakes
    select id, id % 10007, id % 991, 'taken', 1.50, 'after breakfast', timestamptz '2024-05-01 08:00Z' + id * interval '1 second'
      from generate_series(first + i::bigint * per_tx, first + (i + 1)::bigint * per_tx - 1) id;
    commit;
  end loop;
end $$`

// source is the server, with the app's table and, in the same database, the change log.
type source struct {
	dsn         string
	version     string
	recvlogical string
	admin       *pgx.Conn
	written     int64 // ids so far
}

func openSource(ctx context.Context, c *devpg.Cluster) (*source, error) {
	s := &source{dsn: c.DSN("postgres"), recvlogical: filepath.Join(c.Bin(), "pg_recvlogical")}
	if _, err := migrations.Up(ctx, s.dsn); err != nil {
		return nil, err
	}
	var err error
	if s.admin, err = pgx.Connect(ctx, s.dsn); err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	if err = s.exec(ctx, schema); err == nil {
		err = s.admin.QueryRow(ctx, "show server_version").Scan(&s.version)
	}
	if err != nil {
		s.close(ctx)
		return nil, fmt.Errorf("prepare the source: %w", err)
	}
	return s, nil
}

func (s *source) close(ctx context.Context) { _ = s.admin.Close(ctx) }

func (s *source) exec(ctx context.Context, sql string, args ...any) error {
	if _, err := s.admin.Exec(ctx, sql, args...); err != nil {
		return fmt.Errorf("%s: %w", sql, err)
	}
	return nil
}

// fill writes the backlog, and returns the LSN up to which a run must come. What the backlog holds does
// not depend on how its commits were flushed, so they are not waited for.
func (s *source) fill(ctx context.Context, w workload) (change.LSN, error) {
	for _, sql := range []string{
		"set synchronous_commit = off",
		fmt.Sprintf("call fill(%d, %d, %d)", s.written, w.rows, w.perTx),
		"set synchronous_commit = on",
		"vacuum analyze intakes",
	} {
		if err := s.exec(ctx, sql); err != nil {
			return 0, err
		}
	}
	s.written += int64(w.rows)
	var at string
	err := s.admin.QueryRow(ctx, `select pg_logical_emit_message(true, $1, '')::text`, changelog.HeartbeatPrefix).Scan(&at)
	if err != nil {
		return 0, fmt.Errorf("mark the end of the backlog: %w", err)
	}
	return change.ParseLSN(at)
}
