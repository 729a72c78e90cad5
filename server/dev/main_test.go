package dev_test

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/nudgesync/nudge/internal/devpg/pgtest"
	"github.com/nudgesync/nudge/migrations"
	"github.com/nudgesync/nudge/server/dev"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// noon is when the tests' demo is set up.
var noon = time.Date(2026, 3, 14, 12, 0, 0, 0, time.UTC)

// prepared is a fresh database with the demo and nudge's schema in it.
func prepared(t *testing.T) (string, *pgx.Conn) {
	t.Helper()
	dsn := pgtest.Database(t)
	conn := connect(t, dsn)
	if err := dev.Prepare(t.Context(), conn, noon); err != nil {
		t.Fatal(err)
	}
	if _, err := migrations.Up(t.Context(), dsn); err != nil {
		t.Fatal(err)
	}
	return dsn, conn
}

func connect(t *testing.T, dsn string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

func one[T any](t *testing.T, conn *pgx.Conn, query string, args ...any) T {
	t.Helper()
	var v T
	if err := conn.QueryRow(t.Context(), query, args...).Scan(&v); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	return v
}

func exec(t *testing.T, conn *pgx.Conn, query string, args ...any) {
	t.Helper()
	if _, err := conn.Exec(t.Context(), query, args...); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
}
