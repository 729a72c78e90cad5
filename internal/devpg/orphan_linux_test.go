package devpg_test

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
)

// The server must go when its parent is killed, and only then: the runtime retires idle threads, and
// the kernel ends a child with the thread that forked it.
func TestServerDiesWithItsParent(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := tempDir(t)
	parent := exec.CommandContext(t.Context(), self)
	parent.Env = append(os.Environ(), parentEnv+"="+dir)
	out, err := parent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	port, ok := strings.CutPrefix(strings.TrimSpace(line), "ready ")
	if !ok {
		t.Fatalf("parent said %q, %v", line, err)
	}
	pid := postmaster(t, dir)
	conn, err := pgconn.Connect(t.Context(), "postgres://postgres@127.0.0.1:"+port+"/postgres?sslmode=disable")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(t.Context()) }()
	if err := parent.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = parent.Wait() // killed
	if _, err := conn.Exec(t.Context(), "select pg_sleep(60)").ReadAll(); err == nil {
		t.Error("a backend has outlived the parent")
	}
	waitGone(t, pid)
}

func postmaster(t *testing.T, dir string) int {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, "data", "postmaster.pid"))
	if err != nil {
		t.Fatal(err)
	}
	first, _, _ := strings.Cut(string(b), "\n")
	pid, err := strconv.Atoi(first)
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

// waitGone waits on the process itself: a pidfd becomes readable when it ends.
func waitGone(t *testing.T, pid int) {
	t.Helper()
	fd, _, errno := syscall.Syscall(434 /* pidfd_open, all architectures */, uintptr(pid), 0, 0)
	if errno == syscall.ESRCH {
		return
	}
	if errno != 0 {
		t.Fatal(fmt.Errorf("pidfd_open: %w", errno))
	}
	defer func() { _ = syscall.Close(int(fd)) }()
	var set syscall.FdSet
	set.Bits[fd/64] |= 1 << (fd % 64)
	if n, err := syscall.Select(int(fd)+1, &set, nil, nil, &syscall.Timeval{Sec: 20}); err != nil || n != 1 {
		t.Errorf("postmaster %d is still there (%v)", pid, err)
	}
}
