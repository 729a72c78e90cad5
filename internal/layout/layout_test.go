package layout_test

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/nudgesync/nudge"

// table is who may import what of this module, test files apart. A package that is not in it does not
// belong: adding one is a decision, made here.
var table = map[string][]string{
	"migrations": {},

	"changefeed/change":    {},
	"changefeed/pgoutput":  {"changefeed/change"},
	"changefeed/value":     {},
	"changefeed/route":     {"changefeed/change", "changefeed/pgoutput", "changefeed/value"},
	"changefeed/changelog": {"changefeed/change"},
	"changefeed/tail":      {"changefeed/change"},
	"changefeed/snapshot":  {"changefeed/change", "changefeed/changelog", "changefeed/pgoutput", "changefeed/route", "changefeed/value"},
	"changefeed":           {"changefeed/change", "changefeed/changelog", "changefeed/pgoutput", "changefeed/route", "changefeed/value"},

	"notify/bus":         {"changefeed/change"},
	"notify/bus/bustest": {"changefeed/change", "notify/bus"},
	"notify/hub":         {"changefeed/change"},
	"notify/device":      {"changefeed/change"},

	"notify/push":         {},
	"notify/push/apns":    {"notify/push"},
	"notify/push/fcm":     {"notify/push"},
	"notify/push/webpush": {"notify/push"},

	"server/wire":   {},
	"server/admit":  {},
	"server/auth":   {"server/wire"},
	"server/config": {"server/auth"},
	"server/pull":   {"changefeed/change", "changefeed/changelog", "changefeed/route", "changefeed/snapshot", "changefeed/tail", "changefeed/value", "server/admit", "server/wire"},
	"server/api":    {"changefeed/change", "notify/device", "notify/hub", "server/auth", "server/pull", "server/wire"},
	"server/attach": {"changefeed/route", "migrations"},
	"server/dev":    {"clientsim/provider", "server/auth", "server/wire"},

	"server/dev/browsertest": {},

	"clientsim":          {"clientsim/device", "clientsim/oracle", "clientsim/provider", "server/wire"},
	"clientsim/device":   {"server/wire"},
	"clientsim/oracle":   {"clientsim/device", "server/wire"},
	"clientsim/provider": {},

	"internal/bench":        {},
	"internal/bench/floor":  {"internal/bench"},
	"internal/bench/site":   {"internal/bench", "internal/devpg", "server/auth", "server/wire"},
	"internal/bench/pull":   {"internal/bench", "internal/bench/floor", "internal/bench/site"},
	"internal/bench/herd":   {"internal/bench", "internal/bench/floor", "internal/bench/site"},
	"internal/bench/socket": {"internal/bench", "internal/bench/floor", "internal/bench/site", "server/wire"},
	"internal/bench/feed":   {"changefeed", "changefeed/change", "changefeed/changelog", "changefeed/pgoutput", "changefeed/route", "changefeed/value", "internal/bench", "internal/devpg", "migrations"},
	"internal/bench/push":   {"changefeed/change", "changefeed/changelog", "internal/bench", "internal/devpg", "migrations", "notify/device", "notify/push", "notify/push/apns", "notify/push/fcm", "notify/push/webpush"},
	"internal/devpg":        {},
	"internal/devpg/pgtest": {"internal/devpg"},
	"internal/layout":       {},
}

// standardOnly lists packages that import nothing beyond the standard library and the table.
var standardOnly = []string{"server/wire", "changefeed/change", "changefeed/pgoutput", "notify/hub"}

type pkg struct {
	ImportPath string
	Imports    []string
}

func list(t *testing.T) []pkg {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "list", "-json=ImportPath,Imports", "./...")
	cmd.Dir = root(t)
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	var pkgs []pkg
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p pkg
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return pkgs
		} else if err != nil {
			t.Fatal(err)
		}
		pkgs = append(pkgs, p)
	}
}

func root(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestImportTable(t *testing.T) {
	for _, p := range list(t) {
		name := strings.TrimPrefix(p.ImportPath, module+"/")
		if name == "server" {
			continue // package main alone wires everything
		}
		allowed, known := table[name]
		if !known {
			t.Errorf("package %s is not in the import table", name)
			continue
		}
		for _, imported := range p.Imports {
			ours, is := strings.CutPrefix(imported, module+"/")
			switch {
			case is && !slices.Contains(allowed, ours):
				t.Errorf("%s must not import %s", name, ours)
			case !is && slices.Contains(standardOnly, name) && strings.Contains(strings.Split(imported, "/")[0], "."):
				t.Errorf("%s must not import %s", name, imported)
			}
		}
	}
}

// The table names no package that is gone.
func TestImportTableIsCurrent(t *testing.T) {
	there := map[string]bool{}
	for _, p := range list(t) {
		there[strings.TrimPrefix(p.ImportPath, module+"/")] = true
	}
	for name := range table {
		if !there[name] {
			t.Errorf("the import table has %s, which does not exist", name)
		}
	}
}

func TestTopLevelFolders(t *testing.T) {
	want := []string{"changefeed", "clientsim", "deploy", "docs", "internal", "migrations", "notify", "server"}
	entries, err := os.ReadDir(root(t))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.IsDir() && !strings.HasPrefix(e.Name(), ".") && !slices.Contains(want, e.Name()) {
			t.Errorf("folder %s has no place in the layout", e.Name())
		}
	}
}
