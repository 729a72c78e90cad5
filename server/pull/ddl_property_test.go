package pull_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// ddlSchema is a plain table and a partitioned one, whose columns, types and partitions change all the time.
const ddlSchema = `
create type mood as enum ('mood 0', 'sad');
create type place as (street text, number int);
create table notes (id bigint primary key, user_id bigint, mood mood default 'sad', home place default '(Elm Street,13)', body text);
alter table notes replica identity full;
create table visits (id bigint primary key, user_id bigint, body text) partition by range (id);
alter table visits replica identity full;
create table part_0 partition of visits for values from (0) to (20);
create table part_1 partition of visits for values from (20) to (40);
alter table part_0 replica identity full; alter table part_1 replica identity full;`

// TestPropertyDDL changes tables at random beside random writes, while devices pull and the node is replaced:
// in the end every device holds what the tables do, and is told nothing more.
func TestPropertyDDL(t *testing.T) {
	rounds, length := 1, 8*time.Second
	if os.Getenv("NUDGE_LONG") != "" {
		rounds, length = 10, 30*time.Second
	}
	for range rounds {
		seed := rand.Uint64()
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) { propertyDDL(t, seed, length) })
	}
}

func propertyDDL(t *testing.T, seed uint64, length time.Duration) {
	r := newRig(t, ddlSchema, "public.notes", "public.visits")
	r.exec(`alter publication nudge set (publish_via_partition_root = true)`)
	w := &world{rig: r, sources: map[string]int{}, ops: map[string]int{}}
	r.stop()
	r.watchEvery, r.tailBytes, r.patience = 50*time.Millisecond, 24<<10, 100*time.Millisecond
	r.start(nil)

	over, cancel := context.WithTimeout(t.Context(), length)
	defer cancel()
	var all sync.WaitGroup
	for i := range 2 {
		all.Go(func() { w.scribble(over, rand.New(rand.NewPCG(seed, uint64(i)))) })
	}
	devices := make([]*device, 4)
	for i := range devices {
		devices[i] = r.device(fmt.Sprint(1 + i%3))
		random := rand.New(rand.NewPCG(seed, 100+uint64(i)))
		all.Go(func() {
			for over.Err() == nil && !t.Failed() {
				w.pull(devices[i], 1+random.IntN(7))
			}
		})
	}
	all.Go(func() { w.remodel(over, rand.New(rand.NewPCG(seed, 200))) })
	all.Wait()
	r.noticed()
	for _, d := range devices {
		d.converge("public.notes", "public.visits")
		if d.sync(); len(d.ops) > 0 {
			t.Errorf("user %s is told more: %v", d.user, d.ops)
		}
	}
	t.Logf("%d writes, pages by source %v, ops %v, changes %s", w.commits.Load(), w.sources, w.ops, strings.Join(w.troubles, "; "))
}

// try runs a statement that may fail: on a table or column that is not there just now, or on a lock.
func try(ctx context.Context, conn *pgx.Conn, sql string) bool {
	_, err := conn.Exec(ctx, sql)
	if err != nil {
		_, _ = conn.Exec(ctx, "rollback")
	}
	return err == nil
}

// scribble writes rows.
func (w *world) scribble(over context.Context, random *rand.Rand) {
	conn, err := pgx.Connect(w.rig.t.Context(), w.rig.dsn)
	if err != nil {
		w.rig.t.Error(err)
		return
	}
	defer func() { _ = conn.Close(context.Background()) }()
	try(over, conn, "set deadlock_timeout = '10ms'; set synchronous_commit = local")
	for over.Err() == nil {
		table := [...]string{"notes", "visits", "visits", "part_0"}[random.IntN(4)]
		id, user := random.IntN(50), 1+random.IntN(3)
		if try(over, conn, [...]string{
			fmt.Sprintf("insert into %s (id, user_id) values (%d, %d) on conflict (id) do update set user_id = excluded.user_id", table, id, user),
			fmt.Sprintf("insert into %s (id, user_id, body) values (%d, %d, 'x')", table, id, user),
			fmt.Sprintf("update %s set body = 'body %d' where id = %d", table, random.IntN(99), id),
			fmt.Sprintf("update %s set user_id = nullif(%d, 3) where id = %d", table, user, id),
			fmt.Sprintf("update %s set id = %d where id = %d", table, random.IntN(50), id),
			fmt.Sprintf("update notes set mood = 'sad', home = row('Oak', 1) where id = %d", id),
			fmt.Sprintf("delete from %s where id = %d", table, id),
		}[random.IntN(7)]) {
			w.commits.Add(1)
		}
	}
}

