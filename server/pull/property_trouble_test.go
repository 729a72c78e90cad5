package pull_test

import (
	"context"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/nudgesync/nudge/changefeed/route"
)

// trouble makes something go wrong every few commits.
func (w *world) trouble(over context.Context, random *rand.Rand) {
	r := w.rig
	failures, config := 0, 0
	pass := func(counter *atomic.Int64, n int64) bool {
		for until := counter.Load() + n; counter.Load() < until; {
			select {
			case <-over.Done():
				return false
			case <-time.After(time.Millisecond):
			}
		}
		return true
	}
	kinds := []string{"trim", "trim", "fail", "fail", "fail", "restart", "hang", "hang", "hang", "lose slot", "configure", "configure", "configure"}
	if r.replica != nil {
		kinds = append(kinds, "lag", "lag", "lag", "lag")
	}
	for pass(&w.commits, 10+random.Int64N(40)) && !r.t.Failed() {
		what := kinds[random.IntN(len(kinds))]
		if what == "fail" && failures == 2 {
			what = "restart" // the pause after a failure has grown long
		}
		w.troubles = append(w.troubles, what)
		switch what {
		case "trim":
			if err := r.log.Trim(r.t.Context()); err != nil {
				r.t.Logf("trim: %v", err) // a reader was in the way for too long
			}
		case "fail":
			failures++
			w.armed.Store(1 + random.Int64N(30))
		case "restart", "lose slot":
			failures = 0
			w.restart(what == "lose slot", nil)
		case "configure":
			failures = 0
			config += 1 + random.IntN(len(propertyConfigs)-1) // another one
			w.restart(false, propertyConfigs[config%len(propertyConfigs)])
			w.round.Add(1)
			pass(&w.verified, 6) // so that most devices stand under it before the next
		case "hang":
			w.standby("'nobody'")
			pass(&w.pulls, 30+random.Int64N(100))
			w.standby("default")
		case "lag":
			w.replay("pause")
			pass(&w.pulls, 30+random.Int64N(100))
			w.replay("resume")
		}
	}
}

// restart replaces the node, and meanwhile takes its slot away if told so, and gives it another configuration if
// there is one.
func (w *world) restart(loseSlot bool, specs map[string]route.Spec) {
	w.node.Lock()
	defer w.node.Unlock()
	w.rig.stop()
	for left := 1; loseSlot && left > 0; { // the server may not have noticed yet that the feed is gone
		w.rig.exec(`select pg_drop_replication_slot(slot_name) from pg_replication_slots where slot_name = $1 and not active`, "slot_"+w.rig.database())
		err := w.rig.db.QueryRow(w.rig.t.Context(), `select count(*) from pg_replication_slots where slot_name = $1`, "slot_"+w.rig.database()).Scan(&left)
		if err != nil {
			w.rig.t.Errorf("read slots: %v", err)
			return
		}
	}
	if specs != nil {
		w.rig.resolve(specs)
	}
	w.rig.start(w.failpoint)
}

// standby names the synchronous standby of the cluster: with one that does not exist, the writers' commits
// are in the WAL and not visible, until it is unnamed. It takes a connection of its own: a TRUNCATE that hangs
// holds back every page that reads the table, and they may be all of the pool's.
func (w *world) standby(name string) {
	conn, err := pgx.Connect(w.rig.t.Context(), w.rig.dsn)
	if err != nil {
		w.rig.t.Error(err)
		return
	}
	defer func() { _ = conn.Close(context.Background()) }()
	for _, sql := range []string{"alter system set synchronous_standby_names = " + name, "select pg_reload_conf()"} {
		if _, err := conn.Exec(w.rig.t.Context(), sql); err != nil {
			w.rig.t.Errorf("%s: %v", sql, err)
		}
	}
}
