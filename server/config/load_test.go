package config_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nudgesync/nudge/server/config"
)

// minimal is valid; tests put something wrong behind it, from line 5 on.
const minimal = `version: 1
source:
  dsn: postgres://feed:pass@127.0.0.1/app
tables: {public.intakes: {owner: user_id}}
`

func write(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// defects loads a file and returns everything that is wrong with it.
func defects(t *testing.T, src config.Source) []*config.Error {
	t.Helper()
	cfg, _, err := config.Load(src)
	if err == nil {
		return nil
	}
	if cfg != nil {
		t.Error("Load returned a configuration beside an error")
	}
	return unjoin(t, err)
}

func unjoin(t *testing.T, err error) []*config.Error {
	t.Helper()
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		t.Fatalf("error %v is not joined", err)
	}
	var out []*config.Error
	for _, e := range joined.Unwrap() {
		var ce *config.Error
		if !errors.As(e, &ce) {
			t.Fatalf("error %v is no *config.Error", e)
		}
		out = append(out, ce)
	}
	return out
}

func TestLoadAppliesDefaults(t *testing.T) {
	cfg, warnings, err := config.Load(config.Source{Path: write(t, "nudge.yaml", minimal)})
	if err != nil || len(warnings) > 0 {
		t.Fatalf("Load: %v, warnings %v", err, warnings)
	}
	want := config.Default()
	want.Source.DSN = "postgres://feed:pass@127.0.0.1/app"
	want.Tables = map[string]config.Table{"public.intakes": {Owner: "user_id"}}
	if d := cmp.Diff(want, cfg); d != "" {
		t.Errorf("loaded configuration (-want +got):\n%s", d)
	}
	if cfg.Log.Retention != 720*time.Hour || cfg.Listen.Public != "127.0.0.1:8080" || cfg.Limits.PageRows != 500 {
		t.Errorf("defaults: %s", cfg)
	}
	if cfg.LogDSN() != string(cfg.Source.DSN) || cfg.SnapshotDSN() != string(cfg.Source.DSN) {
		t.Error("log and snapshots don't default to the source")
	}
}

func TestLoadReadsEveryKindOfValue(t *testing.T) {
	cfg, _, err := config.Load(config.Source{Path: write(t, "nudge.yaml", `
source: {dsn: 'postgres://feed:pass@127.0.0.1/app'}
tables:
  public.intakes: {owner: user_id, columns: {deny: [note]}}
log: {dsn: "host=/run/postgresql dbname=nudge", retention: 90m}
auth:
  issuer: &who https://id.example.com
  audience: *who
  claims: {device: did, lane: ~}
  keys:
    - id: 2025
      algorithm: HS256
      secret: |
        0123456789abcdef0123456789abcdef
listen:
  origins: [https://app.example.com, "http://localhost:3000"]
roles:
  - feed
  - serve
limits: {tail_bytes: 1GiB, max_sockets: 1000}
`)})
	if err != nil {
		t.Fatal(err)
	}
	want := config.Default()
	want.Source.DSN = "postgres://feed:pass@127.0.0.1/app"
	want.Tables = map[string]config.Table{"public.intakes": {Owner: "user_id", Columns: config.Columns{Deny: []string{"note"}}}}
	want.Log = config.Log{DSN: "host=/run/postgresql dbname=nudge", Retention: 90 * time.Minute}
	want.Auth = config.Auth{
		Issuer: "https://id.example.com", Audience: "https://id.example.com",
		Claims: config.Claims{User: "sub", Device: "did"},
		Keys:   []config.AuthKey{{ID: "2025", Algorithm: "HS256", Secret: "0123456789abcdef0123456789abcdef\n"}},
	}
	want.Listen.Origins = []string{"https://app.example.com", "http://localhost:3000"}
	want.Roles = []string{"feed", "serve"}
	want.Limits.TailBytes, want.Limits.MaxSockets = 1<<30, 1000
	if d := cmp.Diff(want, cfg); d != "" {
		t.Errorf("loaded configuration (-want +got):\n%s", d)
	}
}

