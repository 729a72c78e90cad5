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
	primary = startIn(t, tempDir(t), settings)
	return primary, Follower(t, primary, settings)
}

// tempDir is a directory that the server's user can enter, which t.TempDir's are not.
func tempDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "nudge-pair-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// Follower starts a hot standby of a cluster that has a directory of its own, or of another standby. It is a copy,
// taken while the other stands still: pg_basebackup would refuse a server newer than itself.
func Follower(t testing.TB, primary *devpg.Cluster, settings map[string]string) *devpg.Cluster {
	t.Helper()
	dir := tempDir(t)
	if err := primary.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	from, to := filepath.Join(primary.Dir(), "data"), filepath.Join(dir, "data")
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
	if err := primary.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{
		"standby.signal":       "",
		"postgresql.auto.conf": "primary_conninfo = '" + primary.DSN("postgres") + "'\nwal_retrieve_retry_interval = '50ms'\n",
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
