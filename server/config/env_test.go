package config_test

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nudgesync/nudge/server/config"
)

func TestEnvironmentWinsOverFileAndFlagsOverBoth(t *testing.T) {
	cfg, warnings, err := config.Load(config.Source{
		Path: write(t, "nudge.yaml", minimal+"listen: {public: 'file:1', admin: 'file:2'}\nroles: [feed]\nlog: {retention: 1h}\n"),
		Env: []string{
			"PATH=/bin", "NUDGE_LISTEN_PUBLIC=env:1", "NUDGE_LISTEN_ADMIN=env:2", "NUDGE_ROLES=feed, serve,",
			"NUDGE_LOG_RETENTION=48h", "NUDGE_LIMITS_TAIL_BYTES=2GiB", "NUDGE_SOURCE_SLOT=", "NUDGE_AUTH_CLAIMS_DEVICE=did",
		},
		Flags: map[string]string{"listen.public": "flag:1"},
	})
	if err != nil || len(warnings) > 0 {
		t.Fatalf("Load: %v, warnings %v", err, warnings)
	}
	if cfg.Listen.Public != "flag:1" || cfg.Listen.Admin != "env:2" {
		t.Errorf("listen is %+v", cfg.Listen)
	}
	if d := cmp.Diff([]string{"feed", "serve"}, cfg.Roles); d != "" {
		t.Errorf("roles (-want +got):\n%s", d)
	}
	if cfg.Log.Retention != 48*time.Hour || cfg.Limits.TailBytes != 2<<30 || cfg.Source.Slot != "nudge" || cfg.Auth.Claims.Device != "did" {
		t.Errorf("loaded:\n%s", cfg)
	}
}

func TestEnvironmentDefects(t *testing.T) {
	path := write(t, "nudge.yaml", minimal)
	for name, tc := range map[string]struct {
		src     config.Source
		code    config.Code
		key     string
		message string
	}{
		"bad duration":   {config.Source{Env: []string{"NUDGE_LOG_RETENTION=30d"}}, config.Invalid, "log.retention", "NUDGE_LOG_RETENTION: "},
		"bad number":     {config.Source{Env: []string{"NUDGE_SOURCE_MAX_CONNECTIONS=x"}}, config.Invalid, "source.max_connections", "NUDGE_SOURCE_MAX_CONNECTIONS: "},
		"too few":        {config.Source{Env: []string{"NUDGE_SOURCE_MAX_CONNECTIONS=1"}}, config.Invalid, "source.max_connections", "NUDGE_SOURCE_MAX_CONNECTIONS: "},
		"slot's name":    {config.Source{Env: []string{"NUDGE_SOURCE_SLOT=Nudge-1"}}, config.Invalid, "source.slot", "NUDGE_SOURCE_SLOT: "},
		"no publication": {config.Source{Flags: map[string]string{"source.publication": ""}}, config.Invalid, "source.publication", "flag"},
		"unknown role":   {config.Source{Env: []string{"NUDGE_ROLES=feed,x"}}, config.Invalid, "roles[1]", "NUDGE_ROLES: "},
		"bad flag":       {config.Source{Flags: map[string]string{"listen.public": "x"}}, config.Invalid, "listen.public", "flag"},
		"unknown flag":   {config.Source{Flags: map[string]string{"listen.pub": "x:1"}}, config.UnknownKey, "listen.pub", "flag"},
		"version 2":      {config.Source{Env: []string{"NUDGE_VERSION=2"}}, config.Invalid, "version", "NUDGE_VERSION: "},
	} {
		t.Run(name, func(t *testing.T) {
			tc.src.Path = path
			got := defects(t, tc.src)
			if len(got) != 1 || got[0].Code != tc.code || got[0].Key != tc.key || !strings.Contains(got[0].Message, tc.message) || got[0].File != "" {
				t.Errorf("got %v, want one %s for %s that names %q and no file", got, tc.code, tc.key, tc.message)
			}
		})
	}
}

