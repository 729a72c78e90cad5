package pull_test

import (
	"context"
	"crypto/md5" //nolint:gosec // a checksum that Postgres has too
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nudgesync/nudge/changefeed"
	"github.com/nudgesync/nudge/changefeed/route"
	"github.com/nudgesync/nudge/server/pull"
	"github.com/nudgesync/nudge/server/wire"
)

// propertySchema has one table of each replica identity that is allowed, and a ledger: triggers keep, in
// the writer's transaction, the count and a checksum of every user's rows in each table. The ledger is
// synchronized like any table, so a device can prove by itself that it stands on a commit boundary.
const propertySchema = `
create table notes (id bigint primary key, user_id bigint not null, n int not null, body text);
create unique index notes_identity on notes (user_id, id);
alter table notes replica identity using index notes_identity, alter body set storage external;
create table docs (id bigint primary key, user_id bigint, n int not null, body text);
alter table docs replica identity full, alter body set storage external;
create table tags (user_id bigint, id text, n int not null, body text, primary key (user_id, id));
create table ledger (user_id bigint, tbl text, sum bigint not null default 0, count int not null default 0, primary key (user_id, tbl));
insert into ledger select u, t from generate_series(1, 5) u, unnest('{notes,docs,tags}'::text[]) t;

create function checksum(id text, n int, body text) returns bigint immutable language sql as $$
  select ('x' || left(md5(id || ':' || n || ':' || coalesce(body, '-')), 8))::bit(32)::bigint $$;
create function account() returns trigger language plpgsql as $$
begin
  if tg_op = 'TRUNCATE' then
    update ledger set sum = 0, count = 0 where tbl = tg_table_name;
    return null;
  end if;
  if tg_op <> 'INSERT' then
    update ledger set sum = sum - checksum(old.id::text, old.n, old.body), count = count - 1
     where user_id = old.user_id and tbl = tg_table_name;
  end if;
  if tg_op <> 'DELETE' then
    update ledger set sum = sum + checksum(new.id::text, new.n, new.body), count = count + 1
     where user_id = new.user_id and tbl = tg_table_name;
  end if;
  return null;
end $$;
create trigger account after insert or update or delete on notes for each row execute function account();
create trigger account after insert or update or delete on docs for each row execute function account();
create trigger account after insert or update or delete on tags for each row execute function account();
create trigger emptied after truncate on notes for each statement execute function account();
create trigger emptied after truncate on docs for each statement execute function account();
create trigger emptied after truncate on tags for each statement execute function account();`

// propertyConfigs are what the node is configured with in turn: everything, which comes last too, a table less, a
// column less, and both.
var propertyConfigs = []map[string]route.Spec{
	{"public.docs": byUser, "public.ledger": byUser, "public.notes": byUser, "public.tags": byUser},
	{"public.ledger": byUser, "public.notes": byUser, "public.tags": byUser},
	{"public.docs": byUser, "public.ledger": byUser, "public.notes": bodyless, "public.tags": byUser},
	{"public.ledger": byUser, "public.notes": bodyless, "public.docs": byUser},
}

var propertyTables = []string{"public.docs", "public.ledger", "public.notes", "public.tags"}

// TestPropertyEveryDeviceStandsOnACommit writes random transactions while devices join, leave and return,
// the node and its feed fail, frames are lost, the log is trimmed, commits hang on a standby, the slot is lost, and tables
// and columns leave the configuration and come back. Tail,
// log and snapshots all serve, with pages of a few rows. Whenever a device hears has_more: false its rows
// are those of one commit (I5), none is another user's or has what is denied (I10), and at the end they are the table's (I4).
func TestPropertyEveryDeviceStandsOnACommit(t *testing.T) {
	properties(t, func(t *testing.T) *rig { return newRig(t, propertySchema, propertyTables...) })
}

// The same where snapshots are read on a replica, whose replay stops and goes on.
func TestPropertyEveryDeviceStandsOnACommitReplica(t *testing.T) {
	properties(t, func(t *testing.T) *rig { return newReplicaRig(t, propertySchema, propertyTables...) })
}

