package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nudgesync/nudge/internal/devpg/pgtest"
)

func TestMain(m *testing.M) {
	if os.Getenv(childVariable) != "" {
		waitForSignals()
		return
	}
	pgtest.Main(m)
}

// result is what a run of the program left.
type result struct {
	status         int
	stdout, stderr string
}

// nudge runs the program in an environment of its own.
func nudge(t *testing.T, env []string, args ...string) result {
	t.Helper()
	var stdout, stderr bytes.Buffer
	status := run(t.Context(), args, strings.NewReader(""), &stdout, &stderr, env)
	return result{status, stdout.String(), stderr.String()}
}

func writeFile(t *testing.T, dir, name, text string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// waitForSignals is the program of the child that TestSecondSignalEndsTheProcess starts: it hears the
// first signal and takes its time.
func waitForSignals() {
	ctx, stop := withSignals(context.Background())
	defer stop()
	fmt.Println("ready")
	<-ctx.Done()
	fmt.Println("cancelled")
	select {}
}
