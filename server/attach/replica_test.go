package attach_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/nudgesync/nudge/internal/devpg/pgtest"
	"github.com/nudgesync/nudge/server/attach"
)

// What source.snapshot_dsn names is told apart, and what a replica lacks has a fix.
func TestCheckReplica(t *testing.T) {
	primary, standby := pgtest.Pair(t, nil)
	source := connect(t, primary.DSN("postgres"))
	replica := connect(t, standby.DSN("postgres"))
	exec := func(conn *pgx.Conn, sql string) {
		t.Helper()
		if _, err := conn.Exec(t.Context(), sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	eventually := func(condition string) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for ok := false; !ok; {
			if err := replica.QueryRow(ctx, "select "+condition).Scan(&ok); err != nil {
				t.Fatalf("%s: %v", condition, err)
			}
			select {
			case <-tick.C:
			case <-ctx.Done():
				t.Fatalf("not in time: %s", condition)
			}
		}
	}
	exec(source, `create role reader login`)
	exec(source, `create database other`)
	eventually(`exists (select from pg_roles where rolname = 'reader')`)
	as := func(dsn string) string { return strings.Replace(dsn, "postgres@", "reader@", 1) }
	spec := attach.Spec{Slot: "nudge", Publication: "nudge", Feed: attach.Role{Name: "postgres"}, Snapshot: attach.Role{Name: "reader"}}
	check := func(dsn, verdict, says string) (last attach.Finding) {
		t.Helper()
		for _, f := range attach.Check(t.Context(), attach.DSNs{Source: primary.DSN("postgres"), Snapshot: dsn}, spec) {
			got := map[bool]string{true: "wrong", false: "ok"}[f.Wrong()]
			if f.Advice {
				got = "advice"
			}
			if f.Code == attach.CodeReplica && got == verdict && strings.Contains(f.Message, says) && f.OK == (f.Fix == "") {
				return f
			}
			if f.Code == attach.CodeReplica {
				last = f
			}
		}
		t.Errorf("%s: not found: %s, %q; but %+v", dsn, verdict, says, last)
		return last
	}
	check(as(primary.DSN("postgres")), "ok", "is the primary")
	check(pgtest.Cluster(t).DSN("postgres"), "wrong", "another cluster")
	check(as(primary.DSN("other")), "wrong", "database other")

	f := check(as(standby.DSN("postgres")), "wrong", "reader may not see")
	grant, _, _ := strings.Cut(f.Fix, " --")
	exec(source, grant)
	eventually(`pg_has_role('reader', 'pg_read_all_stats', 'usage')`)
	check(as(standby.DSN("postgres")), "ok", "is a replica of the source")
	check(as(standby.DSN("postgres")), "advice", "hot_standby_feedback")

	exec(replica, `alter system set primary_conninfo = ''`)
	exec(replica, `select pg_reload_conf()`)
	eventually(`not exists (select from pg_stat_wal_receiver)`)
	check(as(standby.DSN("postgres")), "advice", "receives no WAL")
	exec(replica, `select pg_promote()`)
	check(as(standby.DSN("postgres")), "wrong", "has been promoted")
}
