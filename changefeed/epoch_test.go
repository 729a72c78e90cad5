package changefeed_test

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/nudgesync/nudge/changefeed"
	"github.com/nudgesync/nudge/changefeed/changelog"
	"github.com/nudgesync/nudge/internal/devpg"
	"github.com/nudgesync/nudge/migrations"
)

// clusterRig is a rig on a cluster of the test's own.
func clusterRig(t *testing.T, c *devpg.Cluster) *rig {
	t.Helper()
	if _, err := migrations.Up(t.Context(), c.DSN("postgres")); err != nil {
		t.Fatal(err)
	}
	r := connectRig(t, c.DSN("postgres"))
	r.exec(schema)
	r.exec(`create publication nudge for table items`)
	return r
}

// version is the server's: 150018.
func (r *rig) version() (n int) {
	r.t.Helper()
	r.scan(&n, `select current_setting('server_version_num')::int`)
	return n
}

// scan reads one value.
func (r *rig) scan(to any, sql string, args ...any) {
	r.t.Helper()
	if err := r.db.QueryRow(r.t.Context(), sql, args...).Scan(to); err != nil {
		r.t.Fatalf("%s: %v", sql, err)
	}
}

// epochAfter waits until an epoch has ended, and says why.
func (r *rig) epochAfter(before changelog.State) changelog.State {
	r.t.Helper()
	s := r.state("a new epoch", func(s changelog.State) bool { return s.Epoch != before.Epoch })
	if s.Epoch.Count() != before.Epoch.Count()+1 {
		r.t.Errorf("epoch %v follows %v", s.Epoch, before.Epoch)
	}
	return s
}

