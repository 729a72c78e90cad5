package attach_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"net/url"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/nudgesync/nudge/internal/devpg/pgtest"
	"github.com/nudgesync/nudge/server/attach"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// appSchema has a table for every way that a replica identity is chosen, and then some.
const appSchema = `
create table users (id bigint primary key, name text);
create table intakes (id uuid primary key, user_id bigint not null references users, note text);
create table "Odd ""name" ("Key" int, part text, "The Owner" int not null, primary key ("Key", part));
create table orphans (id int primary key, user_id bigint);
create table loud (id int primary key, user_id bigint not null);
alter table loud replica identity full;
create table mute (id int primary key, user_id bigint not null);
alter table mute replica identity nothing;
create table readings (id bigint, at date, user_id bigint not null, primary key (id, at)) partition by range (at);
create table readings_2024 partition of readings for values from ('2024-01-01') to ('2025-01-01') partition by range (at);
create table readings_2024a partition of readings_2024 for values from ('2024-01-01') to ('2024-07-01');
create table readings_2025 partition of readings for values from ('2025-01-01') to ('2026-01-01');
create table notes (id int primary key, user_id bigint) partition by list (id);
create table notes_1 partition of notes for values in (1);
create schema clinic;
create table clinic.visits (id int primary key, patient int not null, unique (patient, id));
alter table clinic.visits enable row level security;
create table unrelated (id int);
`

// site is a database with the app's schema, and a spec with roles of its own.
type site struct {
	dsn  string
	conn *pgx.Conn
	spec attach.Spec
}

func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{dsn: pgtest.Database(t)}
	s.conn = connect(t, s.dsn)
	s.exec(t, appSchema)
	suffix := strings.ToLower(rand.Text()[:8])
	s.spec = attach.Spec{
		Tables: []attach.TableSpec{
			{Name: "public.users", Owner: "id"},
			{Name: "public.intakes", Owner: "user_id", Columns: []string{"note"}},
			{Name: `public.Odd "name`, Owner: "The Owner"},
			{Name: "public.orphans", Owner: "user_id"},
			{Name: "public.loud", Owner: "user_id"},
			{Name: "public.mute", Owner: "user_id"},
			{Name: "public.readings", Owner: "user_id"},
			{Name: "public.notes", Owner: "user_id"},
			{Name: "clinic.visits", Owner: "patient"},
		},
		Slot: "nudge_" + suffix, Publication: "nudge",
		Feed:     attach.Role{Name: "feed_" + suffix, Password: `it's \ secret`},
		Snapshot: attach.Role{Name: "snapshot_" + suffix, Password: "also secret"},
	}
	t.Cleanup(func() {
		ctx := context.WithoutCancel(t.Context())
		for _, r := range []string{s.spec.Feed.Name, s.spec.Snapshot.Name} {
			var exists bool
			if err := s.conn.QueryRow(ctx, "select exists (select from pg_roles where rolname = $1)", r).Scan(&exists); err != nil {
				t.Error(err)
			}
			if !exists {
				continue
			}
			if _, err := s.conn.Exec(ctx, "drop owned by "+r+"; drop role "+r); err != nil {
				t.Error(err)
			}
		}
		_ = s.conn.Close(ctx)
	})
	return s
}

func connect(t *testing.T, dsn string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.WithoutCancel(t.Context())) })
	return conn
}

func (s *site) exec(t *testing.T, sql string) {
	t.Helper()
	if _, err := s.conn.Exec(t.Context(), sql); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

func (s *site) plan(t *testing.T) []attach.Statement {
	t.Helper()
	plan, err := attach.Plan(t.Context(), s.conn, s.spec)
	if err != nil {
		t.Fatal(err)
	}
	return plan
}

// attach runs the plan and returns what was printed.
func (s *site) attach(t *testing.T) string {
	t.Helper()
	var out bytes.Buffer
	if err := attach.Apply(t.Context(), s.conn, s.plan(t), &out); err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	return out.String()
}

func (s *site) detach(t *testing.T) []string {
	t.Helper()
	plan, left, err := attach.PlanDetach(t.Context(), s.conn, s.spec)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := attach.Apply(t.Context(), s.conn, plan, &out); err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	return left
}

// as is the DSN of one of the spec's roles.
func (s *site) as(t *testing.T, r attach.Role) string {
	t.Helper()
	u, err := url.Parse(s.dsn)
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.UserPassword(r.Name, r.Password)
	return u.String()
}

func (s *site) check(t *testing.T) []attach.Finding {
	t.Helper()
	return attach.Check(t.Context(), attach.DSNs{Source: s.as(t, s.spec.Feed), Snapshot: s.as(t, s.spec.Snapshot)}, s.spec)
}

func wrong(findings []attach.Finding) []attach.Finding {
	return slices.DeleteFunc(slices.Clone(findings), func(f attach.Finding) bool { return !f.Wrong() })
}

// tool runs one of Postgres's programs on the database.
func (s *site) tool(t *testing.T, stdin, name string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), filepath.Join(pgtest.Cluster(t).Bin(), name), append(args, s.dsn)...)
	cmd.Stdin = strings.NewReader(stdin)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v: %s\n%s", name, err, stderr.String(), stdin)
	}
	return string(out)
}

