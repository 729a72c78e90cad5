package attach_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/nudgesync/nudge/internal/devpg"
	"github.com/nudgesync/nudge/internal/devpg/pgtest"
	"github.com/nudgesync/nudge/server/attach"
)

func (s *site) version(t *testing.T) (n int) {
	t.Helper()
	if err := s.conn.QueryRow(t.Context(), "select current_setting('server_version_num')::int").Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

// P17: a row filter, and a list of columns without those that say whose row it is, are found and mended. The
// columns that the list keeps from us stay out of it.
func TestP17FiltersAndColumnLists(t *testing.T) {
	s := newSite(t)
	s.attach(t)
	for _, c := range []struct{ member, now string }{
		{"users where (id > 0)", ""},
		{"clinic.visits (id)", "{id,patient}"},
		{"loud (id)", ""}, // its replica identity is full: Postgres takes no list with that
	} {
		table, _, _ := strings.Cut(c.member, " ")
		s.exec(t, "alter publication nudge drop table "+table)
		sql := "alter publication nudge add table " + c.member
		if s.version(t) < 150000 {
			if _, err := s.conn.Exec(t.Context(), sql); err == nil {
				t.Errorf("%s: there was no such thing before 15", sql)
			}
			s.exec(t, "alter publication nudge add table "+table)
			continue
		}
		s.exec(t, sql)
		f, found := find(wrong(s.check(t)), attach.CodePublication, "nudge")
		if !found {
			t.Fatalf("%s: %+v", c.member, wrong(s.check(t)))
		}
		s.tool(t, f.Fix, "psql", "-X", "-q", "-v", "ON_ERROR_STOP=1")
		if bad := wrong(s.check(t)); len(bad) != 0 {
			t.Errorf("%s: still wrong after %s: %+v", c.member, f.Fix, bad)
		}
		var columns string
		if err := s.conn.QueryRow(t.Context(), `
			select coalesce((select array_agg(a.attname order by a.attnum)::text from pg_attribute a
			                  where a.attrelid = r.prrelid and a.attnum = any(r.prattrs::int2[])), '')
			  from pg_publication_rel r where r.prrelid = $1::text::regclass`, table).Scan(&columns); err != nil {
			t.Fatal(err)
		}
		if columns != c.now {
			t.Errorf("%s: the list is now %s", c.member, columns)
		}
	}
	s.exec(t, "update users set name = 'x'; update loud set user_id = 1; update clinic.visits set patient = 1")
}

// P25: whoever may replicate reads everything, whatever SELECT and row security say. So the feed's role has
// that and no SELECT, and the role that reads rows can't replicate.
func TestP25RolesAreApart(t *testing.T) {
	s := newSite(t)
	s.exec(t, "create policy nobody on clinic.visits using (false)")
	s.attach(t)
	feed, snapshot := connect(t, s.as(t, s.spec.Feed)), connect(t, s.as(t, s.spec.Snapshot))
	if _, err := feed.Exec(t.Context(), "select pg_create_logical_replication_slot($1, 'pgoutput')", s.spec.Slot); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_, _ = s.conn.Exec(context.WithoutCancel(t.Context()), "select pg_drop_replication_slot($1)", s.spec.Slot)
	})
	s.exec(t, "insert into clinic.visits values (7, 1234567)")
	var streamed bool
	if err := feed.QueryRow(t.Context(), `
		select bool_or(position('1234567'::bytea in data) > 0)
		  from pg_logical_slot_peek_binary_changes($1, null, null, 'proto_version', '1', 'publication_names', 'nudge')`, s.spec.Slot).Scan(&streamed); err != nil || !streamed {
		t.Errorf("the feed does not see the row: %v", err)
	}
	var pg *pgconn.PgError
	if _, err := feed.Exec(t.Context(), "select from clinic.visits"); !asPg(err, &pg) || pg.Code != "42501" {
		t.Errorf("the feed may read rows: %v", err)
	}
	var n int
	if err := snapshot.QueryRow(t.Context(), "select count(*) from clinic.visits").Scan(&n); err != nil || n != 1 {
		t.Errorf("row security hides %d rows from snapshots, %v", 1-n, err)
	}
	if conn, err := pgconn.Connect(t.Context(), s.as(t, s.spec.Snapshot)+"&replication=database"); err == nil {
		_ = conn.Close(t.Context())
		t.Error("the role that reads rows may replicate")
	}
	var feedBypasses bool
	if err := s.conn.QueryRow(t.Context(), "select rolbypassrls from pg_roles where rolname = $1", s.spec.Feed.Name).Scan(&feedBypasses); err != nil || feedBypasses {
		t.Errorf("the feed bypasses row security: %v, %v", feedBypasses, err)
	}
}

