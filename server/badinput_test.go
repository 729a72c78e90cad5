package main

import (
	"context"
	"net"
	"net/url"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/nudgesync/nudge/internal/devpg"
	"github.com/nudgesync/nudge/internal/devpg/pgtest"
)

// site is a database with a table, and a configuration for it.
type site struct {
	admin string // the owner's DSN
	yaml  string // path of nudge.yaml
	env   []string
}

const siteYAML = `tables: {public.intakes: {owner: user_id}}
auth:
  issuer: me
  audience: app
  keys: [{id: k1, algorithm: HS256, secret_file: jwt.key}]
listen: {public: "127.0.0.1:0", admin: "127.0.0.1:0"}
`

// newSite makes the table and writes the configuration; replace is pairs of texts in that to change.
func newSite(t *testing.T, admin string, replace ...string) *site {
	t.Helper()
	execute(t, admin, `create table intakes (id int primary key, user_id int not null, note text);
		insert into intakes values (1, 7, 'mine'), (2, 8, 'theirs')`)
	dir := t.TempDir()
	writeFile(t, dir, "jwt.key", signingKey)
	return &site{
		admin: admin, yaml: writeFile(t, dir, "nudge.yaml", strings.NewReplacer(replace...).Replace(siteYAML)),
		env: []string{"NUDGE_SOURCE_DSN=" + admin, "NUDGE_ADMIN_DSN=" + admin, "NUDGE_SOURCE_SLOT=bad_input"},
	}
}

// withUser is a DSN for another role.
func withUser(t *testing.T, dsn, name, password string) string {
	t.Helper()
	u, err := url.Parse(dsn)
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.UserPassword(name, password)
	return u.String()
}

func (s *site) nudge(t *testing.T, args ...string) result {
	t.Helper()
	return nudge(t, s.env, append(args, "--config", s.yaml)...)
}

func (s *site) attach(t *testing.T) {
	t.Helper()
	if r := s.nudge(t, "attach", "--apply"); r.status != exitOK {
		t.Fatalf("attach: %+v", r)
	}
}

// refused holds serve against the one error that it has to end with, and returns its hint.
func (s *site) refused(t *testing.T, status int, code, message string) string {
	t.Helper()
	r := s.nudge(t, "serve")
	if r.status != status || r.stdout != "" {
		t.Errorf("status %d, want %d; stdout %q", r.status, status, r.stdout)
	}
	parts := regexp.MustCompile(`(?s)(?:^|\n)nudge: (\w+): (.*)\nhint: (.*)\n$`).FindStringSubmatch(r.stderr)
	if parts == nil || strings.Contains(parts[2], "\nnudge: ") {
		t.Fatalf("not one error with a hint:\n%s", r.stderr)
	}
	if parts[1] != code || !strings.Contains(parts[2], message) {
		t.Errorf("got %s: %s; want %s with %q", parts[1], parts[2], code, message)
	}
	return parts[3]
}

// mends runs a hint that is SQL: check then finds nothing wrong.
func (s *site) mends(t *testing.T, hint string) {
	t.Helper()
	if r := s.nudge(t, "check"); r.status != exitFailed {
		t.Errorf("check before: %+v", r)
	}
	execute(t, s.admin, hint)
	if r := s.nudge(t, "check"); r.status != exitOK {
		t.Errorf("check after %s: %+v", hint, r)
	}
}

// What serve can't work with ends it with one error, its code and what to do.
func TestServeRefuses(t *testing.T) {
	t.Run("a replica identity that doesn't name the owner", func(t *testing.T) {
		s := newSite(t, pgtest.Database(t))
		s.attach(t)
		execute(t, s.admin, "alter table intakes replica identity default")
		s.mends(t, s.refused(t, exitFailed, "check_replica_identity", "public.intakes"))
	})
	t.Run("a missing table", func(t *testing.T) {
		s := newSite(t, pgtest.Database(t), "public.intakes", "public.intake")
		s.refused(t, exitFailed, "check_table_missing", "did you mean public.intakes?")
	})
	t.Run("a missing column", func(t *testing.T) {
		s := newSite(t, pgtest.Database(t), "owner: user_id", "owner: userid")
		s.refused(t, exitFailed, "check_column_missing", "did you mean user_id?")
	})
	t.Run("no right to replicate", func(t *testing.T) {
		s := newSite(t, pgtest.Database(t))
		s.env = append(s.env, "NUDGE_SOURCE_DSN="+withUser(t, s.admin, "bad_input_feed", "hunter2"))
		s.attach(t)
		execute(t, s.admin, "alter role bad_input_feed noreplication")
		s.mends(t, s.refused(t, exitFailed, "check_replication_role", "bad_input_feed"))
		if r := s.nudge(t, "detach", "--apply"); r.status != exitOK {
			t.Errorf("detach: %+v", r)
		}
	})
	t.Run("a directory for large transactions that is not there", func(t *testing.T) {
		s := newSite(t, pgtest.Database(t))
		s.attach(t)
		s.env = append(s.env, "NUDGE_LIMITS_SPILL_DIR="+filepath.Join(t.TempDir(), "none"))
		s.refused(t, exitFailed, "spill_dir", "limits.spill_dir")
	})
	t.Run("wal_level", func(t *testing.T) {
		pg, err := devpg.Start(t.Context(), devpg.Options{Settings: map[string]string{"wal_level": "replica"}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = pg.Stop(context.Background()) })
		s := newSite(t, pg.DSN("postgres"))
		s.attach(t)
		hint := s.refused(t, exitFailed, "check_wal_level", "wal_level is replica")
		sql, _, _ := strings.Cut(hint, " --")
		execute(t, s.admin, sql)
		if err := pg.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
		if r := s.nudge(t, "check"); r.status != exitOK {
			t.Errorf("check after %s: %+v", hint, r)
		}
	})
	t.Run("a taken port", func(t *testing.T) {
		l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = l.Close() }()
		for _, which := range []string{"public", "admin"} {
			s := newSite(t, pgtest.Database(t), which+`: "127.0.0.1:0"`, which+`: "`+l.Addr().String()+`"`)
			s.refused(t, exitFailed, "listen_failed", "listen on listen."+which)
		}
	})
	t.Run("a database that is away", func(t *testing.T) {
		s := newSite(t, pgtest.Database(t))
		s.env = append(s.env, "NUDGE_SOURCE_DSN=postgres://nobody@127.0.0.1:1/app")
		s.refused(t, exitFailed, "check_connect", "connection refused")
	})
	t.Run("an unreadable configuration", func(t *testing.T) {
		s := newSite(t, pgtest.Database(t), "jwt.key", "gone.key")
		s.refused(t, exitUsage, "config_unreadable", "gone.key: no such file")
		s.yaml = filepath.Dir(s.yaml)
		s.refused(t, exitUsage, "config_unreadable", "is a directory")
	})
	t.Run("half a node", func(t *testing.T) {
		s := newSite(t, pgtest.Database(t), "listen:", "roles: [serve]\nlisten:")
		s.refused(t, exitUsage, "config_unsupported", "roles: a node without feed")
	})
}
