package config_test

import (
	"os"
	"reflect"
	"regexp"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nudgesync/nudge/server/config"
)

const example = "../../nudge.example.yaml"

// What the example shows is, but for what has no default, the default.
func TestExampleShowsTheDefaults(t *testing.T) {
	cfg, warnings, err := config.Load(config.Source{Path: example})
	if err != nil || len(warnings) > 0 {
		t.Fatalf("Load: %v, warnings %v", err, warnings)
	}
	want := config.Default()
	want.Source.DSN, want.Tables = cfg.Source.DSN, cfg.Tables
	want.Auth.Issuer, want.Auth.Audience = cfg.Auth.Issuer, cfg.Auth.Audience
	want.Auth.Keys, want.Auth.Algorithms = []config.AuthKey{}, []string{}
	want.Push.APNs, want.Push.FCM = []config.APNs{}, []config.FCM{}
	want.Listen.AdminHosts, want.Listen.Origins = []string{}, []string{}
	if d := cmp.Diff(want, cfg); d != "" {
		t.Errorf("the example is not the default (-default +example):\n%s", d)
	}
}

func TestExampleMentionsEveryKey(t *testing.T) {
	text, err := os.ReadFile(example)
	if err != nil {
		t.Fatal(err)
	}
	for path, key := range keysOf(reflect.TypeFor[config.Config](), "") {
		if !regexp.MustCompile(`(?m)(^[ #-]*|[{,] *)` + key + `:`).Match(text) {
			t.Errorf("%s is not in the example", path)
		}
	}
}

// keysOf lists a struct's keys, and those below it, by path.
func keysOf(t reflect.Type, path string) map[string]string {
	for t.Kind() == reflect.Slice || t.Kind() == reflect.Map || t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	out := map[string]string{}
	if t.Kind() != reflect.Struct {
		return out
	}
	for i := range t.NumField() {
		key := t.Field(i).Tag.Get("yaml")
		out[path+"."+key] = key
		for p, k := range keysOf(t.Field(i).Type, path+"."+key) {
			out[p] = k
		}
	}
	return out
}
