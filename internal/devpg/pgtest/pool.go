package pgtest

import (
	"maps"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"
)

// Pool connects to a database, with settings for every session, until the test ends.
func Pool(t testing.TB, dsn string, settings ...map[string]string) *pgxpool.Pool {
	t.Helper()
	cfg, err := pgxpool.ParseConfig(dsn)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range settings {
		maps.Copy(cfg.ConnConfig.RuntimeParams, s)
	}
	pool, err := pgxpool.NewWithConfig(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}