func properties(t *testing.T, newRig func(*testing.T) *rig) {
	rounds, length := 1, 10*time.Second
	if os.Getenv("NUDGE_LONG") != "" {
		rounds, length = 10, 30*time.Second
	}
	for range rounds {
		seed := rand.Uint64()
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) { property(newRig(t), seed, length) })
	}
}

func property(r *rig, seed uint64, length time.Duration) {
	t := r.t
	w := &world{rig: r, sources: map[string]int{}, ops: map[string]int{}}
	r.settle() // a commit that hangs before the slot is made would hold it up, and with it all that would end the hang
	r.stop()
	r.tailBytes, r.patience = 48<<10, 100*time.Millisecond
	r.lose = func() bool { return w.frames.Add(1)%8 == 0 }
	r.start(w.failpoint)

	over, cancel := context.WithTimeout(t.Context(), 6*length)
	defer cancel()
	var writers, rest sync.WaitGroup
	rest.Go(func() { // on a busy machine it takes longer until every source was asked
		for end := time.Now().Add(length); over.Err() == nil && (time.Now().Before(end) || !w.askedAll()); {
			select {
			case <-over.Done():
			case <-time.After(10 * time.Millisecond):
			}
		}
		cancel()
	})
	for i := range 3 {
		writers.Go(func() { w.write(over, rand.New(rand.NewPCG(seed, uint64(i)))) })
	}
	devices := make([]*device, 10)
	for i := range devices {
		devices[i] = r.device(fmt.Sprint(1 + i%5))
		if i%4 == 3 {
			devices[i].tables = []string{"public.ledger", "public.notes"}
		}
		rest.Go(func() { w.live(over, rand.New(rand.NewPCG(seed, 100+uint64(i))), devices[i]) })
	}
	rest.Go(func() { w.trouble(over, rand.New(rand.NewPCG(seed, 200))) })
	writers.Wait()
	rest.Wait()
	if t.Failed() {
		return
	}
	w.armed.Store(-1)
	w.restart(false, propertyConfigs[0])
	r.settle()
	for _, d := range devices {
		for w.pull(d, 0) {
			continue
		}
		w.verify(d)
		d.expectTables(d.tables)
	}
	t.Logf("%d transactions, pages by source %v, ops %v, troubles %v", w.commits.Load(), w.sources, w.ops, w.troubles)
	if !w.askedAll() {
		t.Error("a source of pages was never asked")
	}
}

// askedAll reports whether pages came from tail, log and snapshot.
func (w *world) askedAll() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.sources["tail"] > 0 && w.sources["log"] > 0 && w.sources["snapshot"] > 0
}

// world is what the goroutines of one run share.
type world struct {
	rig      *rig
	commits  atomic.Int64
	pulls    atomic.Int64
	round    atomic.Int64 // of configurations
	verified atomic.Int64 // devices that stood on a commit, once a round each
	frames   atomic.Int64
	armed    atomic.Int64 // the feed fails at the step that counts this down to 0
	node     sync.RWMutex // held for writing while the node is replaced
	troubles []string     // owned by trouble

	mu      sync.Mutex
	sources map[string]int
	ops     map[string]int
}

func (w *world) failpoint(changefeed.Step) error {
	if w.armed.Load() > 0 && w.armed.Add(-1) == 0 {
		return errors.New("failed by the test")
	}
	return nil
}

