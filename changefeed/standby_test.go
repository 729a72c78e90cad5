package changefeed_test

import (
	"context"
	"testing"

	"github.com/jackc/pgx/v5"
)

// commitsWait returns once commits wait for their standby: a server takes up synchronous_standby_names in its own
// time, and a commit before that waits for nobody. It probes in a database that no feed here follows.
func commitsWait(t *testing.T, dsn string) {
	t.Helper()
	cfg, err := pgx.ParseConfig(dsn)
	if err != nil {
		t.Fatal(err)
	}
	cfg.Database = "postgres"
	ctx := context.WithoutCancel(t.Context())
	conn := func() *pgx.Conn {
		c, err := pgx.ConnectConfig(ctx, cfg)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	probe, watch := conn(), conn()
	defer func() { _, _ = probe.Close(ctx), watch.Close(ctx) }()
	for {
		done := make(chan error, 1)
		go func() {
			_, err := probe.Exec(ctx, `select pg_current_xact_id()`)
			done <- err
		}()
		for committed := false; !committed; {
			var waits bool
			err := watch.QueryRow(ctx, `
select coalesce(bool_or(case wait_event when 'SyncRep' then pg_cancel_backend(pid) end), false) from pg_stat_activity where pid = $1`, probe.PgConn().PID()).Scan(&waits)
			if err != nil {
				t.Fatal(err)
			}
			select {
			case err = <-done:
				committed = true
			default:
				if waits {
					err = <-done
				}
			}
			if err != nil {
				t.Fatal(err)
			}
			if waits {
				return
			}
		}
	}
}
