package changefeed_test

import (
	"bytes"
	"context"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nudgesync/nudge/changefeed"
	"github.com/nudgesync/nudge/changefeed/change"
	"github.com/nudgesync/nudge/changefeed/changelog"
	"github.com/nudgesync/nudge/changefeed/route"
)

func often(c *changefeed.Config) { c.WatchEvery = 20 * time.Millisecond }

// waitFor waits until the log holds an entry.
func (r *rig) waitFor(op string) {
	r.t.Helper()
	r.eventually(op, func() bool {
		r.settle()
		return slices.Contains(ops(r.all()), op)
	})
}

// P23: what the watcher tells is signed, for its own transaction: made up, or copied, it does nothing.
func TestP23ForgedSchema(t *testing.T) {
	r := newRig(t)
	stop := r.start(often)
	r.settle()
	r.exec(`select pg_create_logical_replication_slot($1, 'pgoutput')`, r.slot+"_spy")
	r.exec(`alter table items add column mood text`)
	r.waitFor("r * public.items schema")
	// What it said, as whoever may read the WAL can have it.
	var wal []byte
	if err := r.db.QueryRow(t.Context(), `
select data from pg_logical_slot_peek_binary_changes($1, null, null, 'proto_version', '1', 'publication_names', 'nudge', 'messages', 'true')
 where position('nudge.schema' in encode(data, 'escape')) > 0`, r.slot+"_spy").Scan(&wal); err != nil {
		t.Fatal(err)
	}
	_, said, ok := bytes.Cut(wal, []byte("nudge.schema\x00"))
	if !ok || len(said) < 4 {
		t.Fatalf("no message in %q", wal)
	}
	r.exec(`alter table items drop column mood`) // so that the copy would be news
	r.eventually("the column is gone", func() bool {
		r.settle()
		return len(r.all()) == 2
	})
	stop()
	r.released()
	r.exec(`select pg_drop_replication_slot($1)`, r.slot+"_spy")
	forged := `{"table":"public.items","shape":{"oid":1,"columns":"x"}}`
	r.exec(`select pg_logical_emit_message(true, 'nudge.schema', $1::bytea)`, slices.Concat(make([]byte, 32), []byte(forged)))
	r.exec(`select pg_logical_emit_message(true, 'nudge.schema', '')`)
	r.exec(`select pg_logical_emit_message(true, 'nudge.schema', $1::bytea)`, said[4:]) // behind its length
	r.start(often)
	r.exec(`insert into items values (1, 1)`)
	r.settle()
	r.expect(`r * public.items schema`, `r * public.items schema`, `u user:1 {"id":1}`)
}

// P13: a writer that is open while its table joins the publication is waited for: what it wrote before never
// streams, and no snapshot sees it yet.
func TestP13JoinedWhileAWriterIsOpen(t *testing.T) {
	r := newRig(t)
	r.exec(`create table lines (id bigint primary key, user_id bigint); alter table lines replica identity full`)
	r.exec(`alter publication nudge add table lines`)
	r.start(func(c *changefeed.Config) {
		often(c)
		c.Routing = r.routing(map[string]route.Spec{"public.items": {Owner: "user_id"}, "public.lines": {Owner: "user_id"}})
	})
	r.settle()
	r.exec(`alter publication nudge drop table lines`)
	tx, err := r.db.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(t.Context())) }()
	var writer int64
	if err := tx.QueryRow(t.Context(), `insert into items values (1, 1) returning pg_current_xact_id()::text::bigint`).Scan(&writer); err != nil {
		t.Fatal(err)
	}
	r.exec(`alter publication nudge add table lines`)
	s := r.state("the table joined", func(s changelog.State) bool { return s.SnapshotFence > uint64(writer) })
	if want := "r * public.lines schema"; !slices.Contains(ops(r.all()), want) {
		t.Errorf("fence %d, and no %s in %v", s.SnapshotFence, want, ops(r.all()))
	}
}

// I3: what the watcher sees is a function of the WAL for whoever reads it: a feed that reads the same WAL later,
// when the catalog is another one, writes the same log.
func TestI03WatchedLogIsTheSame(t *testing.T) {
	r := newRig(t)
	r.exec(`create type mood as enum ('calm', 'sad'); create type place as (street text, number int)`)
	r.exec(`alter table items add mood mood, add home place`)
	elsewhere := newRig(t) // a database for the other log, which must share the key
	key, err := r.log.Key(t.Context(), "schema")
	if err != nil {
		t.Fatal(err)
	}
	elsewhere.exec(`insert into nudge.keys (name, value) values ('schema', $1)`, key)
	twin := *r
	twin.slot += "_twin"
	twin.log = changelog.Open(elsewhere.db, twin.slot)
	read := func(c *changefeed.Config) { c.Log = twin.log }
	stop := twin.start(read)
	twin.settle()
	stop()
	stop = r.start(often)
	r.settle()
	for _, sql := range []string{
		`insert into items values (1, 1, 1, 'x', 'calm', '(Elm Street,13)')`,
		`alter type place rename attribute street to road`,
		`insert into items values (2, 1, 1, 'x', 'sad', '(Elm Street,14)')`,
		`alter type mood rename value 'calm' to 'serene'`,
		`alter table items add column extra int default 7`,
		`update items set version = 2`,
		`create type size as enum ('s'); alter table items add size size`,
		`insert into items (id, user_id, size) values (3, 2, 's')`,
		`alter table items drop column home`,
		`update items set version = 3`,
		`begin; alter table items rename to old; create table items (id bigint primary key, user_id bigint, version int, body text);
		 alter table items replica identity full; alter publication nudge add table items; commit`,
		`insert into items values (9, 1)`,
	} {
		r.exec(sql)
		r.settle()
	}
	r.waitFor("r * public.items schema")
	r.state("everything is noticed", func(s changelog.State) bool {
		seen, err := route.Look(t.Context(), r.db, "nudge", []string{"public.items"})
		return err == nil && seen["public.items"].Shape.Encode() == s.Relations["public.items"]
	})
	end := r.settle().Position
	stop()
	// The twin sees nothing but the end's catalog.
	twin.start(read)
	twin.state("the same place", func(s changelog.State) bool { return s.Position >= end })
	logs := [2][]change.Change{r.all(), twin.all()}
	for _, log := range logs {
		for i := range log {
			log[i].Pos.Epoch = 0
		}
	}
	if diff := cmp.Diff(logs[0], logs[1]); diff != "" {
		t.Errorf("one feed (-), the other (+):\n%s", diff)
	}
	if got := ops(logs[0]); len(got) < 10 {
		t.Errorf("the log is %v", got)
	}
}
