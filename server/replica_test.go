package main

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/nudgesync/nudge/internal/devpg/pgtest"
	"github.com/nudgesync/nudge/server/wire"
)

// source.snapshot_dsn may name a read replica: once its role may see what the replica receives, devices start
// from it, and while it is away nobody else is the worse for it.
func TestServesFromAReplica(t *testing.T) {
	primary, standby := pgtest.Pair(t, nil)
	s := newSite(t, primary.DSN("postgres"))
	s.env = append(s.env, "NUDGE_SOURCE_SNAPSHOT_DSN="+withUser(t, standby.DSN("postgres"), "replica_reader", "hunter2"))
	s.attach(t)
	waitFor(t, standby.DSN("postgres"), `has_table_privilege('replica_reader', 'intakes', 'select')`, "replica_reader")
	hint := s.refused(t, exitFailed, "check_replica", "replica_reader may not see")
	execute(t, s.admin, hint)
	waitFor(t, standby.DSN("postgres"), `pg_has_role('replica_reader', 'pg_read_all_stats', 'usage')`, "replica_reader")
	if r := s.nudge(t, "check"); r.status != exitOK || !strings.Contains(r.stdout, "is a replica of the source") {
		t.Errorf("check: %+v", r)
	}

	r := s.serve(t)
	cursor := r.answers("7", "mine")
	if err := standby.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	var page wire.Page
	if status, _ := r.get(r.token("7"), cursor, &page); status != http.StatusOK {
		t.Errorf("up to date, without the replica: %d", status)
	}
	if err := standby.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	for status := 0; status != http.StatusOK; { // until it receives WAL again
		status, _ = r.get(r.token("8"), "", &page)
		if status != http.StatusOK && status != http.StatusServiceUnavailable {
			t.Fatalf("after the replica's restart: %d", status)
		}
	}
	r.answers("8", "theirs")
}

// waitFor waits until a condition holds on a server, for a role that is there.
func waitFor(t *testing.T, dsn, condition, role string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for ok := false; !ok; {
		if err := conn.QueryRow(ctx, "select exists (select from pg_roles where rolname = $1)", role).Scan(&ok); err != nil {
			t.Fatal(err)
		}
		if ok {
			if err := conn.QueryRow(ctx, "select "+condition).Scan(&ok); err != nil {
				t.Fatal(err)
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("not in time: %s", condition)
		}
	}
}
