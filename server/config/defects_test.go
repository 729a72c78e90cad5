package config_test

import (
	"strings"
	"testing"

	"github.com/nudgesync/nudge/server/config"
)

// Each of them is behind minimal, so it begins in line 5.
func TestDefects(t *testing.T) {
	for name, tc := range map[string]struct {
		yaml         string
		code         config.Code
		line, column int
		key          string
		hint         string // contained in the hint
		excerpt      string // contained in the excerpt
	}{
		"unknown key": {
			"listen:\n  publik: 127.0.0.1:80", config.UnknownKey, 6, 3, "listen.publik", `did you mean "public"?`, "  publik…\n  ^^^^^^",
		},
		"unknown key, nothing near": {
			"values: {colour: red}", config.UnknownKey, 5, 10, "values.colour", "its keys are: wide_numbers", "values: {colour…",
		},
		"unknown key of the file":     {"rolls: [feed]", config.UnknownKey, 5, 1, "rolls", `did you mean "roles"?`, "rolls…"},
		"unknown key with a swap":     {"auth: {issure: x}", config.UnknownKey, 5, 8, "auth.issure", `did you mean "issuer"?`, ""},
		"unknown key in a list":       {"auth:\n  keys:\n    - {idd: x}", config.UnknownKey, 7, 8, "auth.keys[0].idd", `did you mean "id"?`, ""},
		"key in another case":         {"Roles: [feed]", config.UnknownKey, 5, 1, "Roles", `did you mean "roles"?`, ""},
		"merge key":                   {"log: {<<: {retention: 1h}}", config.UnknownKey, 5, 7, "log.<<", "", ""},
		"duplicate key":               {"version: 1", config.Syntax, 5, 1, "", "", "version…\n^^^^^^^"},
		"unclosed bracket":            {"roles: [feed", config.Syntax, 5, 8, "", "", ""},
		"tab as indentation":          {"log:\n\tretention: 1h", config.Syntax, 6, 1, "", "", ""},
		"text for a number":           {"limits: {page_rows: many}", config.Invalid, 5, 21, "limits.page_rows", "", "page_rows: many"},
		"fraction for a number":       {"limits: {page_rows: 1.5}", config.Invalid, 5, 21, "limits.page_rows", "", ""},
		"number too large":            {"limits: {page_rows: 99999999999999999999}", config.Invalid, 5, 21, "limits.page_rows", "", ""},
		"days are no duration":        {"log: {retention: 30d}", config.Invalid, 5, 18, "log.retention", "", "retention: 30d"},
		"bare duration":               {"log: {retention: 30}", config.Invalid, 5, 18, "log.retention", "", ""},
		"negative duration":           {"log: {retention: -1h}", config.Invalid, 5, 18, "log.retention", "", ""},
		"size with a wrong unit":      {"limits: {tail_bytes: 1Mb}", config.Invalid, 5, 22, "limits.tail_bytes", "", ""},
		"size past 64 bits":           {"limits: {tail_bytes: 99999999999GiB}", config.Invalid, 5, 22, "limits.tail_bytes", "", ""},
		"value for a list":            {"roles: feed", config.Invalid, 5, 1, "roles", "", ""},
		"value for entries":           {"listen: 8080", config.Invalid, 5, 1, "listen", "", ""},
		"list for a value":            {"log:\n  retention: [1h]", config.Invalid, 6, 14, "log.retention", "", ""},
		"entries for a secret":        {"log:\n  dsn: {a: b}", config.Invalid, 6, 3, "log.dsn", "", "  dsn…"},
		"alias to nowhere":            {"auth: {issuer: *who}\nrolls: []", config.UnknownKey, 6, 1, "rolls", "", ""},
		"connection string":           {"log: {dsn: 'postgres://a:b@h:port/x'}", config.Invalid, 5, 7, "log.dsn", "postgres://user", "log: {dsn…"},
		"no snapshots":                {"log: {}\nlimits: {snapshots: 0}", config.Invalid, 6, 21, "limits.snapshots", "", ""},
		"too long a wait":             {"limits: {queue_wait: 5s}", config.Invalid, 5, 22, "limits.queue_wait", "", ""},
		"too many rows a page":        {"limits: {page_rows: 5001}", config.Invalid, 5, 21, "limits.page_rows", "", ""},
		"too little to spill from":    {"limits: {spill_bytes: 64KiB}", config.Invalid, 5, 23, "limits.spill_bytes", "", ""},
		"relative directory":          {"limits: {spill_dir: spill}", config.Invalid, 5, 21, "limits.spill_dir", "working", ""},
		"role":                        {"roles: [feed, sreve]", config.Invalid, 5, 15, "roles[1]", `did you mean "serve"?`, "roles: [feed, sreve"},
		"a node without serve yet":    {"roles: [feed, push]", config.Unsupported, 5, 1, "roles", "leave roles out", ""},
		"a node without feed yet":     {"roles: [serve]", config.Unsupported, 5, 1, "roles", "leave roles out", ""},
		"no role":                     {"roles: []", config.Missing, 5, 1, "roles", "feed, serve, push", ""},
		"address without a port":      {"listen: {public: localhost}", config.Invalid, 5, 18, "listen.public", "127.0.0.1:8080", ""},
		"port out of range":           {"listen: {public: 'localhost:70000'}", config.Invalid, 5, 18, "listen.public", "", ""},
		"one address for both":        {"listen: {public: 'a:1', admin: 'a:1'}", config.Invalid, 5, 32, "listen.admin", "", ""},
		"admin host with a port":      {"listen: {admin_hosts: ['nudge.internal:8081']}", config.Invalid, 5, 24, "listen.admin_hosts[0]", "nudge.internal", ""},
		"admin host with a scheme":    {"listen: {admin_hosts: ['http://nudge.internal']}", config.Invalid, 5, 24, "listen.admin_hosts[0]", "", ""},
		"admin host with a wildcard":  {"listen: {admin_hosts: ['*.internal']}", config.Invalid, 5, 24, "listen.admin_hosts[0]", "", ""},
		"origin with a path":          {"listen: {origins: ['https://a.example/']}", config.Invalid, 5, 20, "listen.origins[0]", "https://app.example.com", ""},
		"origin with a wildcard":      {"listen: {origins: ['https://*.example']}", config.Invalid, 5, 20, "listen.origins[0]", "", ""},
		"origin in capitals":          {"listen: {origins: ['https://A.example']}", config.Invalid, 5, 20, "listen.origins[0]", "", ""},
		"origin with default port":    {"listen: {origins: ['https://a.example:443']}", config.Invalid, 5, 20, "listen.origins[0]", "", ""},
		"origin null":                 {"listen: {origins: ['null']}", config.Invalid, 5, 20, "listen.origins[0]", "", ""},
		"origin of another scheme":    {"listen: {origins: ['file://x']}", config.Invalid, 5, 20, "listen.origins[0]", "", ""},
		"wide numbers":                {"values: {wide_numbers: text}", config.Invalid, 5, 24, "values.wide_numbers", "", ""},
		"no grace":                    {"push: {grace: 0s}", config.Invalid, 5, 15, "push.grace", "", ""},
		"no user claim":               {"auth: {claims: {user: ''}}", config.Missing, 5, 23, "auth.claims.user", "sub", ""},
		"key without an algorithm":    {"auth: {keys: [{id: a}]}", config.Missing, 5, 16, "auth.keys[0].algorithm", "HS256", ""},
		"algorithm none":              {"auth: {algorithms: [none]}", config.Invalid, 5, 21, "auth.algorithms[0]", "HS256", ""},
		"algorithm misspelt":          {"auth: {algorithms: [HS265]}", config.Invalid, 5, 21, "auth.algorithms[0]", `did you mean "HS256"?`, ""},
		"short secret":                {"auth: {keys: [{algorithm: HS256, secret: tooshort}]}", config.Invalid, 5, 34, "auth.keys[0].secret", "", "secret…"},
		"no secret":                   {"auth: {keys: [{algorithm: HS256}]}", config.Missing, 5, 16, "auth.keys[0].secret", "secret_file", ""},
		"secret of a public key":      {"auth: {keys: [{algorithm: ES256, public_key: x, secret: y}]}", config.Invalid, 5, 34, "auth.keys[0].public_key", "", ""},
		"keys over plain http":        {"auth: {jwks_url: 'http://id.example/keys'}", config.Invalid, 5, 18, "auth.jwks_url", "https://id.example.com", ""},
		"keys by a local name":        {"auth: {jwks_url: 'http://localhost.evil.example/keys'}", config.Invalid, 5, 18, "auth.jwks_url", "", ""},
		"keys with a password":        {"auth: {jwks_url: 'https://a:b@id.example/keys'}", config.Invalid, 5, 18, "auth.jwks_url", "", ""},
		"keys from a file":            {"auth: {jwks_url: 'file:///etc/passwd'}", config.Invalid, 5, 18, "auth.jwks_url", "", ""},
		"keys from nowhere":           {"auth: {jwks_url: 'https:///keys'}", config.Invalid, 5, 18, "auth.jwks_url", "", ""},
		"fetched keys, HS256 alone":   {"auth: {jwks_url: 'https://x', algorithms: [HS256]}", config.Invalid, 5, 31, "auth.algorithms", "leave it out", ""},
		"no Redis yet":                {"bus: {redis_url: redis://x}", config.Unsupported, 5, 7, "bus.redis_url", "", ""},
		"no lanes yet":                {"lanes: {slow: {limits: {snapshots: 1}}}", config.Unsupported, 5, 1, "lanes", "", ""},
		"no scopes yet":               {"scopes: {list: {members: {table: a.b, scope: c, user: d}}}", config.Unsupported, 5, 1, "scopes", "", ""},
		"anchor that contains itself": {"auth: &a {claims: *a}", config.UnknownKey, 5, 11, "auth.claims.claims", "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			got := defects(t, config.Source{Path: write(t, "nudge.yaml", minimal+tc.yaml+"\n")})
			if len(got) == 0 {
				t.Fatal("it was accepted")
			}
			e := got[0]
			if e.Code != tc.code || e.Line != tc.line || e.Column != tc.column || e.Key != tc.key {
				t.Errorf("got %s %d:%d key %q, want %s %d:%d key %q\n%v", e.Code, e.Line, e.Column, e.Key, tc.code, tc.line, tc.column, tc.key, e)
			}
			if !strings.Contains(e.Hint, tc.hint) {
				t.Errorf("hint %q lacks %q", e.Hint, tc.hint)
			}
			if !strings.Contains(e.Excerpt, tc.excerpt) {
				t.Errorf("excerpt lacks %q:\n%s", tc.excerpt, e.Excerpt)
			}
		})
	}
}

