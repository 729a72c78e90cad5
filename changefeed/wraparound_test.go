package changefeed_test

import (
	"bytes"
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

// A14: a transaction that begins before the wraparound and commits behind it passes the gate. pg_resetwal,
// which comes with whole installations alone, moves a cluster there; where it lacks, the arithmetic above
// is all there is to see.
func TestA14Wraparound(t *testing.T) {
	dir := tempDir(t)
	c := cluster(t, dir)
	r := clusterRig(t, c)
	if _, err := os.Stat(filepath.Join(c.Bin(), "pg_resetwal")); err == nil {
		nearWraparound(t, c, r, dir)
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