func TestAttachCheckDetach(t *testing.T) {
	s := newSite(t)
	before := s.schema(t)
	printed := s.attach(t)
	for _, password := range []string{s.spec.Feed.Password, s.spec.Snapshot.Password, "SCRAM-SHA-256"} {
		if strings.Contains(printed, password) {
			t.Errorf("%q was printed", password)
		}
	}
	if again := s.plan(t); len(again) != 0 {
		t.Errorf("planned again: %+v", again)
	}
	for _, f := range wrong(s.check(t)) {
		t.Errorf("wrong after attach: %+v", f)
	}
	stream(t, s)
	if left := s.detach(t); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
	if d := cmp.Diff(before, s.schema(t)); d != "" {
		t.Errorf("detach leaves a difference: %s", d)
	}
	s.exec(t, "update users set name = 'x'; delete from readings; update intakes set note = ''; delete from clinic.visits")
}

// stream starts replication as the feed's role and leaves it running: detach has to cope.
func stream(t *testing.T, s *site) {
	t.Helper()
	repl, err := pgconn.Connect(t.Context(), s.as(t, s.spec.Feed)+"&replication=database")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = repl.Close(context.WithoutCancel(t.Context())) })
	if _, err := pglogrepl.CreateReplicationSlot(t.Context(), repl, s.spec.Slot, "pgoutput", pglogrepl.CreateReplicationSlotOptions{}); err != nil {
		t.Fatal(err)
	}
	err = pglogrepl.StartReplication(t.Context(), repl, s.spec.Slot, 0, pglogrepl.StartReplicationOptions{
		PluginArgs: []string{"proto_version '1'", "publication_names '" + s.spec.Publication + "'"},
	})
	if err != nil {
		t.Fatal(err)
	}
}

// What is printed must do the same as what is applied.
func TestPrintedScriptIsThePlan(t *testing.T) {
	s := newSite(t)
	var script bytes.Buffer
	if err := attach.Print(&script, s.plan(t)); err != nil {
		t.Fatal(err)
	}
	// psql asks for the password on the terminal; there is none.
	text := strings.NewReplacer(`\password`, `-- \password`).Replace(script.String())
	s.tool(t, text, "psql", "-X", "-q", "-v", "ON_ERROR_STOP=1")
	printed := s.schema(t)
	if again := s.plan(t); len(again) != 0 {
		t.Errorf("planned again: %+v", again)
	}
	plan, _, err := attach.PlanDetach(t.Context(), s.conn, s.spec)
	if err != nil {
		t.Fatal(err)
	}
	script.Reset()
	if err := attach.Print(&script, plan); err != nil {
		t.Fatal(err)
	}
	s.tool(t, script.String(), "psql", "-X", "-q", "-v", "ON_ERROR_STOP=1")
	s.attach(t)
	if d := cmp.Diff(printed, s.schema(t)); d != "" {
		t.Errorf("printed and applied differ: %s", d)
	}
}

