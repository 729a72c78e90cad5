package pgtest

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/nudgesync/nudge/internal/devpg"
)

// Pair starts two clusters of the test's own: a primary, and a hot standby that streams from it.
func Pair(t testing.TB, settings map[string]string) (primary, standby *devpg.Cluster) {
	t.Helper()
	dirs := [2]string{}
	for i := range dirs {
		dir, err := os.MkdirTemp("", "nudge-pair-") // the server's user can't enter t.TempDir's
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = os.RemoveAll(dir) })
		dirs[i] = dir
	}
	primary = startIn(t, dirs[0], settings)
	standby = Follower(t, primary, dirs[0], dirs[1], settings)
	return primary, standby
}

// Follower starts a standby in dir, a copy of the primary's directory, taken while the primary stands still:
// pg_basebackup would refuse a server newer than itself.
func Follower(t testing.TB, primary *devpg.Cluster, primaryDir, dir string, settings map[string]string) *devpg.Cluster {
	t.Helper()
	if err := primary.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	from, to := filepath.Join(primaryDir, "data"), filepath.Join(dir, "data")
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
	if err := primary.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{
		"standby.signal":       "",
		"postgresql.auto.conf": "primary_conninfo = '" + primary.DSN("postgres") + "'\n",
	} {
		if err := os.WriteFile(filepath.Join(to, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(to, 0o700); err != nil { // or the server refuses to start
		t.Fatal(err)
	}
	info, err := os.Stat(from)
	if err != nil {
		t.Fatal(err)
	}
	owner, ok := info.Sys().(*syscall.Stat_t) // as root, servers run as somebody else
	if !ok {
		t.Fatal("no owner")
	}
	err = filepath.WalkDir(to, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(path, int(owner.Uid), int(owner.Gid))
	})
	if err != nil {
		t.Fatal(err)
	}
	return startIn(t, dir, settings)
}

func startIn(t testing.TB, dir string, settings map[string]string) *devpg.Cluster {
	t.Helper()
	c, err := devpg.Start(t.Context(), devpg.Options{Dir: dir, Settings: settings})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Stop(context.WithoutCancel(t.Context())) })
	return c
}
