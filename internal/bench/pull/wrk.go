package main

import (
	"bufio"
	"context"
	_ "embed"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/nudgesync/nudge/internal/bench/site"
)

//go:embed requests.lua
var script string

// wrk generates the load: connections that ask again as soon as they are answered. It takes far less of
// the machine's processors than what answers.
type wrk struct {
	dir         string
	connections int
	lasting     time.Duration
}

// loaded is what wrk saw.
type loaded struct {
	rate     float64 // answers a second
	answers  int
	p50, p99 time.Duration
	cpu      float64 // of the server, in µs an answer
}

func newWrk(connections int, lasting time.Duration) (*wrk, error) {
	dir, err := os.MkdirTemp("", "nudge-wrk-")
	if err != nil {
		return nil, fmt.Errorf("make a directory: %w", err)
	}
	w := &wrk{dir: dir, connections: connections, lasting: lasting}
	if err := os.WriteFile(w.path("requests.lua"), []byte(script), 0o600); err != nil {
		w.close()
		return nil, fmt.Errorf("write wrk's script: %w", err)
	}
	return w, nil
}

func (w *wrk) path(name string) string { return filepath.Join(w.dir, name) }

func (w *wrk) close() { _ = os.RemoveAll(w.dir) }

// prepare writes a pull of each device: with its cursor as validator, as one that polls does, or as since.
func (w *wrk) prepare(name string, devices []site.Device, validate bool) error {
	f, err := os.Create(w.path(name))
	if err != nil {
		return fmt.Errorf("prepare requests: %w", err)
	}
	b := bufio.NewWriter(f)
	for _, d := range devices {
		_, _ = b.WriteString(strings.ReplaceAll(d.Request(validate), "\r\n", "\t") + "\n") // b keeps its error
	}
	if err := b.Flush(); err != nil {
		_ = f.Close()
		return fmt.Errorf("prepare requests: %w", err)
	}
	return f.Close()
}

// run puts prepared requests to an address. An answer of 400 or above is an error.
func (w *wrk) run(ctx context.Context, addr, requests string, lasting time.Duration) (loaded, error) {
	cmd := exec.CommandContext(ctx, "wrk", "--threads", "1", "--connections", strconv.Itoa(w.connections),
		"--duration", strconv.Itoa(int(lasting.Seconds()))+"s", "--timeout", "10s",
		"--script", w.path("requests.lua"), "http://"+addr, "--", w.path(requests))
	out, err := cmd.CombinedOutput()
	if err != nil {
		return loaded{}, fmt.Errorf("wrk: %w: %s", err, out)
	}
	_, figures, found := strings.Cut(string(out), "\nbench ")
	var answers, micros, failed, p50, p99 int64
	if _, err := fmt.Sscan(figures, &answers, &micros, &failed, &p50, &p99); !found || err != nil {
		return loaded{}, fmt.Errorf("wrk said %q", out)
	}
	if failed > 0 {
		return loaded{}, fmt.Errorf("%d of %d requests failed", failed, answers)
	}
	return loaded{
		rate: float64(answers) / (float64(micros) / 1e6), answers: int(answers),
		p50: time.Duration(p50) * time.Microsecond, p99: time.Duration(p99) * time.Microsecond,
	}, nil
}

// version is wrk's own word.
func version(ctx context.Context) string {
	out, _ := exec.CommandContext(ctx, "wrk", "-v").Output() // it exits with 1 after saying it
	fields := strings.Fields(string(out))
	if len(fields) < 2 {
		return "wrk"
	}
	return strings.Join(fields[:2], " ")
}
