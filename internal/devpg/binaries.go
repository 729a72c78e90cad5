package devpg

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// BinEnv names the environment variable that says where Postgres's binaries are, before any search.
const BinEnv = "NUDGE_PG_BIN"

// ErrNoPostgres is what BinDir returns, wrapped, when the machine has no Postgres server.
var ErrNoPostgres = errors.New("no Postgres server is installed")

// BinDir finds the directory that holds postgres and initdb: NUDGE_PG_BIN, pg_config, PATH, then the
// places where Debian and Homebrew put them, newest first.
func BinDir(ctx context.Context) (string, error) {
	if dir := os.Getenv(BinEnv); dir != "" {
		if !complete(dir) {
			return "", fmt.Errorf("%s=%s: %w: postgres and initdb are not both there", BinEnv, dir, ErrNoPostgres)
		}
		return filepath.Abs(dir)
	}
	for _, dir := range candidates(ctx) {
		if complete(dir) {
			return dir, nil
		}
	}
	return "", fmt.Errorf("%w: install one (Debian and Ubuntu: apt-get install postgresql; macOS: brew install postgresql@17), or set %s to the directory that holds postgres and initdb", ErrNoPostgres, BinEnv)
}

func candidates(ctx context.Context) []string {
	var dirs []string
	// pg_config also comes with the client library alone, so its word is only a candidate.
	if out, err := exec.CommandContext(ctx, "pg_config", "--bindir").Output(); err == nil {
		dirs = append(dirs, strings.TrimSpace(string(out)))
	}
	if path, err := exec.LookPath("postgres"); err == nil {
		if real, err := filepath.EvalSymlinks(path); err == nil {
			dirs = append(dirs, filepath.Dir(real))
		}
	}
	for _, pattern := range []string{
		"/usr/lib/postgresql/*/bin",
		"/usr/pgsql-*/bin",
		"/opt/homebrew/opt/postgresql*/bin",
		"/usr/local/opt/postgresql*/bin",
	} {
		found, _ := filepath.Glob(pattern) // fails on a malformed pattern only
		slices.SortFunc(found, func(a, b string) int { return version(b) - version(a) })
		dirs = append(dirs, found...)
	}
	return dirs
}

func complete(dir string) bool {
	for _, name := range []string{"postgres", "initdb"} {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.IsDir() {
			return false
		}
	}
	return true
}

var versionIn = regexp.MustCompile(`\d+`)

// version is the major version in a path such as /usr/lib/postgresql/15/bin; 0 if it has none.
func version(path string) int {
	n, _ := strconv.Atoi(versionIn.FindString(path)) // "" is 0
	return n
}
