package bench

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Machine says on what figures were measured, in one line: processors, memory, kernel, Go, this program's
// commit, and whatever else took part.
func Machine(versions ...string) string {
	parts := []string{fmt.Sprintf("%d × %s", runtime.NumCPU(), procField("/proc/cpuinfo", "model name"))}
	if memory := procField("/proc/meminfo", "MemTotal"); memory != "" {
		var kib int64
		if _, err := fmt.Sscan(memory, &kib); err == nil {
			parts = append(parts, fmt.Sprintf("%.0f GiB", float64(kib)/(1<<20)))
		}
	}
	if release, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		parts = append(parts, "Linux "+string(bytes.TrimSpace(release)))
	}
	parts = append(parts, runtime.Version())
	parts = append(parts, versions...)
	if commit := commit(); commit != "" {
		parts = append(parts, "nudge "+commit)
	}
	return strings.Join(parts, ", ")
}

// procField is the first value under a name in one of /proc's lists; "" if there is none.
func procField(file, name string) string {
	text, err := os.ReadFile(file)
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(text)) {
		if key, value, found := strings.Cut(line, ":"); found && strings.TrimSpace(key) == name {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// commit is what this program was built from, as far as Go wrote it down.
func commit() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return ""
	}
	var revision, modified string
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision":
			revision = s.Value[:min(len(s.Value), 10)]
		case s.Key == "vcs.modified" && s.Value == "true":
			modified = "+"
		}
	}
	return revision + modified
}

const (
	sends = 20_000 // that SendCost takes the mean of
	peers = 64     // connections that they go to in turn: each peer sleeps when its turn comes
)

// SendCost is the CPU time of writing a hundred bytes into a loopback connection that somebody waits on:
// mostly the system call, and the part of a fan-out that no program can save.
func SendCost(ctx context.Context) (_ time.Duration, err error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return 0, fmt.Errorf("measure a send: %w", err)
	}
	var readers sync.WaitGroup
	readers.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return // closed
			}
			readers.Go(func() {
				_, _ = io.Copy(io.Discard, conn)
				_ = conn.Close()
			})
		}
	})
	defer readers.Wait()
	defer func() { _ = l.Close() }()
	conns := make([]net.Conn, peers)
	for i := range conns {
		var d net.Dialer
		if conns[i], err = d.DialContext(ctx, "tcp", l.Addr().String()); err != nil {
			return 0, fmt.Errorf("measure a send: %w", err)
		}
		defer func() { _ = conns[i].Close() }()
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	frame := make([]byte, 100)
	before := threadCPU()
	for i := range sends {
		if _, err := conns[i%peers].Write(frame); err != nil {
			return 0, fmt.Errorf("measure a send: %w", err)
		}
	}
	return (threadCPU() - before) / sends, nil
}

// threadCPU is what this thread has used: what others do meanwhile does not count.
func threadCPU() time.Duration {
	const thread = 1 // RUSAGE_THREAD, getrusage(2)
	var u syscall.Rusage
	if err := syscall.Getrusage(thread, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
