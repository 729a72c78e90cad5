package pull_test

import (
	"errors"
	"testing"
	"time"

	"github.com/nudgesync/nudge/changefeed/value"
	"github.com/nudgesync/nudge/internal/devpg/pgtest"
	"github.com/nudgesync/nudge/server/pull"
	"github.com/nudgesync/nudge/server/wire"
)

// newReplicaRig is a rig that reads snapshots on a replica, both of the test's own.
func newReplicaRig(t *testing.T, schema string, tables ...string) *rig {
	t.Helper()
	primary, standby := pgtest.Pair(t, nil)
	r := newRigOn(t, primary.DSN("postgres"), schema, tables...)
	r.stop()
	r.replica = pgtest.Pool(t, standby.DSN("postgres"), value.SessionSettings())
	r.start(nil)
	return r
}

// replay stops the replica's replay ("pause"), or has it go on ("resume").
func (w *world) replay(what string) {
	if _, err := w.rig.replica.Exec(w.rig.t.Context(), "select pg_wal_replay_"+what+"()"); err != nil {
		w.rig.t.Errorf("%s replay: %v", what, err)
	}
}

// A24: a device that starts while the replica lags is told to come again; whoever is up to date notices nothing.
// Nobody misses what was committed before it started.
func TestA24LaggingReplica(t *testing.T) {
	r := newReplicaRig(t, schema+`insert into notes values (1, 1, 'x')`, "public.notes")
	r.stop()
	r.patience = 100 * time.Millisecond
	r.start(nil)
	d := r.device("1")
	d.sync()
	d.expect("public.notes")
	w := &world{rig: r}
	w.replay("pause")
	r.exec(`insert into notes values (2, 1, 'y')`)
	r.settle()
	d.sync()
	d.expect("public.notes")
	_, err := r.engine.Pull(t.Context(), pull.Request{User: "1", Device: "other"})
	var p *wire.Problem
	if !errors.As(err, &p) || p.Code != wire.Overloaded || p.RetryAfterMS <= 0 {
		t.Errorf("a device that starts: %v", err)
	}
	w.replay("resume")
	r.stop()
	r.patience = 0
	r.start(nil)
	d = r.device("1")
	d.sync()
	d.expect("public.notes")
}

// A snapshot goes on from its cursor alone, on another node, whatever either reads from.
func TestSnapshotGoesOnElsewhere(t *testing.T) {
	r := newReplicaRig(t, schema+`insert into notes select i, 1, 'x' from generate_series(1, 40) i`, "public.notes", "public.tags")
	d, replica := r.device("1"), r.replica
	for i := range 4 {
		a, page := r.pull(pull.Request{User: "1", Device: "d", Since: d.cursor})
		if a.Source != "snapshot" || !page.HasMore {
			t.Fatalf("page %d from %s, more: %v", i, a.Source, page.HasMore)
		}
		for _, c := range page.Changes {
			d.apply(c)
		}
		d.cursor = page.Cursor
		r.exec(`update notes set n = n + 1 where id % 5 = 0; delete from notes where id in (1, 39); insert into tags values (1, 't') on conflict do nothing`)
		r.stop()
		if r.replica = nil; i%2 == 1 {
			r.replica = replica
		}
		r.start(nil)
	}
	d.sync()
	d.expect("public.notes", "public.tags")
}