// Everything wrong is reported at once, in the order of the file.
func TestLoadReportsAllErrors(t *testing.T) {
	got := defects(t, config.Source{Path: write(t, "nudge.yaml", `version: 2
source: {slott: x, max_connections: many}
tables: {intakes: {owner: a}, public.b: {}}
roles: [feeed]
`)})
	var codes []config.Code
	for _, e := range got {
		codes = append(codes, e.Code)
	}
	want := []config.Code{
		config.Invalid, config.Missing, config.UnknownKey, config.Invalid,
		config.Invalid, config.Missing, config.Invalid,
	}
	if d := cmp.Diff(want, codes); d != "" {
		t.Errorf("codes (-want +got):\n%s\n%v", d, got)
	}
}

func TestLoadFileErrors(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "nudge.yaml")
	for name, tc := range map[string]struct {
		path string
		code config.Code
	}{
		"no file":       {missing, config.Unreadable},
		"a directory":   {t.TempDir(), config.Unreadable},
		"a bare string": {write(t, "nudge.yaml", "hello"), config.Syntax},
		"a list":        {write(t, "nudge.yaml", "[a, b]"), config.Syntax},
		"two documents": {write(t, "nudge.yaml", minimal+"---\n"+minimal), config.Syntax},
	} {
		t.Run(name, func(t *testing.T) {
			got := defects(t, config.Source{Path: tc.path})
			if len(got) == 0 || got[0].Code != tc.code || got[0].File != tc.path {
				t.Fatalf("errors %v, want %s in %s", got, tc.code, tc.path)
			}
		})
	}
	if got := defects(t, config.Source{Path: missing}); len(got) != 1 || got[0].Hint == "" {
		t.Errorf("a missing file gives %v, want one error with a hint", got)
	}
}

// An empty file lacks what is needed, and says only that.
func TestLoadNothing(t *testing.T) {
	for name, src := range map[string]config.Source{
		"no file": {}, "empty": {Path: write(t, "nudge.yaml", "")}, "a comment": {Path: write(t, "nudge.yaml", "# later\n")},
	} {
		t.Run(name, func(t *testing.T) {
			var keys []string
			for _, e := range defects(t, src) {
				if e.Code != config.Missing {
					t.Errorf("unexpected %v", e)
				}
				keys = append(keys, e.Key)
			}
			if d := cmp.Diff([]string{"source.dsn", "tables"}, keys); d != "" {
				t.Errorf("missing keys (-want +got):\n%s", d)
			}
		})
	}
}

func TestValidateTwice(t *testing.T) {
	cfg := config.Default()
	cfg.Source.DSNFile = write(t, "dsn", "postgres://feed@127.0.0.1/app\n")
	cfg.Tables = map[string]config.Table{"public.intakes": {Owner: "user_id"}}
	for range 2 {
		if err := cfg.Validate(); err != nil {
			t.Fatal(err)
		}
	}
	if cfg.Source.DSN != "postgres://feed@127.0.0.1/app" {
		t.Errorf("source.dsn is %q", string(cfg.Source.DSN))
	}
	cfg.Roles = nil
	if err := cfg.Validate(); err == nil {
		t.Error("a configuration without roles is valid")
	}
}

// A file that nudge.yaml names is looked for beside it, as those of secrets are.
func TestWitnessIsBesideTheFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "nudge.yaml")
	put(t, path, "source: {dsn: postgres://h/d}\ntables: {public.t: {owner: u}}\nlog: {witness: state/witness}\n")
	cfg, _, err := config.Load(config.Source{Path: path})
	if want := filepath.Join(filepath.Dir(path), "state", "witness"); err != nil || cfg.Log.Witness != want {
		t.Errorf("%v, %v", cfg, err)
	}
	cfg, _, err = config.Load(config.Source{Path: path, Env: []string{"NUDGE_LOG_WITNESS=here"}})
	if err != nil || cfg.Log.Witness != "here" {
		t.Errorf("from the environment: %v, %v", cfg, err)
	}
}
