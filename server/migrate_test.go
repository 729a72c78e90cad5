package main

import (
	"context"
	"net/url"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/nudgesync/nudge/internal/devpg/pgtest"
)

func execute(t *testing.T, dsn, sql string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.Background()) }()
	if _, err := conn.Exec(t.Context(), sql); err != nil {
		t.Fatal(err)
	}
}

func TestMigrate(t *testing.T) {
	source, log := pgtest.Database(t), pgtest.Database(t)
	path := writeFile(t, t.TempDir(), "nudge.yaml", "tables: {public.intakes: {owner: user_id}}\n")
	env := []string{"NUDGE_SOURCE_DSN=" + source}

	r := nudge(t, env, "migrate", "--config", path)
	if r.status != exitOK || !strings.Contains(r.stdout, databaseName(t, source)+" on 127.0.0.1:") || !strings.Contains(r.stdout, ": applied 00001\n") {
		t.Fatalf("%+v", r)
	}
	execute(t, source, "select from nudge.changes, nudge.feed")
	if r := nudge(t, env, "migrate", "--config", path); r.status != exitOK || !strings.HasSuffix(r.stdout, " is up to date\n") {
		t.Errorf("the second time: %+v", r)
	}

	// The log's own database wins over the source.
	r = nudge(t, append(env, "NUDGE_LOG_DSN="+log), "migrate", "--config", path)
	if r.status != exitOK || !strings.Contains(r.stdout, databaseName(t, log)+" on ") || !strings.Contains(r.stdout, "applied") {
		t.Fatalf("%+v", r)
	}
	execute(t, log, "select from nudge.changes")
}

func TestMigrateFails(t *testing.T) {
	dsn := pgtest.Database(t)
	path := writeFile(t, t.TempDir(), "nudge.yaml", "tables: {public.intakes: {owner: user_id}}\n")
	execute(t, dsn, "create role migrate_nobody login password 'hunter2'")
	u, err := url.Parse(dsn)
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.UserPassword("migrate_nobody", "hunter2")
	away := *u
	away.Host = "127.0.0.1:1"
	for code, dsn := range map[string]string{"migrate_forbidden": u.String(), "migrate_database_away": away.String()} {
		r := nudge(t, []string{"NUDGE_SOURCE_DSN=" + dsn}, "migrate", "--config", path)
		if r.status != exitFailed || !strings.HasPrefix(r.stderr, "nudge: "+code+": ") || !strings.Contains(r.stderr, "\nhint: ") {
			t.Errorf("want %s: %+v", code, r)
		}
		if strings.Contains(r.stderr, "hunter2") {
			t.Errorf("%s shows the password: %s", code, r.stderr)
		}
	}
}

func databaseName(t *testing.T, dsn string) string {
	t.Helper()
	cfg, err := pgx.ParseConfig(dsn)
	if err != nil {
		t.Fatal(err)
	}
	return cfg.Database
}
