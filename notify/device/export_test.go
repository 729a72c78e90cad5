package device

import (
	"context"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/nudgesync/nudge/changefeed/change"
)

// MarkPlan marks up to a position, and returns how Postgres went about it.
func (s *Store) MarkPlan(ctx context.Context, upto change.Position) (string, error) {
	return s.plan(ctx, "text", markSQL, s.markArgs(int64(upto.Epoch), int64(upto.LSN), false))
}

// ClaimPlan claims, and returns how Postgres went about it, as JSON.
func (s *Store) ClaimPlan(ctx context.Context, of Selection, n int) (string, error) {
	sql, args := claimStatement(of, n)
	return s.plan(ctx, "json", sql, args)
}

func (s *Store) plan(ctx context.Context, format, sql string, args []any) (string, error) {
	rows, err := s.cfg.Pool.Query(ctx, "explain (analyze, buffers, format "+format+") "+sql, args...)
	if err != nil {
		return "", err
	}
	lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
	return strings.Join(lines, "\n"), err
}
