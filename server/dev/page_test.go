package dev_test

import (
	"io"
	"net/http"
	"os"
	osexec "os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/nudgesync/nudge/internal/devpg/pgtest"
	"github.com/nudgesync/nudge/server/dev"
)

// fetch is a file of the page.
func (b *backend) fetch(t *testing.T, path string) (status int, policy, body string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, b.URL+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := b.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, resp.Header.Get("Content-Security-Policy"), string(data)
}

var (
	asset    = regexp.MustCompile(`(?:href|src)="([a-z]+\.[a-z]+)"|from "\./([a-z]+\.js)"`)
	external = regexp.MustCompile(`(?i)(?:https?:)?//[a-z0-9.-]+\.[a-z]{2,}`)
	inline   = regexp.MustCompile(`(?i)<script(?:\s+type="[^"]*")?>|<style|\sstyle="|\son[a-z]+="`)
)

// The page loads nothing but itself, and nothing that its policy would refuse.
func TestPageIsSelfContained(t *testing.T) {
	b := newBackend(t)
	seen := map[string]bool{}
	todo := []string{""}
	for len(todo) > 0 {
		name := todo[0]
		todo = todo[1:]
		if seen[name] {
			continue
		}
		seen[name] = true
		status, policy, body := b.fetch(t, "/"+name)
		if status != http.StatusOK {
			t.Errorf("/%s: %d", name, status)
			continue
		}
		if !strings.HasPrefix(policy, "default-src 'none';") || strings.Contains(policy, "unsafe") {
			t.Errorf("/%s: policy %q", name, policy)
		}
		if m := external.FindString(strings.ReplaceAll(body, "http://www.w3.org/2000/svg", "")); m != "" {
			t.Errorf("/%s mentions %s", name, m)
		}
		if m := inline.FindString(body); m != "" && !strings.HasSuffix(name, ".js") {
			t.Errorf("/%s has an inline script or style: %s", name, m)
		}
		for _, m := range asset.FindAllStringSubmatch(body, -1) {
			todo = append(todo, m[1]+m[2])
		}
	}
	for _, name := range []string{"style.css", "client.js", "background.js", "rows.js", "device.js", "pocket.js"} {
		if !seen[name] {
			t.Errorf("%s is not loaded", name)
		}
	}
}

// The line is run as a person would paste it.
func TestPsqlLineTicksOffAndTakesBack(t *testing.T) {
	dsn, conn := prepared(t)
	line, err := dev.PsqlLine(filepath.Join(pgtest.Cluster(t).Bin(), "psql"), dsn)
	if err != nil {
		t.Fatal(err)
	}
	paste := func() {
		t.Helper()
		cmd := osexec.CommandContext(t.Context(), "sh", "-c", line)
		cmd.Env = append(os.Environ(), "PGCONNECT_TIMEOUT=10")
		if out, err := cmd.CombinedOutput(); err != nil || strings.TrimSpace(string(out)) != "UPDATE 1" {
			t.Fatalf("%s: %s (%v)", line, out, err)
		}
	}
	const open = `select count(*) from intakes where user_id = 7 and taken_at is null`
	before := one[int](t, conn, open)
	paste()
	if got := one[int](t, conn, open); got != before-1 {
		t.Errorf("%d open intakes, want %d", got, before-1)
	}
	exec(t, conn, `update intakes set taken_at = now() where user_id = 7`)
	paste()
	if got := one[int](t, conn, open); got != 1 {
		t.Errorf("with all taken: %d open intakes, want 1", got)
	}
}

func TestPsqlLineKeepsThePassword(t *testing.T) {
	line, err := dev.PsqlLine("/opt/my pg/psql", "host=db port=5433 user=o'brien password=hunter2 dbname=demo")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(line, "hunter2") {
		t.Error("the line shows the password")
	}
	if !strings.HasPrefix(line, `'/opt/my pg/psql' -h db -p 5433 -U `) {
		t.Errorf("got %s", line)
	}
}

func TestEnsureKey(t *testing.T) {
	for name, ensure := range map[string]func(path string) error{"signing": dev.EnsureKey, "device": dev.EnsureDeviceKey} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "state", "dev.key")
			if err := ensure(path); err != nil {
				t.Fatal(err)
			}
			first, err := os.ReadFile(path)
			if err != nil || len(first) < 32 {
				t.Fatalf("a key of %d bytes: %v", len(first), err)
			}
			if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
				t.Errorf("mode %v, want 0600 (%v)", info.Mode(), err)
			}
			if err := ensure(path); err != nil {
				t.Fatal(err)
			}
			if second, _ := os.ReadFile(path); string(second) != string(first) {
				t.Error("a second run made another key")
			}
		})
	}
}
