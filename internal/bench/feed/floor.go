package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/nudgesync/nudge/changefeed/change"
	"github.com/nudgesync/nudge/changefeed/value"
	"github.com/nudgesync/nudge/internal/bench"
)

// sampleEvery is how often the floor's walsender is looked at: it is gone when the floor is.
const sampleEvery = 20 * time.Millisecond

// drain is the floor: pg_recvlogical reads up to the target and drops what it reads.
func (s *source) drain(ctx context.Context, slot string, target change.LSN) (report, error) {
	args := []string{
		"--dbname=" + s.dsn, "--slot=" + slot, "--start", "--file=/dev/null", "--no-loop", "--endpos=" + target.String(),
	}
	for _, o := range pluginOptions {
		args = append(args, "--option="+o[0]+"="+o[1])
	}
	cmd := exec.CommandContext(ctx, s.recvlogical, args...)
	var settings []string
	for name, v := range value.SessionSettings() {
		settings = append(settings, "-c "+name+"="+strings.ReplaceAll(v, " ", `\ `))
	}
	cmd.Env = append(os.Environ(), "PGOPTIONS="+strings.Join(settings, " "), "PGAPPNAME="+slot)
	said := &strings.Builder{}
	cmd.Stderr = said
	started := time.Now()
	if err := cmd.Start(); err != nil {
		return report{}, fmt.Errorf("start pg_recvlogical: %w", err)
	}
	type end struct {
		at  time.Time
		err error
	}
	ended := make(chan end, 1)
	go func() {
		err := cmd.Wait()
		ended <- end{time.Now(), err}
	}()
	tick := time.NewTicker(sampleEvery)
	defer tick.Stop()
	var pid int
	var sender bench.Cost
	for {
		select {
		case e := <-ended:
			if e.err != nil {
				return report{}, fmt.Errorf("pg_recvlogical: %w: %s", e.err, said)
			}
			own := bench.Cost{CPU: cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()}
			if usage, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage); ok {
				own.Peak = usage.Maxrss << 10
			}
			return report{Elapsed: e.at.Sub(started), Processes: []process{{"pg_recvlogical", own}, {"walsender", sender}}}, nil
		case <-tick.C:
			if pid == 0 {
				pid = s.walsender(ctx, slot)
			}
			if c, err := bench.CostOf(pid); err == nil {
				sender = bench.Cost{CPU: c.CPU, Peak: max(c.Peak, sender.Peak)} // one that is ending has no memory
			}
		}
	}
}

// walsender is the process that serves a slot; 0 while there is none.
func (s *source) walsender(ctx context.Context, slot string) int {
	var pid *int
	err := s.admin.QueryRow(ctx, `select active_pid from pg_replication_slots where slot_name = $1`, slot).Scan(&pid)
	if err != nil || pid == nil {
		return 0 // what it costs is then not known, and nothing depends on it
	}
	return *pid
}
