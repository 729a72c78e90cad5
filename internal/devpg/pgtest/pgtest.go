// Package pgtest gives tests a real Postgres: one cluster a test binary, started when a test first
// asks for it, and a fresh database for each test.
//
//	func TestMain(m *testing.M) { pgtest.Main(m) }
//
//	func TestX(t *testing.T) { dsn := pgtest.Database(t) … }
package pgtest

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"

	"github.com/nudgesync/nudge/internal/devpg"
)

// patience bounds what should take a moment; it only shows when something hangs.
const patience = time.Minute

// shared is the test binary's one cluster. A test has nowhere else to keep what outlives it.
var shared struct {
	mu      sync.Mutex
	managed bool // Main runs, and will stop the cluster
	cluster *devpg.Cluster
	err     error // of the one attempt to start it
}

// Main runs the tests, stops the cluster, fails if a goroutine leaked, and exits with the tests'
// status.
func Main(m *testing.M, leaks ...goleak.Option) {
	goleak.VerifyTestMain(run{m}, leaks...)
}

type run struct{ m *testing.M }

func (r run) Run() int {
	shared.mu.Lock()
	shared.managed = true
	shared.mu.Unlock()
	code := r.m.Run()
	shared.mu.Lock()
	defer shared.mu.Unlock()
	if shared.cluster == nil {
		return code
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := shared.cluster.Stop(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "pgtest:", err)
		return max(code, 1)
	}
	return code
}

// Cluster is the one that all tests of the binary share. Whoever restarts or reconfigures a cluster
// starts its own with devpg.Start.
func Cluster(t testing.TB) *devpg.Cluster {
	t.Helper()
	shared.mu.Lock()
	defer shared.mu.Unlock()
	if !shared.managed {
		t.Fatal("pgtest: TestMain must call pgtest.Main, which stops the cluster")
	}
	if shared.cluster == nil && shared.err == nil {
		// Not the test's context: the cluster serves the tests after it too.
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		shared.cluster, shared.err = devpg.Start(ctx, devpg.Options{})
	}
	if shared.err != nil {
		t.Fatalf("pgtest: %v", shared.err)
	}
	return shared.cluster
}

// Database makes a database and returns the superuser's DSN of it. When the test ends its clients are
// disconnected, its replication slots dropped, and then the database.
func Database(t testing.TB) string {
	t.Helper()
	c := Cluster(t)
	name := "test_" + strings.ToLower(rand.Text()[:12])
	admin(t, c, func(ctx context.Context, conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, "create database "+name)
		return err
	})
	t.Cleanup(func() {
		admin(t, c, func(ctx context.Context, conn *pgx.Conn) error { return drop(ctx, conn, name) })
	})
	return c.DSN(name)
}

// drop ends the slots first: a database that has one cannot be dropped, nor can a slot in use.
func drop(ctx context.Context, conn *pgx.Conn, name string) error {
	if _, err := conn.Exec(ctx, `alter database `+name+` allow_connections false`); err != nil {
		return err // so that no client comes back in between
	}
	_, err := conn.Exec(ctx, `select pg_terminate_backend(pid) from pg_stat_activity where datname = $1`, name)
	if err != nil {
		return err
	}
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		if _, err := conn.Exec(ctx, `
			select pg_drop_replication_slot(slot_name) from pg_replication_slots
			 where database = $1 and not active`, name); err != nil {
			return err
		}
		var left int
		if err := conn.QueryRow(ctx, `
			select count(pg_terminate_backend(active_pid)) + count(*) from pg_replication_slots
			 where database = $1`, name).Scan(&left); err != nil {
			return err
		}
		if left == 0 {
			break
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("slots of %s are still in use: %w", name, ctx.Err())
		}
	}
	_, err = conn.Exec(ctx, "drop database "+name+" with (force)")
	return err
}

func admin(t testing.TB, c *devpg.Cluster, do func(context.Context, *pgx.Conn) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	conn, err := pgx.Connect(ctx, c.DSN("postgres"))
	if err != nil {
		t.Fatalf("pgtest: %v", err)
	}
	defer func() { _ = conn.Close(ctx) }()
	if err := do(ctx, conn); err != nil {
		t.Fatalf("pgtest: %v", err)
	}
}
