package attach_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/nudgesync/nudge/internal/devpg"
	"github.com/nudgesync/nudge/internal/devpg/pgtest"
	"github.com/nudgesync/nudge/server/attach"
)

func asPg(err error, pg **pgconn.PgError) bool { return errors.As(err, pg) }

// find returns the finding of a code about a subject.
func find(findings []attach.Finding, code, subject string) (attach.Finding, bool) {
	i := slices.IndexFunc(findings, func(f attach.Finding) bool {
		return f.Code == code && (subject == "" || f.Subject == subject) && !f.Advice
	})
	if i < 0 {
		return attach.Finding{}, false
	}
	return findings[i], true
}

// Each way of breaking an attached database is found, and its fix, run by psql, repairs it.
func TestEveryFixRepairs(t *testing.T) {
	s := newSite(t)
	names := strings.NewReplacer("%feed", s.spec.Feed.Name, "%snapshot", s.spec.Snapshot.Name, "%slot", s.spec.Slot)
	for _, c := range []struct {
		name, breakIt, code, subject string
	}{
		{"identity nothing", "alter table users replica identity nothing", attach.CodeReplicaIdentity, "public.users"},
		{"identity lost", "alter table intakes replica identity default", attach.CodeReplicaIdentity, "public.intakes"},
		{"a new partition", "create table readings_2026 partition of readings for values from ('2026-01-01') to ('2027-01-01')", attach.CodeReplicaIdentity, "public.readings"},
		{"a new partition of a nullable owner", "create table notes_2 partition of notes for values in (2)", attach.CodeReplicaIdentity, "public.notes"},
		{"an index dropped", "alter table intakes replica identity default; drop index nudge_intakes_identity", attach.CodeReplicaIdentity, "public.intakes"},
		{"no publication", "drop publication nudge", attach.CodePublication, "nudge"},
		{"a table not published", "alter publication nudge drop table intakes", attach.CodePublication, "nudge"},
		{"a table too many", "alter publication nudge add table unrelated", attach.CodePublication, "nudge"},
		{"deletes not published", "alter publication nudge set (publish = 'insert, update')", attach.CodePublication, "nudge"},
		{"not by the root", "alter publication nudge set (publish_via_partition_root = false)", attach.CodePublication, "nudge"},
		{"all tables", "drop publication nudge; create publication nudge for all tables", attach.CodePublication, "nudge"},
		{"no REPLICATION", "alter role %feed noreplication", attach.CodeReplicationRole, "%feed"},
		{"no right to insert", "revoke insert on nudge.changes from %feed", attach.CodeGrants, "%feed"},
		{"no right to execute", "revoke execute on function nudge.segment_open from %feed", attach.CodeGrants, "%feed"},
		{"no right to select", "revoke select on intakes from %snapshot", attach.CodeGrants, "%snapshot"},
		{"no right to a schema", "revoke usage on schema clinic from %snapshot", attach.CodeGrants, "%snapshot"},
		{"rows hidden", "alter role %snapshot nobypassrls", attach.CodeGrants, "%snapshot"},
		{"no tables of nudge", "drop schema nudge cascade", attach.CodeMigrations, "nudge"},
		{"no primary key", "alter table orphans drop constraint orphans_pkey", attach.CodePrimaryKey, "public.orphans"},
		{"no primary key but an index", "alter table orphans drop constraint orphans_pkey; create unique index orphans_id on orphans (id)", attach.CodePrimaryKey, "public.orphans"},
		{"a deferrable key", "alter table loud drop constraint loud_pkey, add constraint loud_pkey primary key (id) deferrable", attach.CodePrimaryKey, "public.loud"},
		{"somebody's slot", "select pg_create_logical_replication_slot('%slot', 'test_decoding')", attach.CodeSlot, "%slot"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s.attach(t) // the first time, and what depended on the thing broken before
			if bad := wrong(s.check(t)); len(bad) != 0 {
				t.Fatalf("wrong from the start: %+v", bad)
			}
			s.exec(t, names.Replace(c.breakIt))
			f, found := find(wrong(s.check(t)), c.code, names.Replace(c.subject))
			if !found || f.Fix == "" {
				t.Fatalf("not found among %+v", wrong(s.check(t)))
			}
			fix := f.Fix
			if _, sql, ok := strings.Cut(fix, "or, if nobody reads it: "); ok {
				fix = sql
			}
			s.tool(t, fix, "psql", "-X", "-q", "-v", "ON_ERROR_STOP=1")
			if f, found := find(wrong(s.check(t)), c.code, names.Replace(c.subject)); found {
				t.Errorf("still wrong after %s: %+v", fix, f)
			}
		})
	}
}

