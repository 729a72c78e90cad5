package changefeed_test

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/nudgesync/nudge/changefeed"
	"github.com/nudgesync/nudge/internal/devpg"
)

// A14: a decoded xid is 32 bits of one that is near the snapshot's xmax, on either side of a wraparound.
func TestA14WidenedAroundTheSnapshot(t *testing.T) {
	r := newRig(t)
	for _, c := range []struct{ xmax, id, want int64 }{
		{1000, 999, 999},
		{1000, 1000, 1000},
		{1000, 1007, 1007},
		{1<<32 + 5, 1<<32 - 6, 1<<32 - 6},          // begun before the wraparound, and the snapshot is behind it
		{1<<32 - 6, 5, 1<<32 + 5},                  // the other way round
		{7<<32 + 100, 90, 7<<32 + 90},              // far from any
		{7<<32 + 3, 4294967295, 6<<32 + 1<<32 - 1}, // just before the seventh
	} {
		var got int64
		r.scan(&got, `select `+changefeed.WidenSQL+` from (select $1::bigint as xmax) m, (select $2::bigint as id) x`, c.xmax, c.id)
		if got != c.want {
			t.Errorf("%d, seen from %d: %d, want %d", c.id, c.xmax, got, c.want)
		}
	}
}

// A14, I6: the gate itself, under snapshots on either side of a wraparound and right at it: it holds back the
// first transaction of a batch that is in progress or has not begun, and lets all others through.
func TestA14GateAroundAWraparound(t *testing.T) {
	r := newRig(t)
	for _, c := range []struct {
		snapshot string // xmin:xmax:in progress
		decoded  []int64
		first    int
	}{
		{"4294967290:4294967310:4294967290,4294967300", []int64{4294967291, 4294967295, 5, 13}, 0}, // 2³² + 5, + 13
		{"4294967290:4294967310:4294967290,4294967300", []int64{4294967291, 4, 5}, 2},              // 2³² + 4 is in progress
		{"4294967290:4294967310:4294967290,4294967300", []int64{4294967295, 3, 4294967290}, 3},     // and so is one before it
		{"4294967290:4294967310:4294967290", []int64{13, 14}, 2},                                   // at xmax: not begun
		{"4294967290:4294967290:", []int64{4294967289, 5}, 2},                                      // behind it, seen from before it
		{"4294967300:4294967300:", []int64{4294967295, 3}, 0},
		{"30064771080:30064771080:", []int64{4294967295, 7}, 0}, // the seventh
		{"30064771080:30064771080:", []int64{4294967295, 8}, 2},
	} {
		var first int
		var server int64
		if err := r.db.QueryRow(t.Context(), changefeed.GateOf, c.decoded, c.snapshot).Scan(&first, &server); err != nil {
			t.Fatal(err)
		}
		if first != c.first {
			t.Errorf("%v under %s: held back from number %d, want %d", c.decoded, c.snapshot, first, c.first)
		}
	}
}

// A14: a transaction that begins before the wraparound and commits behind it passes the gate. pg_resetwal moves
// a cluster there. It comes with whole installations alone; a server without any of the programs around it, as
// it is fetched for the other versions, can't be moved, and TestA14GateAroundAWraparound is what is known of it.
func TestA14Wraparound(t *testing.T) {
	dir := tempDir(t)
	c := cluster(t, dir)
	r := clusterRig(t, c)
	if has(t, c, "pg_resetwal") {
		nearWraparound(t, c, r, dir)
	} else if has(t, c, "pg_controldata") || has(t, c, "pg_dump") {
		t.Fatalf("pg_resetwal is missing from %s, though that is a whole installation: install it", c.Bin())
	}
	r.start(nil)
	r.settle()
	writer, err := pgx.Connect(t.Context(), r.dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = writer.Close(t.Context()) }()
	write := func(sql string) {
		t.Helper()
		if _, err := writer.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	write(`begin`)
	write(`insert into items values (1, 1)`)
	for range 300 {
		r.exec(`select pg_current_xact_id()`)
	}
	r.exec(`insert into items values (2, 1)`)
	write(`commit`)
	r.settle()
	r.expect(`u user:1 {"id":2}`, `u user:1 {"id":1}`)
}

// has reports whether the cluster's installation has a program.
func has(t *testing.T, c *devpg.Cluster, program string) bool {
	t.Helper()
	_, err := os.Stat(filepath.Join(c.Bin(), program))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return err == nil
}

// nearWraparound has the cluster go on 200 transactions before it.
func nearWraparound(t *testing.T, c *devpg.Cluster, r *rig, dir string) {
	t.Helper()
	template, err := pgx.Connect(t.Context(), c.DSN("template1"))
	if err != nil {
		t.Fatal(err)
	}
	// What is not frozen would lie in the future.
	if _, err := template.Exec(t.Context(), `vacuum freeze`); err != nil {
		t.Fatal(err)
	}
	_ = template.Close(t.Context())
	r.exec(`vacuum freeze`)
	r.db.Reset()
	if err := c.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	data := filepath.Join(dir, "data")
	info, err := os.Stat(data)
	if err != nil {
		t.Fatal(err)
	}
	owner, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		t.Fatal("no owner")
	}
	cmd := exec.CommandContext(t.Context(), filepath.Join(c.Bin(), "pg_resetwal"), "-x", "4294967096", "-D", data)
	cmd.Dir = "/"
	if os.Geteuid() == 0 { // it refuses root
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: owner.Uid, Gid: owner.Gid}}
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	// The state of the transactions just before, which a cluster that came here by itself would have.
	status := filepath.Join(data, "pg_xact", "0FFF")
	if err := os.WriteFile(status, bytes.Repeat([]byte{0}, 32*8192), 0o600); err != nil {
		t.Fatal(err)
	}
	giveToServer(t, dir, dir)
	if err := c.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	var next int64
	r.scan(&next, `select pg_current_xact_id()::text::bigint`)
	if next < 4294967096 || next > 4294967196 {
		t.Fatalf("the next transaction is %d", next)
	}
}