func TestUnknownVariablesAreWarnings(t *testing.T) {
	_, warnings, err := config.Load(config.Source{
		Path: write(t, "nudge.yaml", minimal),
		Env: []string{
			"NUDGE_SOURCE_DNS=postgres://u:hunter2@h/d", "NUDGE_COLOUR=red", "NUDGE_TABLES=a",
			// Of commands and tests, and what Kubernetes sets for a service named nudge.
			"NUDGE_ADMIN_DSN=x", "NUDGE_PG_BIN=x", "NUDGE_SERVICE_HOST=10.0.0.1", "NUDGE_SERVICE_PORT=80",
			"NUDGE_SERVICE_PORT_HTTP=80", "NUDGE_PORT=tcp://10.0.0.1:80", "NUDGE_PORT_80_TCP=x",
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	hints := map[string]string{}
	for _, w := range warnings {
		hints[w.Key] = w.Hint
		if strings.Contains(w.Message+w.Hint, "hunter2") {
			t.Errorf("warning shows a value: %+v", w)
		}
	}
	want := map[string]string{"NUDGE_SOURCE_DNS": "did you mean NUDGE_SOURCE_DSN?", "NUDGE_COLOUR": "", "NUDGE_TABLES": ""}
	if d := cmp.Diff(want, hints); d != "" {
		t.Errorf("warnings (-want +got):\n%s", d)
	}
}

func TestAdminListenerOnEveryAddressIsAWarning(t *testing.T) {
	for addr, want := range map[string]int{":8081": 1, "0.0.0.0:8081": 1, "[::]:8081": 1, "127.0.0.1:8081": 0, "10.1.2.3:8081": 0} {
		_, warnings, err := config.Load(config.Source{Path: write(t, "nudge.yaml", minimal), Env: []string{"NUDGE_LISTEN_ADMIN=" + addr}})
		if err != nil || len(warnings) != want {
			t.Errorf("%s: %v, warnings %v, want %d", addr, err, warnings, want)
		}
	}
}

const fileSource = "source: {dsn_file: dsn}\ntables: {public.a: {owner: b}}\n"

func TestSecretsFromFiles(t *testing.T) {
	path := write(t, "nudge.yaml", fileSource+"auth: {keys: [{algorithm: HS256, secret_file: jwt.key}]}\n")
	dir := filepath.Dir(path)
	put(t, filepath.Join(dir, "dsn"), "postgres://file@h/d\n")
	put(t, filepath.Join(dir, "jwt.key"), strings.Repeat("k", 32)+"\r\n")
	cfg, _, err := config.Load(config.Source{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	if cfg.Source.DSN != "postgres://file@h/d" || string(cfg.Auth.Keys[0].Secret) != strings.Repeat("k", 32) {
		t.Errorf("read %q and %q", string(cfg.Source.DSN), string(cfg.Auth.Keys[0].Secret))
	}

	other := write(t, "other", "postgres://other@h/d")
	for name, tc := range map[string]struct {
		env  []string
		want config.Secret
	}{
		"a value wins over a lower file": {[]string{"NUDGE_SOURCE_DSN=postgres://env@h/d"}, "postgres://env@h/d"},
		"a file wins over a lower file":  {[]string{"NUDGE_SOURCE_DSN_FILE=" + other}, "postgres://other@h/d"},
	} {
		cfg, _, err := config.Load(config.Source{Path: path, Env: tc.env})
		if err != nil || cfg.Source.DSN != tc.want {
			t.Errorf("%s: %v", name, err)
		}
	}
	cfg, _, err = config.Load(config.Source{Path: write(t, "nudge.yaml", minimal), Env: []string{"NUDGE_SOURCE_DSN_FILE=" + other}})
	if err != nil || cfg.Source.DSN != "postgres://other@h/d" {
		t.Errorf("a file wins over a lower value: %v", err)
	}
}

func TestSecretFileDefects(t *testing.T) {
	empty := write(t, "empty", "\n")
	value := write(t, "value", "postgres://h/d")
	broken := write(t, "broken", "postgres://u:hunter2@h:port/d")
	for name, tc := range map[string]struct {
		yaml string
		env  []string
		code config.Code
		key  string
		line int
	}{
		"both in the file":        {"source: {dsn: 'postgres://h/d', dsn_file: " + value + "}", nil, config.SecretTwice, "source.dsn_file", 1},
		"both in the environment": {"", []string{"NUDGE_SOURCE_DSN=postgres://h/d", "NUDGE_SOURCE_DSN_FILE=" + value}, config.SecretTwice, "source.dsn_file", 0},
		"no such file":            {fileSource, nil, config.Unreadable, "source.dsn_file", 1},
		"empty file":              {"", []string{"NUDGE_SOURCE_DSN_FILE=" + empty}, config.Invalid, "source.dsn_file", 0},
		"wrong inside":            {"source: {dsn_file: " + broken + "}", nil, config.Invalid, "source.dsn", 1},
	} {
		t.Run(name, func(t *testing.T) {
			text := tc.yaml
			if !strings.Contains(text, "tables") {
				text += "\ntables: {public.a: {owner: b}}\n"
			}
			got := defects(t, config.Source{Path: write(t, "nudge.yaml", text), Env: tc.env})
			if len(got) != 1 || got[0].Code != tc.code || got[0].Key != tc.key || got[0].Line != tc.line {
				t.Errorf("got %v, want only %s for %s in line %d", got, tc.code, tc.key, tc.line)
			}
		})
	}
}
