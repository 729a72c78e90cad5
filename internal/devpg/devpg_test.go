package devpg_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"

	"github.com/nudgesync/nudge/internal/devpg"
)

// parentEnv makes the test binary play a parent that starts a server and is killed.
const parentEnv = "DEVPG_TEST_PARENT"

func TestMain(m *testing.M) {
	if os.Getenv(parentEnv) != "" {
		c, err := devpg.Start(context.Background(), devpg.Options{Dir: os.Getenv(parentEnv)})
		if err != nil {
			fmt.Println("error:", err)
			os.Exit(1)
		}
		fmt.Println("ready", c.Port())
		select {}
	}
	goleak.VerifyTestMain(m)
}

func start(t *testing.T, opts devpg.Options) *devpg.Cluster {
	t.Helper()
	c, err := devpg.Start(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return c
}

// tempDir is one that the server's user can reach: the testing package closes its own to others.
func tempDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "devpg-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// query runs one statement and returns its only value as text.
func query(t *testing.T, c *devpg.Cluster, sql string) string {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), c.DSN("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(t.Context()) }()
	var s string
	if err := conn.QueryRow(t.Context(), sql).Scan(&s); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return s
}

func TestLifeOfACluster(t *testing.T) {
	dir := filepath.Join(tempDir(t), "new", "cluster")
	c := start(t, devpg.Options{Dir: dir, Fsync: true, Settings: map[string]string{
		"application_name": `it's a \ test`,
		"work_mem":         "5MB",
	}})
	for name, want := range map[string]string{
		"wal_level": "logical", "fsync": "on", "listen_addresses": "127.0.0.1", "max_connections": "200",
		"max_replication_slots": "40", "max_wal_senders": "40", "work_mem": "5MB",
		"server_encoding": "UTF8", "lc_collate": "C", "is_superuser": "on",
	} {
		if name == "lc_collate" {
			if got := query(t, c, "select datcollate::text from pg_database where datname = 'postgres'"); got != want {
				t.Errorf("collation %s, want %s", got, want)
			}
			continue
		}
		if got := query(t, c, "show "+name); got != want {
			t.Errorf("%s = %s, want %s", name, got, want)
		}
	}
	if got := query(t, c, "select boot_val || reset_val from pg_settings where name = 'application_name'"); !strings.Contains(got, `it's a \ test`) {
		t.Errorf("application_name = %q", got)
	}

	conn, err := pgx.Connect(t.Context(), c.DSN("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	for _, sql := range []string{"create table kept (v text)", "insert into kept values ('yes')", "alter system set work_mem = '7MB'"} {
		if _, err := conn.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	port, exited := c.Port(), c.Exited()
	if err := c.Kill(); err != nil {
		t.Fatal(err)
	}
	<-exited
	if err := conn.Ping(t.Context()); err == nil {
		t.Error("a killed server answers")
	}
	_ = conn.Close(t.Context())
	if err := c.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	if c.Port() != port {
		t.Errorf("port %d after the restart, %d before", c.Port(), port)
	}
	if got := query(t, c, "show work_mem"); got != "7MB" {
		t.Errorf("work_mem = %s: ALTER SYSTEM must win", got)
	}
	if err := c.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := c.Stop(t.Context()); err != nil {
		t.Errorf("second stop: %v", err)
	}

	again := start(t, devpg.Options{Dir: dir, Port: port})
	if got := query(t, again, "select v from kept"); got != "yes" {
		t.Errorf("kept = %s", got)
	}
	if got := query(t, again, "show fsync"); got != "off" {
		t.Errorf("fsync = %s: the settings must be those of this start", got)
	}
}

func TestTemporaryDirIsRemoved(t *testing.T) {
	tmp := tempDir(t)
	t.Setenv("TMPDIR", tmp)
	c := start(t, devpg.Options{})
	if entries, _ := os.ReadDir(tmp); len(entries) != 1 {
		t.Fatalf("%d entries while it runs", len(entries))
	}
	if err := c.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if entries, _ := os.ReadDir(tmp); len(entries) != 0 {
		t.Errorf("left behind: %v", entries)
	}
}

func TestStartRefuses(t *testing.T) {
	t.Run("a taken port", func(t *testing.T) {
		l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = l.Close() }()
		_, err = devpg.Start(t.Context(), devpg.Options{Port: l.Addr().(*net.TCPAddr).Port})
		if !errors.Is(err, devpg.ErrPortTaken) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("no binaries", func(t *testing.T) {
		t.Setenv(devpg.BinEnv, t.TempDir())
		if _, err := devpg.Start(t.Context(), devpg.Options{}); !errors.Is(err, devpg.ErrNoPostgres) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("a setting that Postgres does not know", func(t *testing.T) {
		_, err := devpg.Start(t.Context(), devpg.Options{Settings: map[string]string{"no_such": "1"}})
		if err == nil || !strings.Contains(err.Error(), "no_such") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("a directory of another version", func(t *testing.T) {
		dir := tempDir(t)
		if err := os.Mkdir(filepath.Join(dir, "data"), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "data", "PG_VERSION"), []byte("9\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := devpg.Start(t.Context(), devpg.Options{Dir: dir})
		if err == nil || !strings.Contains(err.Error(), "made by Postgres 9") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("a directory that its user cannot reach", func(t *testing.T) {
		if os.Geteuid() != 0 {
			return // Postgres then runs as the one who made the directory
		}
		closed := filepath.Join(tempDir(t), "closed")
		if err := os.Mkdir(closed, 0o700); err != nil {
			t.Fatal(err)
		}
		_, err := devpg.Start(t.Context(), devpg.Options{Dir: filepath.Join(closed, "cluster")})
		if err == nil || !strings.Contains(err.Error(), "may not enter "+closed) {
			t.Errorf("got %v", err)
		}
	})
}

// A start and a stop that go as they should leave no error in the log, however early or late a client
// is; what else is fatal to a client does.
func TestLogLevels(t *testing.T) {
	var log bytes.Buffer // complete, and nobody's but ours, once the server is stopped
	c := start(t, devpg.Options{
		Dir:    filepath.Join(tempDir(t), "cluster"),
		Logger: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	})
	lingering, err := pgx.Connect(t.Context(), c.DSN("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = lingering.Close(context.Background()) })
	if err := c.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(log.String(), " 57P01 FATAL:") || strings.Contains(log.String(), "level=ERROR") {
		t.Errorf("want the end of a connection, and no error:\n%s", &log)
	}

	log.Reset()
	if err := c.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := pgx.Connect(t.Context(), c.DSN("nowhere")); err == nil {
		t.Error("connected to a database that is not there")
	}
	if err := c.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(log.String(), "level=ERROR") || !strings.Contains(log.String(), " 3D000 FATAL:") {
		t.Errorf("want an error for a missing database:\n%s", &log)
	}
}
