package device

import (
	"context"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/nudgesync/nudge/changefeed/change"
)

// MarkPlan marks up to a position, and returns how Postgres went about it.
func (s *Store) MarkPlan(ctx context.Context, upto change.Position) (string, error) {
	rows, err := s.cfg.Pool.Query(ctx, "explain (analyze, buffers) "+markSQL, s.markArgs(int64(upto.Epoch), int64(upto.LSN), false)...)
	if err != nil {
		return "", err
	}
	lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
	return strings.Join(lines, "\n"), err
}

// ClaimPlan is how Postgres goes about a claim.
func (s *Store) ClaimPlan(ctx context.Context, of Selection, n int) (string, error) {
	rows, err := s.cfg.Pool.Query(ctx, "explain "+claimSQL(of.Others), of.Road, n, Lease, of.Urgency, of.Environment, of.Apps)
	if err != nil {
		return "", err
	}
	lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
	return strings.Join(lines, "\n"), err
}
