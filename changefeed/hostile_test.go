package changefeed_test

import (
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/nudgesync/nudge/changefeed"
	"github.com/nudgesync/nudge/changefeed/changelog"
	"github.com/nudgesync/nudge/changefeed/route"
	"github.com/nudgesync/nudge/internal/devpg/pgtest"
	"github.com/nudgesync/nudge/migrations"
)

// Whatever an app writes, the feed goes on (P19). A value that no user can have owns nothing.
func TestP19NoOwnerStopsTheFeed(t *testing.T) {
	r := newRig(t)
	r.exec(`create table inbox (id bigint primary key, owner text);
		alter table inbox replica identity full; alter publication nudge add table inbox`)
	routing := r.routing(map[string]route.Spec{"public.inbox": {Owner: "owner"}})
	r.start(func(c *changefeed.Config) { c.Routing = routing })
	r.settle()
	r.exec(`insert into inbox values (1, 'me')`)
	// Too long for an index, and so for a scope.
	r.exec(`insert into inbox select 2, string_agg(md5(i::text), '') from generate_series(1, 200) i`)
	r.exec(`insert into inbox values (3, ''), (4, '*'), (5, repeat('é', 128)), (6, repeat('é', 127))`)
	r.exec(`update inbox set owner = 'me' where id = 2`)
	r.exec(`update inbox set owner = repeat('x', 300) where id = 1`)
	r.settle()
	r.expect(`u user:me {"id":1}`, `u user:* {"id":4}`, `u user:`+strings.Repeat("é", 127)+` {"id":6}`,
		`u user:me {"id":2}`, `d user:me {"id":1}`)
}

// P23: nor does a message, which anyone can emit.
func TestP23NoMessageStopsTheFeed(t *testing.T) {
	r := newRig(t)
	r.start(nil)
	r.settle()
	r.exec(`begin; select pg_logical_emit_message(true, 'nudge.origin', '\x610062'::bytea); insert into items values (1, 1); commit`)
	r.exec(`begin; select pg_logical_emit_message(true, 'nudge.origin', '\xfffe'::bytea); insert into items values (2, 1); commit`)
	r.settle()
	r.expect(`u user:1 {"id":1}`, `u user:1 {"id":2}`)
}

// P19: a value that JSON can't carry is logged as a tagged one, and its neighbours as ever.
func TestP19PoisonIsTagged(t *testing.T) {
	r := newRig(t)
	r.exec(`create table odd (id bigint primary key, user_id bigint, doc json);
		alter table odd replica identity full; alter publication nudge add table odd`)
	routing := r.routing(map[string]route.Spec{"public.odd": {Owner: "user_id"}})
	r.start(func(c *changefeed.Config) { c.Routing = routing })
	r.settle()
	r.exec(`insert into odd values (1, 1, '"\u0000"'), (2, 1, '"b"')`)
	r.settle()
	want := []string{`{"id":1,"user_id":1,"doc":{"$nudge":"unrepresentable","text":"\"\\u0000\""}}`, `{"id":2,"user_id":1,"doc":"b"}`}
	var got []string
	for _, c := range r.all() {
		got = append(got, string(c.Row))
	}
	if !slices.Equal(got, want) {
		t.Errorf("the log has %q, want %q", got, want)
	}
}

// P23: a message is bytes, and the log's encoding may lack what they say.
func TestP23NoMessageStopsTheFeedInLatin1(t *testing.T) {
	r := connectRig(t, latin1(t))
	r.exec(schema)
	r.exec(`create publication nudge for table items`)
	r.start(nil)
	r.settle()
	r.exec(`begin; select pg_logical_emit_message(true, 'nudge.origin', '\xe697a5'::bytea); insert into items values (1, 1); commit`)
	r.exec(`begin; select nudge.origin('Käse'); insert into items values (2, 1); commit`)
	r.settle()
	r.expect(`u user:1 {"id":1}`, `u user:1 {"id":2}`)
}

// P19: a log that lacks characters of the source is refused before it is written to.
func TestP19LogInAnotherEncodingIsRefused(t *testing.T) {
	r := newRig(t)
	r.log = changelog.Open(pgtest.Pool(t, latin1(t)), r.slot)
	var o told
	r.start(o.to)
	r.eventually("the log is refused", func() bool { return o.count("check_encoding") > 0 })
}

// latin1 makes a database in LATIN1, with nudge's tables, that goes with the test.
func latin1(t *testing.T) (dsn string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), pgtest.Database(t)) // for a connection, and for its name
	if err != nil {
		t.Fatal(err)
	}
	name := conn.Config().Database + "_latin1"
	exec := func(sql string) {
		t.Helper()
		if _, err := conn.Exec(context.WithoutCancel(t.Context()), sql); err != nil {
			t.Errorf("%s: %v", sql, err)
		}
	}
	exec(`create database ` + name + ` template template0 encoding 'LATIN1' lc_collate 'C' lc_ctype 'C'`)
	t.Cleanup(func() {
		// The walsender of a feed that was stopped ends a little later than the feed: wait for it.
		exec(`select pg_terminate_backend(active_pid, 10000) from pg_replication_slots where active and database = '` + name + `'`)
		exec(`select pg_drop_replication_slot(slot_name) from pg_replication_slots where database = '` + name + `'`)
		exec(`drop database ` + name + ` with (force)`)
		_ = conn.Close(context.WithoutCancel(t.Context()))
	})
	dsn = pgtest.Cluster(t).DSN(name)
	if _, err := migrations.Up(t.Context(), dsn); err != nil {
		t.Fatal(err)
	}
	return dsn
}
