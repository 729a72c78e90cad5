package main

import (
	"context"
	"encoding/json"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/nudgesync/nudge/internal/devpg/pgtest"
	"github.com/nudgesync/nudge/server/auth"
	"github.com/nudgesync/nudge/server/wire"
)

// A revocation by the command reaches a node that runs, within about a second; one by the admin listener
// has reached it when it is answered. Later tokens are good again.
func TestRevoke(t *testing.T) {
	s := newSite(t, pgtest.Database(t))
	r := s.serve(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	issued := func(ago time.Duration) func(*auth.Claims) {
		return func(c *auth.Claims) { c.Issued = time.Now().Add(-ago) }
	}
	mine, theirs := r.socket(ctx, r.token("7", issued(time.Minute))), r.socket(ctx, r.token("8", issued(time.Minute)))
	r.hear(ctx, mine, wire.TReady, &wire.Ready{})
	r.hear(ctx, theirs, wire.TReady, &wire.Ready{})

	out := s.nudge(t, "revoke", "--user", "7", "--until", "24h")
	if out.status != exitOK || out.stderr != "" || !strings.HasPrefix(out.stdout, "revoked user 7: tokens issued up to 20") {
		t.Fatalf("%+v", out)
	}
	r.wantClose(ctx, mine, wire.CloseRevoked, "token_revoked")
	var p wire.Problem
	if status, _ := r.get(r.token("7", issued(time.Minute)), "", &p); status != http.StatusForbidden || p.Code != wire.TokenRevoked || p.Hint == "" {
		t.Errorf("a pull: %d %+v", status, p)
	}
	if status, _ := r.get(r.token("7", issued(-2*time.Second)), "", &wire.Page{}); status != http.StatusOK {
		t.Errorf("a pull by a later token: %d", status)
	}

	post := func(body string) (status int) {
		t.Helper()
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, r.admin+"/v1/admin/revocations", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		res, err := r.client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		return res.StatusCode
	}
	if status := post(`{"user":"8","device":"phone"}`); status != http.StatusOK {
		t.Errorf("the admin listener: %d", status)
	}
	if status, _ := r.get(r.token("8", issued(time.Minute)), "", &p); status != http.StatusForbidden {
		t.Errorf("a pull behind its answer: %d", status)
	}
	r.wantClose(ctx, theirs, wire.CloseRevoked, "token_revoked")
}

func TestRevokeCommand(t *testing.T) {
	s := newSite(t, pgtest.Database(t))
	for name, args := range map[string][]string{
		"nobody": {}, "a device of nobody": {"--device", "d"}, "two things": {"--user", "7", "--jti", "j"},
		"until is over": {"--user", "7", "--until", "-1h"}, "until is no time": {"--user", "7", "--until", "tomorrow"}, "an argument": {"7"},
	} {
		if r := s.nudge(t, append([]string{"revoke"}, args...)...); r.status != exitUsage || !strings.Contains(r.stderr, "hint: nudge revoke --help") {
			t.Errorf("%s: %+v", name, r)
		}
	}
	if r := s.nudge(t, "revoke", "--user", "7"); r.status != exitFailed || !strings.Contains(r.stderr, "nudge: check_migrations: ") || !strings.Contains(r.stderr, "hint: run nudge attach") {
		t.Errorf("without the schema: %+v", r)
	}
	s.attach(t)
	r := s.nudge(t, "revoke", "--jti", "j", "--until", "2100-01-02T03:04:05Z", "--json")
	var answer struct {
		Seq int64
		At  time.Time
	}
	if err := json.Unmarshal([]byte(r.stdout), &answer); err != nil || r.status != exitOK || answer.Seq != 1 || answer.At.IsZero() {
		t.Errorf("%+v: %v", r, err)
	}
	if r := s.nudge(t, "revoke", "--user", "7", "--device", "d"); !regexp.MustCompile(`^revoked device d of user 7: .*\(number 2\)\n$`).MatchString(r.stdout) {
		t.Errorf("%+v", r)
	}
	s.env = append(s.env, "NUDGE_SOURCE_DSN=postgres://nobody@127.0.0.1:1/app")
	if r := s.nudge(t, "revoke", "--user", "7"); r.status != exitFailed || !strings.Contains(r.stderr, "nudge: check_connect: ") {
		t.Errorf("without the database: %+v", r)
	}
}

// The feed's role, which attach makes, can do all of it.
func TestRevokeWithTheRoleOfAttach(t *testing.T) {
	s := newSite(t, pgtest.Database(t))
	s.env = append(s.env, "NUDGE_SOURCE_DSN="+withUser(t, s.admin, "revoke_feed", "hunter2"))
	s.attach(t)
	if r := s.nudge(t, "revoke", "--user", "7"); r.status != exitOK {
		t.Errorf("%+v", r)
	}
	if r := s.nudge(t, "revoke", "--user", "7", "--until", "1h"); r.status != exitOK {
		t.Errorf("again: %+v", r)
	}
	if r := s.nudge(t, "detach", "--apply"); r.status != exitOK {
		t.Errorf("detach: %+v", r)
	}
}