// pull takes one page of the device's loop and applies it. It reports whether there is more to come.
func (w *world) pull(d *device, limit int) (more bool) {
	w.node.RLock()
	defer w.node.RUnlock()
	d.under = w.rig.routing
	w.pulls.Add(1)
	a, err := w.rig.engine.Pull(w.rig.t.Context(), pull.Request{User: d.user, Device: "d", Since: d.cursor, Tables: d.tables, Limit: limit})
	var problem *wire.Problem
	if errors.As(err, &problem) && problem.RetryAfterMS > 0 {
		select {
		case <-w.rig.t.Context().Done():
		case <-time.After(5 * time.Millisecond): // as told, only sooner
		}
		return true
	}
	if err != nil {
		w.rig.t.Errorf("pull: %v", err)
		return false
	}
	var page wire.Page
	if err := json.Unmarshal(append(append([]byte("{"), a.AppendMembers(nil)...), '}'), &page); err != nil {
		w.rig.t.Errorf("page: %v", err)
		return false
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.sources[a.Source]++
	for _, c := range page.Changes {
		if why := forbidden(d.under, c.Table, string(c.Row)); why != "" {
			w.rig.t.Errorf("I10: user %s is told %s %s: %s", d.user, c.Op, c.Row, why)
		}
		d.apply(c)
		w.ops[strings.TrimSpace(c.Op+" "+c.Reason)]++
	}
	d.cursor = page.Cursor
	return page.HasMore
}

// forbidden says why a row of a table must not reach a device, if it must not.
func forbidden(under *route.Config, table, row string) string {
	rule, configured := under.Tables[table]
	switch {
	case row == "":
		return ""
	case !configured:
		return "the table is not configured"
	case slices.Contains(rule.Deny, "body") && strings.Contains(row, `"body"`):
		return "the column is denied"
	}
	return ""
}

// live is a device's life.
func (w *world) live(over context.Context, random *rand.Rand, d *device) {
	for over.Err() == nil && !w.rig.t.Failed() {
		switch random.IntN(60) {
		case 0: // a fresh install
			*d = device{rig: d.rig, user: d.user, tables: d.tables, rows: map[string]string{}, marks: map[string]string{}, told: map[string]int{}, round: d.round}
		case 1: // away for a while
			for until := w.commits.Load() + random.Int64N(150); over.Err() == nil && w.commits.Load() < until; {
				select {
				case <-over.Done():
				case <-time.After(time.Millisecond):
				}
			}
		}
		if !w.pull(d, 1+random.IntN(7)) {
			w.verify(d)
		}
	}
}

// verify is called where the device heard has_more: false.
func (w *world) verify(d *device) {
	type account struct {
		Sum   int64
		Count int
	}
	type row struct {
		UserID *int64 `json:"user_id"`
		ID     any    `json:"id"`
		N      int    `json:"n"`
		Body   *string
		Tbl    string
		account
	}
	have, want := map[string]account{}, map[string]account{}
	for id, text := range d.rows {
		var scope, table string
		_, _ = fmt.Sscan(id, &scope, &table)
		var r row
		if err := json.Unmarshal([]byte(text), &r); err != nil {
			w.rig.t.Errorf("row %s: %v", text, err)
			return
		}
		if scope != "user:"+d.user || r.UserID == nil || fmt.Sprint(*r.UserID) != d.user {
			w.rig.t.Errorf("I10: user %s holds %s: %s", d.user, id, text)
		}
		if why := forbidden(d.under, table, text); why != "" {
			w.rig.t.Errorf("I10: user %s holds %s: %s", d.user, text, why)
		}
		if table == "public.ledger" {
			want[r.Tbl] = r.account
			continue
		}
		body := "-"
		if r.Body != nil {
			body = *r.Body
		}
		sum := md5.Sum(fmt.Appendf(nil, "%v:%d:%s", r.ID, r.N, body)) //nolint:gosec // as Postgres does
		table = strings.TrimPrefix(table, "public.")
		a := have[table]
		have[table] = account{a.Sum + int64(binary.BigEndian.Uint32(sum[:])), a.Count + 1}
	}
	if len(d.marks) > 0 {
		w.rig.t.Errorf("user %s: %d rows are still marked", d.user, len(d.marks))
	}
	if len(want) != 3 {
		w.rig.t.Errorf("user %s has %d ledger rows", d.user, len(want))
	}
	for table, a := range want {
		if len(d.tables) > 0 && !slices.Contains(d.tables, "public."+table) {
			continue
		}
		rule, configured := d.under.Tables["public."+table]
		if !configured {
			continue
		}
		if len(rule.Deny) > 0 { // what is hidden is not in the device's sum
			a.Sum = have[table].Sum
		}
		if have[table] != a {
			w.rig.t.Errorf("I5: user %s, table %s: the rows are %v, the ledger says %v (last ops %v)",
				d.user, table, have[table], a, d.ops[max(0, len(d.ops)-12):])
		}
	}
	d.ops = nil
	if n := w.round.Load(); d.round != n {
		d.round = n
		w.verified.Add(1)
	}
}

func (d *device) expectTables(tables []string) {
	if len(tables) == 0 {
		tables = propertyTables
	}
	d.expect(tables...)
}
