package main

import (
	"net/url"
	"strings"
	"testing"

	"github.com/nudgesync/nudge/internal/devpg/pgtest"
)

func TestAttachCheckDetachCommands(t *testing.T) {
	admin := pgtest.Database(t)
	execute(t, admin, "create table intakes (id int primary key, user_id int not null)")
	path := writeFile(t, t.TempDir(), "nudge.yaml", "tables: {public.intakes: {owner: user_id}}\n")
	u, err := url.Parse(admin)
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.UserPassword("attach_command_feed", "hunter2")
	env := []string{"NUDGE_SOURCE_DSN=" + u.String(), "NUDGE_ADMIN_DSN=" + admin}
	step := func(status int, stdout string, args ...string) result {
		t.Helper()
		r := nudge(t, env, append(args, "--config", path)...)
		if r.status != status || !strings.Contains(r.stdout, stdout) {
			t.Fatalf("%v: want %d and %q: %+v", args, status, stdout, r)
		}
		if strings.Contains(r.stdout+r.stderr, "hunter2") {
			t.Fatalf("%v shows the password: %+v", args, r)
		}
		return r
	}

	step(exitFailed, "wrong   check_connect: ", "check")
	step(exitOK, "create publication \"nudge\"", "attach")
	execute(t, admin, "create role attach_command_app login password 'hunter2'")
	weak := *u
	weak.User = url.UserPassword("attach_command_app", "hunter2")
	r := step(exitFailed, "create role", "attach", "--apply", "--admin-dsn", weak.String())
	if !strings.Contains(r.stderr, "nudge: attach_failed: ") || !strings.Contains(r.stderr, "hint: name whoever may") {
		t.Errorf("without the right to make roles: %s", r.stderr)
	}
	execute(t, admin, "drop role attach_command_app")
	step(exitOK, "create role", "attach") // printing has changed nothing
	step(exitOK, "-- done", "attach", "--apply")
	step(exitOK, "-- nothing to do", "attach")
	if r := step(exitOK, "ok      check_publication: ", "check"); strings.Contains(r.stdout, "wrong") {
		t.Errorf("%s", r.stdout)
	}
	execute(t, admin, "alter table intakes replica identity default")
	step(exitFailed, "alter table \"public\".\"intakes\" replica identity using index \"nudge_intakes_identity\";", "check")
	step(exitOK, "drop publication \"nudge\"", "detach")
	step(exitOK, "drop role \"attach_command_feed\"", "detach", "--apply")
	step(exitOK, "-- nothing to do", "detach")

	missing := writeFile(t, t.TempDir(), "nudge.yaml", "tables: {public.intake: {owner: user_id}}\n")
	r = nudge(t, env, "attach", "--config", missing)
	if r.status != exitFailed || !strings.Contains(r.stderr, "did you mean public.intakes?") || !strings.Contains(r.stderr, "nudge: attach_refused: ") {
		t.Errorf("a missing table: %+v", r)
	}
}
