package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/nudgesync/nudge/internal/devpg"
	"github.com/nudgesync/nudge/server/attach"
	"github.com/nudgesync/nudge/server/config"
	"github.com/nudgesync/nudge/server/dev"
)

// startPostgres starts the private cluster and makes the demo's database in it.
func (d *devCommand) startPostgres(ctx context.Context) (*devpg.Cluster, error) {
	dir := ""
	if !d.ephemeral {
		dir = d.clusterDir()
	}
	if dir != "" {
		if pid, ok := clusterRuns(dir); ok {
			return nil, fail("dev_running", nil, fmt.Sprintf("the database in %s is in use by process %d", dir, pid),
				"stop the other nudge dev first, or use --ephemeral")
		}
	}
	if d.fresh && dir != "" {
		if err := os.RemoveAll(dir); err != nil {
			return nil, fail("dev_state", err, "remove the old database")
		}
	}
	pg, err := devpg.Start(ctx, devpg.Options{Dir: dir, Fsync: dir != "", Logger: d.log})
	if err != nil {
		return nil, fail("dev_postgres", err, "start a private Postgres", "or name a running one with --dsn")
	}
	if _, err := exec.LookPath(d.psql); err != nil {
		d.psql = filepath.Join(pg.Bin(), "psql")
	}
	d.source = pg.DSN(devDatabase)
	if err := createDatabase(ctx, pg.DSN("postgres")); err != nil {
		stopCtx, done := context.WithTimeout(context.WithoutCancel(ctx), devStopWithin)
		defer done()
		return nil, errors.Join(err, pg.Stop(stopCtx))
	}
	return pg, nil
}

// clusterDir is where the private cluster is kept. Root's home is closed to the user that Postgres
// runs as then, so root has it where system services keep theirs.
func (d *devCommand) clusterDir() string {
	if os.Geteuid() == 0 && d.getenv("XDG_STATE_HOME") == "" {
		return "/var/lib/nudge/pg"
	}
	return filepath.Join(filepath.Dir(devStatePath(d.app)), "pg")
}

// clusterRuns returns the process that a cluster is in use by, if it is.
func clusterRuns(dir string) (pid int, ok bool) {
	data, err := os.ReadFile(filepath.Join(dir, "data", "postmaster.pid"))
	if err != nil {
		return 0, false
	}
	first, _, _ := bytes.Cut(data, []byte("\n"))
	pid, err = strconv.Atoi(string(first))
	return pid, err == nil && syscall.Kill(pid, 0) == nil
}

func createDatabase(ctx context.Context, maintenance string) error {
	conn, err := pgx.Connect(ctx, maintenance)
	if err != nil {
		return fail("dev_postgres", err, "connect to the private Postgres")
	}
	defer func() { _ = conn.Close(ctx) }()
	var there bool
	if err := conn.QueryRow(ctx, "select exists (select from pg_database where datname = $1)", devDatabase).Scan(&there); err != nil {
		return fail("dev_postgres", err, "look for the demo's database")
	}
	if there {
		return nil
	}
	if _, err := conn.Exec(ctx, "create database "+devDatabase); err != nil {
		return fail("dev_postgres", err, "create the demo's database")
	}
	return nil
}

// prepare brings the database to where serve can start: the app's schema and seed, then nudge's.
func (d *devCommand) prepare(ctx context.Context, cfg *config.Config) error {
	conn, err := pgx.Connect(ctx, d.source)
	if err != nil {
		return fail("dev_connect", err, "connect to the demo's database")
	}
	defer func() { _ = conn.Close(ctx) }()
	if err := dev.Prepare(ctx, conn, time.Now()); err != nil {
		if errors.Is(err, dev.ErrForeignTables) {
			return fail("dev_foreign_tables", err, "set up the demo", "name a database of its own: create database demo")
		}
		return fail("dev_prepare", err, "set up the demo")
	}
	spec, err := attachSpec(cfg)
	if err != nil {
		return err
	}
	plan, err := attach.Plan(ctx, conn, spec)
	if err != nil {
		return fail("dev_attach", err, "attach to the demo's database")
	}
	if err := attach.Apply(ctx, conn, plan, io.Discard); err != nil {
		return fail("dev_attach", err, "attach to the demo's database", "nudge check says what is missing")
	}
	// The phones of an earlier run were simulated, and ended with it. Apps that still run register anew.
	if _, err := conn.Exec(ctx, "delete from nudge.devices where road <> 'none'"); err != nil {
		return fail("dev_prepare", err, "forget the phones of an earlier run")
	}
	return nil
}
