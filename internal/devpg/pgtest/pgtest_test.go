package pgtest_test

import (
	"testing"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/nudgesync/nudge/internal/devpg/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// A test that leaves a streaming walsender and a slot behind must not hinder the drop.
func TestDatabaseGoesWithItsSlots(t *testing.T) {
	var dsn string
	t.Run("leaves a slot in use", func(t *testing.T) {
		dsn = pgtest.Database(t)
		ctx := t.Context()
		conn, err := pgx.Connect(ctx, dsn)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Exec(ctx, "create publication p for all tables"); err != nil {
			t.Fatal(err)
		}
		repl, err := pgconn.Connect(ctx, dsn+"&replication=database")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := pglogrepl.CreateReplicationSlot(ctx, repl, "left_behind", "pgoutput", pglogrepl.CreateReplicationSlotOptions{}); err != nil {
			t.Fatal(err)
		}
		err = pglogrepl.StartReplication(ctx, repl, "left_behind", 0, pglogrepl.StartReplicationOptions{
			PluginArgs: []string{"proto_version '1'", "publication_names 'p'"},
		})
		if err != nil {
			t.Fatal(err)
		}
	})
	if _, err := pgx.Connect(t.Context(), dsn); err == nil {
		t.Error("the database is still there")
	}
	conn, err := pgx.Connect(t.Context(), pgtest.Cluster(t).DSN("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(t.Context()) }()
	var slots int
	if err := conn.QueryRow(t.Context(), "select count(*) from pg_replication_slots").Scan(&slots); err != nil {
		t.Fatal(err)
	}
	if slots != 0 {
		t.Errorf("%d slots are left", slots)
	}
}