// remodel changes what the tables are.
func (w *world) remodel(over context.Context, random *rand.Rand) {
	conn, err := pgx.Connect(w.rig.t.Context(), w.rig.dsn)
	if err != nil {
		w.rig.t.Error(err)
		return
	}
	defer func() { _ = conn.Close(context.Background()) }()
	end := w.rig.t.Context() // a statement that is cancelled takes its connection with it
	try(end, conn, "set lock_timeout = '1s'; set deadlock_timeout = '200ms'; set synchronous_commit = local")
	column := func() string { return fmt.Sprintf("extra_%d", random.IntN(3)) }
	for n := 1; over.Err() == nil; n++ {
		table := [...]string{"notes", "visits"}[random.IntN(2)]
		part, extra := random.IntN(2), column()
		sql := [...]string{
			fmt.Sprintf("alter table %s add column %s int default %d", table, column(), n),
			fmt.Sprintf("alter table %s add column %s text", table, column()),
			fmt.Sprintf("alter table %s drop column %s", table, column()),
			fmt.Sprintf("alter table %s rename column %s to %s", table, column(), column()),
			fmt.Sprintf("alter table %s alter column %s type text", table, column()),
			"truncate " + table,
			fmt.Sprintf("truncate part_%d", part),
			fmt.Sprintf("alter table visits detach partition part_%d", part),
			fmt.Sprintf("alter table visits attach partition part_%d for values from (%d) to (%d)", part, part*20, part*20+20),
			"begin; create table part_2 partition of visits for values from (40) to (60); alter table part_2 replica identity full; commit",
			"drop table part_2",
			`begin; create table fresh (like notes including all); insert into fresh select * from notes; drop table notes;
			 alter table fresh rename to notes; alter table notes replica identity full; alter publication nudge add table notes; commit`,
			"alter table notes rename to away",
			"alter table away rename to notes",
			fmt.Sprintf("alter type mood rename value 'mood %d' to 'mood %d'", random.IntN(2), random.IntN(2)),
			fmt.Sprintf("alter type mood add value if not exists 'more %d'", n%5),
			fmt.Sprintf("alter type place add attribute %s int", column()),
			fmt.Sprintf("alter type place drop attribute %s", column()),
			fmt.Sprintf("alter table %s drop column %s, add column %s int default %d", table, extra, extra, n),
			fmt.Sprintf("alter table %s alter column %s type int using %s + 1", table, extra, extra),
			fmt.Sprintf("begin; alter table notes rename to away; update away set body = 'away %d'; alter table away rename to notes; commit", n),
			"restart",
		}[random.IntN(22)]
		if sql == "restart" {
			w.restart(false, nil)
		} else if !try(end, conn, sql) {
			continue
		}
		w.troubles = append(w.troubles, strings.Join(strings.Fields(sql), " "))
		for until := w.commits.Load() + random.Int64N(30); over.Err() == nil && w.commits.Load() < until; {
			select {
			case <-over.Done():
			case <-time.After(time.Millisecond):
			}
		}
	}
	// However it ends, the tables are there, and the partitions' identities are the table's.
	try(end, conn, "set lock_timeout = 0")
	try(end, conn, "alter table away rename to notes")
	for part := range 2 {
		try(end, conn, fmt.Sprintf("alter table visits attach partition part_%d for values from (%d) to (%d)", part, part*20, part*20+20))
	}
}
