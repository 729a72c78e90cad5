// Package migrations holds the schema of nudge's own tables, and applies it.
//
// Migrations are forward-only and online: a node of the previous version keeps working beside them.
package migrations

import (
	"context"
	"database/sql"
	"embed"
	"fmt"
	"io/fs"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/database"
	"github.com/pressly/goose/v3/lock"
)

//go:embed *.sql
var files embed.FS

// Schema is where everything of nudge lives in a database.
const Schema = "nudge"

// Table is where goose keeps the applied versions.
const Table = Schema + ".migrations"

// FS holds the SQL files, for those who print instead of apply.
func FS() fs.FS { return files }

// Up creates the schema and applies what is missing, and returns the versions applied now. Two
// callers at once wait for each other.
func Up(ctx context.Context, dsn string) ([]int64, error) {
	p, db, err := provider(ctx, dsn)
	if err != nil {
		return nil, err
	}
	defer func() { _ = db.Close() }()
	if _, err := db.ExecContext(ctx, "create schema if not exists "+Schema); err != nil {
		return nil, fmt.Errorf("create schema %s: %w", Schema, err)
	}
	results, err := p.Up(ctx)
	if err != nil {
		return nil, fmt.Errorf("apply migrations: %w", err)
	}
	applied := make([]int64, 0, len(results))
	for _, r := range results {
		applied = append(applied, r.Source.Version)
	}
	return applied, nil
}

// Pending reports whether Up would do anything. It needs to read the schema only.
func Pending(ctx context.Context, dsn string) (bool, error) {
	p, db, err := provider(ctx, dsn)
	if err != nil {
		return false, err
	}
	defer func() { _ = db.Close() }()
	return p.HasPending(ctx)
}

func provider(ctx context.Context, dsn string) (*goose.Provider, *sql.DB, error) {
	cfg, err := pgx.ParseConfig(dsn)
	if err != nil {
		return nil, nil, fmt.Errorf("parse DSN: %w", err)
	}
	db := stdlib.OpenDB(*cfg)
	store, err := database.NewStore(database.DialectPostgres, Table)
	if err != nil {
		return nil, nil, err
	}
	locker, err := lock.NewPostgresSessionLocker() // concurrent migrations wait for each other
	if err != nil {
		return nil, nil, err
	}
	p, err := goose.NewProvider("", db, files, goose.WithStore(store), goose.WithSessionLocker(locker), goose.WithDisableGlobalRegistry(true))
	if err != nil {
		_ = db.Close()
		return nil, nil, fmt.Errorf("read embedded migrations: %w", err)
	}
	return p, db, nil
}
