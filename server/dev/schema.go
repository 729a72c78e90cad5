package dev

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
)

//go:embed demo.sql
var schemaSQL string

//go:embed day.sql
var daySQL string

// ErrForeignTables is what Prepare returns, wrapped, when a table of the demo's name is another app's.
var ErrForeignTables = errors.New("the database has a table of that name which is not the demo's")

// columns are the demo's, as information_schema prints them. They tell a database that the demo has
// set up from one that an app has.
var columns = map[string][]string{
	"users":       {"id bigint", "name text", "created_at timestamp with time zone"},
	"medications": {"id uuid", "user_id bigint", "name text", "dose text", "color text", "supplied integer", "stock integer", "updated_at timestamp with time zone"},
	"intakes":     {"id uuid", "user_id bigint", "medication_id uuid", "due_at timestamp with time zone", "taken_at timestamp with time zone", "note text", "updated_at timestamp with time zone"},
}

// Prepare creates the demo's schema and seed in a database that has none of it, and plans the intakes
// of the day that now falls on, in now's time zone. Doing it again changes nothing. Tables that are
// not the demo's are left alone: ErrForeignTables.
func Prepare(ctx context.Context, conn *pgx.Conn, now time.Time) error {
	return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		// Two that start at once would both find nothing.
		if _, err := tx.Exec(ctx, "select pg_advisory_xact_lock(hashtext('nudge demo'))"); err != nil {
			return fmt.Errorf("wait for another demo: %w", err)
		}
		there, err := schemaThere(ctx, tx)
		if err != nil {
			return err
		}
		if !there {
			if _, err := tx.Exec(ctx, schemaSQL); err != nil {
				return fmt.Errorf("create the demo's schema: %w", err)
			}
		}
		midnight := time.Date(now.Year(), now.Month(), now.Day(), 0, 0, 0, 0, now.Location())
		if _, err := tx.Exec(ctx, daySQL, midnight); err != nil {
			return fmt.Errorf("plan the demo's day: %w", err)
		}
		return nil
	})
}

// schemaThere reports whether the demo's tables exist: all of them or none, else ErrForeignTables.
func schemaThere(ctx context.Context, tx pgx.Tx) (bool, error) {
	found := 0
	for name, want := range columns {
		rows, err := tx.Query(ctx, `select column_name || ' ' || data_type from information_schema.columns
			where table_schema = 'public' and table_name = $1 order by ordinal_position`, name)
		if err != nil {
			return false, fmt.Errorf("read the columns of public.%s: %w", name, err)
		}
		got, err := pgx.CollectRows(rows, pgx.RowTo[string])
		switch {
		case err != nil:
			return false, fmt.Errorf("read the columns of public.%s: %w", name, err)
		case len(got) == 0:
		case slices.Equal(got, want):
			found++
		default:
			return false, fmt.Errorf("public.%s: %w", name, ErrForeignTables)
		}
	}
	if found != 0 && found != len(columns) {
		return false, fmt.Errorf("only %d of the demo's %d tables are there: %w", found, len(columns), ErrForeignTables)
	}
	return found != 0, nil
}