// Whose the rows of a table are has to be said once, in words that this version understands.
func TestTableDefects(t *testing.T) {
	for name, tc := range map[string]struct {
		table string
		code  config.Code
		key   string
		hint  string
	}{
		"no owner":       {"public.a: {}", config.Missing, "tables.public.a", "{owner: user_id}"},
		"null":           {"public.a:", config.Missing, "tables.public.a", ""},
		"two owners":     {"public.a: {owner: b, scope: list}", config.Invalid, "tables.public.a", "keep one"},
		"no schema":      {"a: {owner: b}", config.Invalid, "tables.a", `did you mean "public.a"?`},
		"three parts":    {"db.public.a: {owner: b}", config.Invalid, "tables.db.public.a", ""},
		"empty schema":   {".a: {owner: b}", config.Invalid, "tables..a", ""},
		"by alone":       {"public.a: {owner: b, by: c}", config.Invalid, "tables.public.a.by", ""},
		"long column":    {"public.a: {owner: " + strings.Repeat("x", 64) + "}", config.Invalid, "tables.public.a.owner", ""},
		"allow and deny": {"public.a: {owner: b, columns: {allow: [c], deny: [d]}}", config.Invalid, "tables.public.a.columns", "keep one"},
		"parent":         {"public.a: {parent: {table: public.b, by: c}}", config.Unsupported, "tables.public.a.parent", ""},
		"scope":          {"public.a: {scope: global}", config.Unsupported, "tables.public.a.scope", ""},
		"write":          {"public.a: {owner: b, write: [c]}", config.Unsupported, "tables.public.a.write", ""},
		"urgency":        {"public.a: {owner: b, urgency: later}", config.Invalid, "tables.public.a.urgency", "now, soon, lazy"},
	} {
		t.Run(name, func(t *testing.T) {
			got := defects(t, config.Source{Path: write(t, "nudge.yaml", "source: {dsn: 'postgres://h/d'}\ntables:\n  "+tc.table+"\n")})
			for _, e := range got {
				if e.Code == tc.code && e.Key == tc.key && e.Line == 3 && strings.Contains(e.Hint, tc.hint) {
					return
				}
			}
			t.Errorf("want %s for %s in line 3 with hint %q, got %v", tc.code, tc.key, tc.hint, got)
		})
	}
}
