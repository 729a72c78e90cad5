package config_test

import (
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/nudgesync/nudge/server/config"
)

// Any text is a valid configuration, or errors that say what and, within the text, where; twice the same.
func FuzzDecode(f *testing.F) {
	f.Add([]byte(minimal))
	f.Fuzz(func(t *testing.T, data []byte) {
		cfg, errs := config.Decode(data)
		again, errsAgain := config.Decode(data)
		if diff := cmp.Diff(cfg, again) + cmp.Diff(errs, errsAgain); diff != "" {
			t.Fatal(diff)
		}
		lines := 1 + strings.Count(string(data), "\n") + strings.Count(string(data), "\r")
		for _, e := range errs {
			if !slices.Contains(config.Codes(), e.Code) || e.Message == "" {
				t.Errorf("%#v", e)
			}
			if e.Line < 0 || e.Line > lines || e.Column < 0 || (e.Line == 0) != (e.Excerpt == "") {
				t.Errorf("%v: not a place in %d lines", e, lines)
			}
			if utf8.Valid(data) && !utf8.ValidString(e.Excerpt) {
				t.Errorf("%v: excerpt %q", e, e.Excerpt)
			}
		}
		if len(errs) > 0 {
			return
		}
		if cfg.Version != 1 || len(cfg.Tables) == 0 || cfg.Limits.PageRows < 1 || cfg.Log.Retention <= 0 || cfg.String() == "" {
			t.Errorf("valid: %v", cfg)
		}
	})
}