// P26: what is missing is said in the provider's own words. A provider is known by the role that it leaves in
// every cluster.
func TestP26ProvidersWords(t *testing.T) {
	c, err := devpg.Start(t.Context(), devpg.Options{Settings: map[string]string{"wal_level": "replica", "max_replication_slots": "0"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Stop(context.WithoutCancel(t.Context())) })
	conn := connect(t, c.DSN("postgres"))
	me := attach.Role{Name: devpg.Superuser}
	spec := attach.Spec{Slot: "nudge", Publication: "nudge", Feed: me, Snapshot: me}
	for _, p := range []struct{ role, level, slots string }{
		{"rds_superuser", "rds.logical_replication = 1", "parameter group"},
		{"cloudsqlsuperuser", "cloudsql.logical_decoding=on", "--database-flags=max_replication_slots"},
		{"azure_pg_admin", "server parameter wal_level", "server parameter max_replication_slots"},
		{"neon_superuser", "enable Logical Replication", "server parameter max_replication_slots"},
		{"postgres", "alter system set wal_level", "alter system set max_replication_slots"}, // nobody's but its own
	} {
		if p.role != "postgres" {
			if _, err := conn.Exec(t.Context(), "create role "+p.role); err != nil {
				t.Fatal(err)
			}
		}
		findings := attach.Check(t.Context(), attach.DSNs{Source: c.DSN("postgres"), Snapshot: c.DSN("postgres")}, spec)
		for code, want := range map[string]string{attach.CodeWALLevel: p.level, attach.CodeMaxSlots: p.slots} {
			if f, found := find(wrong(findings), code, ""); !found || !strings.Contains(f.Fix, want) {
				t.Errorf("%s: want %q: %+v", p.role, want, f)
			}
		}
		if p.role != "postgres" {
			if _, err := conn.Exec(t.Context(), "drop role "+p.role); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// P26: a pooler passes no replication connection. It is refused with a hint at what to connect to.
func TestP26PoolerIsRefused(t *testing.T) {
	s := newSite(t)
	s.attach(t)
	u, err := url.Parse(s.as(t, s.spec.Feed))
	if err != nil {
		t.Fatal(err)
	}
	u.Host = pooler(t, u.Host)
	findings := attach.Check(t.Context(), attach.DSNs{Source: u.String(), Snapshot: s.as(t, s.spec.Snapshot)}, s.spec)
	f, found := find(wrong(findings), attach.CodeReplicationRole, "")
	if !found || !strings.Contains(f.Fix, "pooler") {
		t.Errorf("%+v", findings)
	}
}

// pooler is a way to the server that refuses replication connections as PgBouncer does, and passes all else on.
func pooler(t *testing.T, server string) string {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	t.Cleanup(func() { _ = l.Close(); wg.Wait() })
	wg.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { pass(client, server) })
		}
	})
	return l.Addr().String()
}

func pass(client net.Conn, server string) {
	defer func() { _ = client.Close() }()
	m, err := pgproto3.NewBackend(client, client).ReceiveStartupMessage()
	startup, ok := m.(*pgproto3.StartupMessage)
	if err != nil || !ok {
		return
	}
	if startup.Parameters["replication"] != "" {
		refusal, _ := (&pgproto3.ErrorResponse{Severity: "FATAL", Code: "08P01", Message: "unsupported startup parameter: replication"}).Encode(nil)
		_, _ = client.Write(refusal)
		return
	}
	up, err := (&net.Dialer{}).Dial("tcp", server)
	if err != nil {
		return
	}
	defer func() { _ = up.Close() }()
	packet, err := startup.Encode(nil)
	if err != nil {
		return
	}
	if _, err := up.Write(packet); err != nil {
		return
	}
	var wg sync.WaitGroup
	wg.Go(func() { _, _ = io.Copy(up, client); _ = up.Close() })
	_, _ = io.Copy(client, up)
	_ = client.Close()
	wg.Wait()
}

// A2: a slot that standbys have copies of needs them to be ahead of it, from 17 on.
func TestA02StandbySlots(t *testing.T) {
	s := newSite(t)
	s.attach(t)
	advised := func() (attach.Finding, bool) {
		t.Helper()
		findings := s.check(t)
		i := slices.IndexFunc(findings, func(f attach.Finding) bool { return f.Code == attach.CodeStandbySlots })
		if i < 0 {
			return attach.Finding{}, false
		}
		return findings[i], true
	}
	standby := "standby_" + s.spec.Slot
	s.exec(t, "select pg_create_physical_replication_slot('"+standby+"')")
	t.Cleanup(func() {
		for _, slot := range []string{standby, s.spec.Slot} {
			_, err := s.conn.Exec(context.WithoutCancel(t.Context()), "select pg_drop_replication_slot($1)", slot)
			if pg := new(pgconn.PgError); err != nil && (!errors.As(err, &pg) || pg.Code != "42704") {
				t.Error(err)
			}
		}
	})
	if s.version(t) < 170000 {
		s.exec(t, "select pg_create_logical_replication_slot('"+s.spec.Slot+"', 'pgoutput')")
		if f, found := advised(); found {
			t.Errorf("advice that the server can't follow: %+v", f)
		}
		return
	}
	s.exec(t, "select pg_create_logical_replication_slot('"+s.spec.Slot+"', 'pgoutput', failover => true)")
	f, found := advised()
	if !found || !f.Advice || !strings.Contains(f.Fix, standby) {
		t.Fatalf("%+v", f)
	}
	sql, _, _ := strings.Cut(f.Fix, " --")
	admin, err := pgx.Connect(t.Context(), pgtest.Cluster(t).DSN("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = admin.Close(context.WithoutCancel(t.Context())) }()
	run := func(sql string) {
		t.Helper()
		if _, err := admin.Exec(context.WithoutCancel(t.Context()), sql); err != nil {
			t.Fatal(err)
		}
	}
	run(sql)
	run("select pg_reload_conf()")
	defer func() {
		run("alter system reset synchronized_standby_slots")
		run("select pg_reload_conf()")
	}()
	for deadline := time.Now().Add(30 * time.Second); found; _, found = advised() { // a reload takes a moment
		if time.Now().After(deadline) {
			t.Fatal("advised though it is followed")
		}
	}
}
