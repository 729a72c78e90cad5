package config_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nudgesync/nudge/server/config"
)

func put(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestConfigShowsNoSecret(t *testing.T) {
	cfg := config.Default()
	cfg.Source.DSN = "postgres://feed:hunter2@h/d"
	cfg.Source.SnapshotDSN, cfg.Log.DSN, cfg.Bus.RedisURL = cfg.Source.DSN, cfg.Source.DSN, "redis://:hunter2@h"
	cfg.Auth.Keys = []config.AuthKey{{ID: "main", Algorithm: "HS256", Secret: "hunter2"}}
	asJSON, err := json.Marshal(cfg)
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	slog.New(slog.NewJSONHandler(&log, nil)).Info("start", "config", cfg, "dsn", cfg.Source.DSN)
	for name, shown := range map[string]string{
		"String": cfg.String(), "log": log.String(), "JSON": string(asJSON),
		"%v": fmt.Sprintf("%v", *cfg), "%+v": fmt.Sprintf("%+v", *cfg), "%#v": fmt.Sprintf("%#v", *cfg), "%q": fmt.Sprintf("%q", cfg.Source.DSN),
	} {
		if strings.Contains(shown, "hunter2") {
			t.Errorf("%s shows a secret:\n%s", name, shown)
		}
		if !strings.Contains(shown, "***") {
			t.Errorf("%s doesn't show that there is one:\n%s", name, shown)
		}
	}
	if !strings.Contains(cfg.String(), "publication: nudge") || !strings.Contains(cfg.String(), "tail_bytes: 128MiB") {
		t.Errorf("String shows too little:\n%s", cfg)
	}
}

func TestOriginSecretFromAFile(t *testing.T) {
	path := write(t, "nudge.yaml", "source: {dsn: 'postgres://h/d', origin_secret_file: origin.key}\ntables: {public.a: {owner: b}}\n")
	secret := strings.Repeat("s", 31)
	put(t, filepath.Join(filepath.Dir(path), "origin.key"), secret+"\n")
	if got := defects(t, config.Source{Path: path}); len(got) != 1 || got[0].Key != "source.origin_secret" || got[0].Line != 1 {
		t.Errorf("31 bytes: %v", got)
	}
	put(t, filepath.Join(filepath.Dir(path), "origin.key"), secret+"s\n")
	cfg, _, err := config.Load(config.Source{Path: path})
	if err != nil || string(cfg.Source.OriginSecret) != secret+"s" {
		t.Errorf("32 bytes: %v, %v", cfg, err)
	}
}

// Wherever a secret stands beside a defect, the error doesn't repeat it.
func TestErrorsShowNoSecret(t *testing.T) {
	for name, text := range map[string]string{
		"in flow style":          "source: {dsn: 'postgres://u:hunter2@h/d', slott: x}",
		"in flow style, bare":    "source: {dsn: postgres://u:hunter2@h/d, slott: x}",
		"behind the defect":      "source: {slott: x, dsn: 'postgres://u:hunter2@h/d'}",
		"under a misspelt key":   "source:\n  dsnn: postgres://u:hunter2@h/d",
		"beside a misspelt key":  "source: {dsnn: postgres://u:hunter2@h/d, slott: x}",
		"not parseable":          "source: {dsn: 'postgres://u:hunter2@h:port/d'}",
		"keyword form":           "source: {dsn: 'host=h port=x password=hunter2'}",
		"unclosed quote":         "source:\n  dsn: \"postgres://u:hunter2@h/d\n",
		"of the wrong kind":      "source:\n  dsn: [hunter2]",
		"as entries":             "source:\n  dsn: {hunter2: hunter2}",
		"too short":              "auth: {keys: [{algorithm: HS256, secret: hunter2}]}",
		"an origin's, too short": "source: {dsn: 'postgres://h/d', origin_secret: hunter2}",
		"behind base64:":         "auth: {keys: [{algorithm: HS256, secret: 'base64:hunter2!'}]}",
		"as a public key":        "auth: {keys: [{algorithm: ES256, public_key: hunter2}]}",
		"indented too little":    "auth:\n  keys:\n    - secret: |\n  hunter2\n",
	} {
		t.Run(name, func(t *testing.T) {
			got := defects(t, config.Source{Path: write(t, "nudge.yaml", text)})
			if len(got) == 0 {
				t.Fatal("it was accepted")
			}
			for _, e := range got {
				if all := e.Error() + e.Hint + e.Excerpt + e.Key; strings.Contains(all, "hunter2") {
					t.Errorf("%s\n%s\n%s", e, e.Excerpt, e.Hint)
				}
			}
		})
	}
}
