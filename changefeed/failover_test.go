package changefeed_test

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/nudgesync/nudge/changefeed/changelog"
	"github.com/nudgesync/nudge/internal/devpg"
	"github.com/nudgesync/nudge/migrations"
)

// P5, A2: a standby that lacks the primary's last commits is promoted. Log and tables went back in time
// together, and nothing but the timeline shows it: a new epoch, by itself.
func TestP05PromotedStandby(t *testing.T) {
	primaryDir, dir := tempDir(t), tempDir(t)
	primary := cluster(t, primaryDir)
	db := func(c *devpg.Cluster) string { return c.DSN("postgres") }
	copyStopped(t, primary, primaryDir, dir)
	if _, err := migrations.Up(t.Context(), db(primary)); err != nil {
		t.Fatal(err)
	}
	r := connectRig(t, db(primary))
	r.exec(schema)
	r.exec(`create publication nudge for table items`)
	stop := r.start(nil)
	r.exec(`insert into items values (1, 1)`)
	r.settle()

	standby := cluster(t, dir)
	admin, err := pgx.Connect(t.Context(), db(standby))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = admin.Close(context.WithoutCancel(t.Context())) }()
	count := func(sql string) (n int) {
		if err := admin.QueryRow(t.Context(), sql).Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	r.exec(`insert into items values (2, 1)`)
	r.settle()
	r.eventually("the standby has the table", func() bool { return count(`select count(*) from pg_class where relname = 'items'`) == 1 })
	r.eventually("the standby has followed", func() bool { return count(`select count(*) from items`) == 2 })

	// The standby is cut off; one more commit is logged on the primary, and lost with it.
	if _, err := admin.Exec(t.Context(), `alter system set primary_conninfo = ''`); err != nil {
		t.Fatal(err)
	}
	if _, err := admin.Exec(t.Context(), `select pg_reload_conf()`); err != nil {
		t.Fatal(err)
	}
	r.eventually("the standby receives nothing", func() bool { return count(`select count(*) from pg_stat_wal_receiver`) == 0 })
	r.exec(`insert into items values (3, 1)`)
	before := r.settle()
	stop()
	r.db.Close()
	if err := primary.Kill(); err != nil {
		t.Fatal(err)
	}
	if _, err := admin.Exec(t.Context(), `select pg_promote()`); err != nil {
		t.Fatal(err)
	}

	after := connectRig(t, db(standby))
	after.slot = r.slot
	after.log = changelog.Open(after.db, r.slot)
	after.start(nil)
	s := after.state("a new epoch", func(s changelog.State) bool { return s.Epoch != before.Epoch })
	if s.Reason != "another timeline" || s.Timeline != 2 || s.SystemID != before.SystemID {
		t.Errorf("state %+v", s)
	}
	after.exec(`insert into items values (4, 1)`)
	after.settle()
	after.expect(`u user:1 {"id":4}`)
}

// tempDir is a directory that the server's user can reach, which t.TempDir's are not.
func tempDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "nudge-failover-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// copyStopped makes dir a standby of the primary, whose directory it copies while it stands still.
// pg_basebackup would not do: it refuses a server newer than itself.
func copyStopped(t *testing.T, primary *devpg.Cluster, primaryDir, dir string) {
	t.Helper()
	if err := primary.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	copyData(t, primaryDir, dir)
	if err := primary.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	conf := "primary_conninfo = '" + primary.DSN("postgres") + "'\n"
	for name, content := range map[string]string{"standby.signal": "", "postgresql.auto.conf": conf} {
		if err := os.WriteFile(filepath.Join(dir, "data", name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	giveToServer(t, primaryDir, dir)
}

// copyData makes one directory's cluster another's, both of them standing still.
func copyData(t *testing.T, from, to string) {
	t.Helper()
	data := filepath.Join(to, "data")
	if err := os.RemoveAll(data); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(data, os.DirFS(filepath.Join(from, "data"))); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(data, 0o700); err != nil { // or the server refuses to start
		t.Fatal(err)
	}
	giveToServer(t, from, to)
}

// giveToServer makes whoever owns one directory's cluster the owner of another's: as root, servers run as
// somebody else.
func giveToServer(t *testing.T, from, to string) {
	t.Helper()
	info, err := os.Stat(filepath.Join(from, "data"))
	if err != nil {
		t.Fatal(err)
	}
	owner, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		t.Fatal("no owner")
	}
	err = filepath.WalkDir(filepath.Join(to, "data"), func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(path, int(owner.Uid), int(owner.Gid))
	})
	if err != nil {
		t.Fatal(err)
	}
}

// cluster starts a server of the test's own, in a directory if one is given. Settings are name and value in turn.
func cluster(t *testing.T, dir string, settings ...string) *devpg.Cluster {
	t.Helper()
	opts := devpg.Options{Dir: dir, Settings: map[string]string{"wal_level": "logical"}, Logger: logger()}
	for i := 0; i < len(settings); i += 2 {
		opts.Settings[settings[i]] = settings[i+1]
	}
	c, err := devpg.Start(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Stop(context.WithoutCancel(t.Context())) })
	return c
}
