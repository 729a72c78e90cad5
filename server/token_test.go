package main

import (
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nudgesync/nudge/server/auth"
	"github.com/nudgesync/nudge/server/config"
)

const signingKey = "0123456789abcdefghijklmnopqrstuv"

// verified runs a token command and verifies what it printed, as a node of that configuration would.
func verified(t *testing.T, a config.Auth, r result) auth.Identity {
	t.Helper()
	if r.status != exitOK || r.stderr != "" {
		t.Fatalf("%+v", r)
	}
	v, err := newVerifier(&config.Config{Auth: a}, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	id, err := v.Verify(t.Context(), strings.TrimSuffix(r.stdout, "\n"))
	if err != nil {
		t.Fatalf("%v for %q", err, r.stdout)
	}
	return id
}

// devAuth is what nudge dev configures.
func devAuth() config.Auth {
	return config.Auth{
		Keys:   []config.AuthKey{{ID: devKeyID, Algorithm: auth.HS256, Secret: signingKey}},
		Issuer: devIssuer, Audience: devAudience, Claims: config.Claims{User: "sub", Device: devDeviceClaim},
	}
}

func TestTokenOfDev(t *testing.T) {
	dir := t.TempDir()
	key := writeFile(t, dir, "dev.key", signingKey+"\n")
	state, err := json.Marshal(devState{URL: "http://127.0.0.1:8080", SigningKeyFile: key})
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, dir, "xdg/nudge/dev.json", string(state))
	writeFile(t, dir, ".local/state/nudge/dev.json", string(state))
	absent := filepath.Join(dir, "nudge.yaml")
	for name, tc := range map[string]struct {
		env  []string
		args []string
	}{
		"dev.json, XDG":      {[]string{"XDG_STATE_HOME=" + dir + "/xdg"}, nil},
		"dev.json, HOME":     {[]string{"HOME=" + dir}, nil},
		"dev.json, relative": {[]string{"HOME=" + dir, "XDG_STATE_HOME=xdg"}, nil},
		"key file":           {nil, []string{"--key-file", key}},
	} {
		t.Run(name, func(t *testing.T) {
			before := time.Now()
			args := append([]string{"token", "--config", absent, "--user", "7", "--ttl", "10m"}, tc.args...)
			id := verified(t, devAuth(), nudge(t, tc.env, args...))
			if id.User != "7" || id.Device != "" || id.Expires.Before(before.Add(10*time.Minute-time.Second)) || id.Expires.After(time.Now().Add(10*time.Minute)) {
				t.Errorf("%+v", id)
			}
			if id := verified(t, devAuth(), nudge(t, tc.env, append(args, "--device", "tablet")...)); id.Device != "tablet" {
				t.Errorf("%+v", id)
			}
		})
	}
}

const tokenYAML = `source: {dsn: 'postgres://h/d'}
tables: {public.intakes: {owner: user_id}}
auth:
  issuer: me
  audience: app
  claims: {user: uid}
  keys: [{id: k1, algorithm: HS256, secret_file: jwt.key}]
`

func TestTokenOfConfiguration(t *testing.T) {
	dir := t.TempDir()
	writeFile(t, dir, "jwt.key", signingKey)
	path := writeFile(t, dir, "nudge.yaml", tokenYAML)
	a := config.Auth{
		Keys:   []config.AuthKey{{ID: "k1", Algorithm: auth.HS256, Secret: signingKey}},
		Issuer: "me", Audience: "app", Claims: config.Claims{User: "uid"},
	}
	if id := verified(t, a, nudge(t, nil, "token", "--config", path, "--user", "u1")); id.User != "u1" {
		t.Errorf("%+v", id)
	}
	// A token without the device that was asked for would be worth more than was asked for.
	r := nudge(t, nil, "token", "--config", path, "--user", "u1", "--device", "d")
	if r.status != exitFailed || r.stdout != "" || !strings.Contains(r.stderr, "hint: set auth.claims.device\n") {
		t.Errorf("%+v", r)
	}
}

func TestTokenWithoutKey(t *testing.T) {
	dir := t.TempDir()
	absent := filepath.Join(dir, "nudge.yaml")
	noKeys := writeFile(t, dir, "nokeys.yaml", tokenYAML[:strings.Index(tokenYAML, "  keys:")])
	short := writeFile(t, dir, "short.key", "short")
	empty := writeFile(t, dir, "empty/nudge/dev.json", "{}")
	for name, tc := range map[string]struct {
		env    []string
		args   []string
		stderr string
	}{
		"nothing anywhere": {[]string{"HOME=" + dir}, []string{"--config", absent}, "nudge: token_no_key: there is neither " + absent},
		"empty dev.json":   {[]string{"XDG_STATE_HOME=" + dir + "/empty"}, []string{"--config", absent}, "nudge: token_no_key: " + empty + " names no signing key\n"},
		"no keys":          {nil, []string{"--config", noKeys}, "nudge: token_no_key: " + noKeys + " has no keys\n"},
		"no such file":     {nil, []string{"--key-file", absent}, "nudge: token_no_key: read the signing key: "},
		"a short one":      {nil, []string{"--key-file", short}, "nudge: token_bad_key: " + short + ": an HS256 secret needs 32 bytes"},
	} {
		r := nudge(t, tc.env, append([]string{"token", "--user", "7"}, tc.args...)...)
		if r.status != exitFailed || r.stdout != "" || !strings.HasPrefix(r.stderr, tc.stderr) {
			t.Errorf("%s: %+v", name, r)
		}
	}
}

func TestVerifierNeedsAKey(t *testing.T) {
	for name, keys := range map[string][]config.AuthKey{
		"none": nil, "short": {{Algorithm: auth.HS256, Secret: "x"}}, "no algorithm": {{Secret: signingKey}},
	} {
		if _, err := newVerifier(&config.Config{Auth: config.Auth{Keys: keys}}, nil, nil); statusOf(err) != exitUsage {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestVersion(t *testing.T) {
	r := nudge(t, nil, "version", "--json")
	var v version
	if err := json.Unmarshal([]byte(r.stdout), &v); err != nil || r.status != exitOK {
		t.Fatalf("%+v: %v", r, err)
	}
	if v.Version == "" || !strings.HasPrefix(v.Go, "go1.") || v.Wire != 1 || v.Platform == "" {
		t.Errorf("%+v", v)
	}
	if r := nudge(t, nil, "version"); r.status != exitOK || !strings.Contains(r.stdout, v.Go) || !strings.Contains(r.stdout, "wire version 1\n") {
		t.Errorf("%+v", r)
	}
}