func TestRefusals(t *testing.T) {
	for _, c := range []struct {
		name  string
		setup string
		table attach.TableSpec
		code  string
		says  string
	}{
		{"a missing table", "", attach.TableSpec{Name: "public.intake", Owner: "user_id"}, attach.CodeTableMissing, "did you mean public.intakes?"},
		{"another schema", "", attach.TableSpec{Name: "public.visits", Owner: "patient"}, attach.CodeTableMissing, "did you mean clinic.visits?"},
		{"nothing alike", "", attach.TableSpec{Name: "public.zebra", Owner: "id"}, attach.CodeTableMissing, "there is no table public.zebra"},
		{"a missing owner", "", attach.TableSpec{Name: "public.intakes", Owner: "userid"}, attach.CodeColumnMissing, "did you mean user_id?"},
		{"a missing column", "", attach.TableSpec{Name: "public.intakes", Owner: "user_id", Columns: []string{"notes"}}, attach.CodeColumnMissing, "did you mean note?"},
		{"a view", "create view seen as select * from intakes", attach.TableSpec{Name: "public.seen", Owner: "user_id"}, attach.CodeTableKind, "is a view"},
		{"an unlogged table", "create unlogged table quick (id int primary key)", attach.TableSpec{Name: "public.quick", Owner: "id"}, attach.CodeTableKind, "is unlogged"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newSite(t)
			s.exec(t, c.setup)
			s.spec.Tables = []attach.TableSpec{c.table}
			_, err := attach.Plan(t.Context(), s.conn, s.spec)
			var refused *attach.RefusedError
			if !errors.As(err, &refused) || len(refused.Findings) != 1 {
				t.Fatalf("got %v", err)
			}
			f := refused.Findings[0]
			if f.Code != c.code || !strings.Contains(f.Message, c.says) || f.Fix == "" {
				t.Errorf("got %+v", f)
			}
			checked := attach.Check(t.Context(), attach.DSNs{Source: s.dsn, Snapshot: s.dsn}, s.spec)
			if _, found := find(wrong(checked), c.code, f.Subject); !found {
				t.Errorf("check does not say so: %+v", checked)
			}
		})
	}
}

// Settings that only a restart changes take a cluster of their own.
func TestServerSettings(t *testing.T) {
	c, err := devpg.Start(t.Context(), devpg.Options{Settings: map[string]string{
		"wal_level": "replica", "max_replication_slots": "1", "synchronous_commit": "off",
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Stop(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	})
	dsn := c.DSN("postgres")
	run := func(sql string) {
		t.Helper()
		conn, err := pgx.Connect(t.Context(), dsn)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = conn.Close(t.Context()) }()
		if _, err := conn.Exec(t.Context(), sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	run("select pg_create_physical_replication_slot('taken')")
	me := attach.Role{Name: devpg.Superuser}
	spec := attach.Spec{Slot: "nudge", Publication: "nudge", Feed: me, Snapshot: me}
	check := func() []attach.Finding {
		return attach.Check(t.Context(), attach.DSNs{Source: dsn, Snapshot: dsn}, spec)
	}
	codes := []string{attach.CodeWALLevel, attach.CodeMaxSlots}
	findings := check()
	for _, code := range codes {
		f, found := find(wrong(findings), code, "")
		if !found {
			t.Fatalf("no %s among %+v", code, findings)
		}
		sql, _, _ := strings.Cut(f.Fix, " --")
		run(sql)
	}
	i := slices.IndexFunc(findings, func(f attach.Finding) bool { return f.Code == attach.CodeSynchronousCommit })
	if i < 0 || !findings[i].Advice || findings[i].Wrong() {
		t.Errorf("synchronous_commit = off: %+v", findings)
	}
	if err := c.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	findings = check()
	for _, code := range codes {
		if f, found := find(findings, code, ""); !found || !f.OK {
			t.Errorf("after the fix and a restart: %+v", f)
		}
	}
	// A superuser needs no role and no grant.
	for _, code := range []string{attach.CodeRole, attach.CodeReplicationRole, attach.CodeGrants} {
		if f, _ := find(findings, code, ""); !f.OK {
			t.Errorf("superuser: %+v", f)
		}
	}
}

func TestCheckWithoutAServer(t *testing.T) {
	findings := attach.Check(t.Context(), attach.DSNs{Source: "postgres://me:hush@127.0.0.1:1/x"}, attach.Spec{Feed: attach.Role{Name: "me"}})
	if len(findings) != 1 || findings[0].Code != attach.CodeConnect || !findings[0].Wrong() || findings[0].Fix == "" {
		t.Errorf("got %+v", findings)
	}
	if strings.Contains(findings[0].Message, "hush") {
		t.Error("the password is shown")
	}
}

// P19: a log elsewhere must be able to hold the source's text.
func TestP19LogEncoding(t *testing.T) {
	s := newSite(t)
	s.attach(t)
	s.spec.LogElsewhere = true
	for encoding, ok := range map[string]bool{"UTF8": true, "LATIN1": false} {
		name := s.conn.Config().Database + "_" + strings.ToLower(encoding)
		s.exec(t, "create database "+name+" template template0 lc_collate 'C' lc_ctype 'C' encoding '"+encoding+"'")
		t.Cleanup(func() {
			if _, err := s.conn.Exec(context.WithoutCancel(t.Context()), "drop database "+name+" with (force)"); err != nil {
				t.Error(err)
			}
		})
		findings := attach.Check(t.Context(), attach.DSNs{Source: s.dsn, Snapshot: s.dsn, Log: pgtest.Cluster(t).DSN(name)}, s.spec)
		f, found := find(findings, attach.CodeEncoding, "log.dsn")
		if !found || f.OK != ok || f.Wrong() == ok {
			t.Errorf("%s: %+v", encoding, f)
		}
	}
}