func TestRolesMayDoTheirWorkAndNoMore(t *testing.T) {
	s := newSite(t)
	s.exec(t, "insert into clinic.visits values (1, 1)")
	s.attach(t)
	feed, snapshot := connect(t, s.as(t, s.spec.Feed)), connect(t, s.as(t, s.spec.Snapshot))
	const row = `(segment, lsn, seq, scope, tbl, op, committed_at) values (1, 1, 1, 'user:1', 't', 'd', 0)`
	for _, c := range []struct {
		who  *pgx.Conn
		sql  string
		want string // SQLSTATE; "" if it may
	}{
		{feed, "select nudge.segment_open(1, 1, 1)", ""},
		{feed, "insert into nudge.changes " + row, ""},
		{feed, "insert into nudge.changes_1 " + row, ""},
		{feed, "select 1 from nudge.changes_1 where ctid >= '(0,0)'", ""},
		{feed, `insert into nudge.feed (slot, epoch, position, horizon, segment, system_id, timeline, database, config_hash, config, epoch_reason)
		        values ('s', 1, 1, 1, 1, '', 1, '', 1, '{}', '')`, ""},
		{feed, "update nudge.feed set position = 2", ""},
		{feed, "select * from nudge.feed for update", ""},
		{feed, "insert into nudge.keys values ('k', '') on conflict (name) do update set value = ''", ""},
		{feed, "select * from nudge.migrations", ""},
		{feed, "select nudge.origin('d')", ""},
		{feed, "update nudge.changes set seq = 2", "42501"},
		{feed, "delete from nudge.changes", "42501"},
		{feed, "drop table nudge.changes", "42501"},
		{feed, "select * from users", "42501"},
		{feed, "insert into users values (1)", "42501"},
		{snapshot, "select * from users, intakes, readings, notes, loud", ""},
		{snapshot, "select 1 / (select count(*) from clinic.visits)", ""}, // row security hides nothing
		{snapshot, "select * from nudge.changes", ""},
		{snapshot, "select * from nudge.changes_1", ""},
		{snapshot, "select * from nudge.feed", ""},
		{feed, "insert into nudge.settings values ('s', '') on conflict (name) do update set value = ''", ""},
		{feed, "delete from nudge.settings", ""},
		{feed, `insert into nudge.devices (device, user_id, road, app, environment, app_version, registered_at)
		        values ('d', 'u', 'none', '', '', '', now()) on conflict (device) do update set app = ''`, ""},
		{feed, "insert into nudge.due (device, user_id, road, app, environment) values ('d', 'u', 'fcm', 'app', '')", ""},
		{feed, "do $$ begin lock table nudge.marking in row exclusive mode; end $$", ""},
		{feed, "do $$ begin lock table nudge.marking in share row exclusive mode; end $$", ""},
		{feed, "insert into nudge.marking (slot, epoch, lsn) values ('s', 1, 1)", ""},
		{feed, "update nudge.marking set lsn = 2", ""},
		{feed, "insert into nudge.wakes (nudge, device, user_id, road, epoch, lsn, seq, status, sent_at) values ('n', 'd', 'u', '', 1, 1, 1, '', now())", ""},
		{feed, "delete from nudge.wakes", ""},
		{feed, "delete from nudge.devices", ""}, // and what hangs on it
		{snapshot, "select * from nudge.devices", "42501"},
		{snapshot, "select * from nudge.due", "42501"},
		{snapshot, "select * from nudge.wakes", "42501"},
		{snapshot, "select * from nudge.keys", "42501"},
		{snapshot, "select * from nudge.settings", "42501"},
		{snapshot, "select * from unrelated", "42501"},
		{snapshot, "update users set name = ''", "42501"},
		{snapshot, "insert into nudge.changes " + row, "42501"},
		{feed, "select nudge.segment_drop(1)", ""},
		{snapshot, "select nudge.segment_drop(1)", "42501"},
	} {
		_, err := c.who.Exec(t.Context(), c.sql)
		got := ""
		if pg := new(pgconn.PgError); err != nil {
			got = err.Error()
			if asPg(err, &pg) {
				got = pg.Code
			}
		}
		if got != c.want {
			t.Errorf("%s: %s: got %q, want %q", c.who.Config().User, c.sql, got, c.want)
		}
	}
	var stored string
	if err := s.conn.QueryRow(t.Context(), "select rolpassword from pg_authid where rolname = $1", s.spec.Feed.Name).Scan(&stored); err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(stored, "SCRAM-SHA-256$4096:") {
		t.Errorf("stored %q", stored)
	}
}

// A new migration must say who may do what on its tables.
func TestEveryTableOfNudgeIsGranted(t *testing.T) {
	s := newSite(t)
	s.attach(t)
	rows, _ := s.conn.Query(t.Context(), `select relname::text from pg_class c
		where relnamespace = 'nudge'::regnamespace and relkind in ('r', 'p') and not relispartition
		  and not has_table_privilege($1::name, c.oid, 'select')`, s.spec.Feed.Name)
	forgotten, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil || len(forgotten) != 0 {
		t.Errorf("no rights on %v, %v", forgotten, err)
	}
}