// A2: the database is restored from a copy of its disk. System and timeline are the same, log and tables went
// back together, and devices hold what is gone. The database alone does not know; the witness does.
func TestA02RestoredDiskAndWitness(t *testing.T) {
	dir, saved := tempDir(t), tempDir(t)
	c := cluster(t, dir)
	r := clusterRig(t, c)
	path := filepath.Join(t.TempDir(), "witness")
	witnessed := func(cfg *changefeed.Config) { cfg.Witness = path }

	stop := r.start(witnessed)
	r.settle()
	r.exec(`insert into items values (1, 1)`)
	before := r.settle()
	stop()
	r.released()
	stopped := func(do func()) {
		t.Helper()
		r.db.Reset()
		if err := c.Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
		do()
		if err := c.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	stopped(func() { copyData(t, dir, saved) })
	stop = r.start(witnessed)
	r.exec(`insert into items select i, 1 from generate_series(100, 1000) i`) // the phantoms
	handedOut := r.settle()
	if handedOut.Epoch != before.Epoch {
		t.Fatalf("an epoch of its own: %s", handedOut.Reason)
	}
	stop()
	r.released()
	stopped(func() { copyData(t, saved, dir) })

	// Without the witness nothing is noticed: a device at the old head holds the phantoms for good, and hears of
	// nothing that is written below it.
	stop = r.start(nil)
	r.exec(`insert into items values (2, 1)`)
	if s := r.settle(); s.Epoch != before.Epoch || s.Position >= handedOut.Position {
		t.Fatalf("the rest of this test shows nothing: %+v", s)
	}
	r.expect(`u user:1 {"id":1}`, `u user:1 {"id":2}`)
	stop()
	r.released()

	var lines atomic.Int32
	r.start(func(cfg *changefeed.Config) {
		witnessed(cfg)
		cfg.Logger = logTo(func(line string) {
			if strings.Contains(line, "the log is behind its witness") {
				lines.Add(1)
			}
		})
	})
	if s := r.epochAfter(handedOut); s.Reason != "the log is behind its witness" {
		t.Errorf("reason %q", s.Reason)
	}
	r.settle()
	if n := lines.Load(); n != 1 {
		t.Errorf("%d lines of the log give the reason", n)
	}
	if b, err := os.ReadFile(path); err != nil || !strings.Contains(string(b), r.slot) {
		t.Errorf("the witness says %s, %v", b, err)
	}
}

// A witness that knows a later epoch than the log is ahead of it too, and the next epoch counts from there.
func TestA02WitnessOfALaterEpoch(t *testing.T) {
	r := newRig(t)
	path := filepath.Join(t.TempDir(), "witness")
	witnessed := func(cfg *changefeed.Config) { cfg.Witness = path }
	stop := r.start(witnessed)
	first := r.settle()
	r.exec(`create table kept as select * from nudge.feed`)
	_, err := r.log.Doubt(t.Context(), changefeed.ReasonOperator)
	if err != nil {
		t.Fatal(err)
	}
	r.exec(`select pg_logical_emit_message(true, 'nudge.heartbeat', '')`)
	second := r.epochAfter(first)
	r.eventually("the witness follows", func() bool {
		b, err := os.ReadFile(path)
		return err == nil && strings.Contains(string(b), `"`+strconv.FormatUint(uint64(second.Epoch), 10)+`"`)
	})
	stop()
	r.released()
	// The log goes back to its first epoch, in place of a whole restore. The slot fits: it is where it was.
	r.exec(`update nudge.feed f set epoch = k.epoch from kept k`)
	r.start(witnessed)
	s := r.state("a new epoch", func(s changelog.State) bool { return s.Epoch != first.Epoch })
	if s.Reason != "the log is behind its witness" || s.Epoch.Count() != second.Epoch.Count()+1 {
		t.Errorf("epoch %v after %v and %v: %s", s.Epoch, first.Epoch, second.Epoch, s.Reason)
	}
}

// A2: `nudge epoch new`. A feed that runs is fenced with its next append, whatever it is.
func TestA02OperatorBeginsAnEpoch(t *testing.T) {
	r := newRig(t)
	stop := r.start(nil)
	before := r.settle()
	if _, err := r.log.Doubt(t.Context(), changefeed.ReasonOperator); err != nil {
		t.Fatal(err)
	}
	r.exec(`insert into items values (1, 1)`) // belongs to snapshots: never logged in the old epoch
	s := r.epochAfter(before)
	if s.Reason != changefeed.ReasonOperator || s.Doubt != "" {
		t.Errorf("state %+v", s)
	}
	r.exec(`insert into items values (2, 1)`)
	r.settle()
	r.expect(`u user:1 {"id":2}`)

	// Offline alike.
	stop()
	r.released()
	if _, err := r.log.Doubt(t.Context(), changefeed.ReasonOperator); err != nil {
		t.Fatal(err)
	}
	r.start(nil)
	r.epochAfter(s)
	var slots int
	r.scan(&slots, `select count(*) from pg_replication_slots where database = current_database()`)
	if slots != 1 {
		t.Errorf("%d slots", slots)
	}
}

// P3: after a crash the slot goes back and sends again what it was told is stored. Nothing is doubled, and it
// is no reason for a new epoch.
func TestP03SlotGoesBackInACrash(t *testing.T) {
	dir := tempDir(t)
	c := cluster(t, dir)
	r := clusterRig(t, c)
	stop := r.start(nil)
	r.settle()
	r.exec(`checkpoint`)
	var before changelog.State
	// The server saves the slot when it may drop WAL, some time after a checkpoint: here is where it goes back to.
	for range 4 {
		r.exec(`insert into items select coalesce(max(id), 0) + 1, 1 from items`)
		before = r.settle()
		r.eventually("all is confirmed", func() bool { return r.confirmed() == before.Position })
	}
	stop()
	r.released()
	r.db.Reset()
	if err := c.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := c.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	if at := r.confirmed(); at >= before.Position {
		t.Fatalf("the slot did not go back: it is at %s, the log at %s", at, before.Position)
	}
	r.start(nil)
	r.exec(`update items set version = 2`)
	if s := r.settle(); s.Epoch != before.Epoch {
		t.Errorf("a new epoch: %s", s.Reason)
	}
	r.check()
}

// P3: a slot that was confirmed beyond what is stored has left a gap behind it.
func TestP03SlotAheadOfTheLog(t *testing.T) {
	r := newRig(t)
	stop := r.start(nil)
	before := r.settle()
	stop()
	r.released()
	r.exec(`insert into items values (1, 1)`) // nobody will ever stream it
	r.exec(`select pg_replication_slot_advance($1, pg_current_wal_lsn())`, r.slot)
	r.start(nil)
	if s := r.epochAfter(before); s.Reason != "the slot is ahead of the log" {
		t.Errorf("reason %q", s.Reason)
	}
}
