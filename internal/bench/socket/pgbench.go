package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
)

const (
	clients = "16" // of pgbench
	threads = "2"
)

// writers measures what the app's writers notice of the feed: pgbench while nudge runs, and while none does.
// The latter writes to a table that nudge does not listen to, so that there is nothing to catch up with.
func (r *runner) writers(ctx context.Context, i int) error {
	without, err := r.pgbench(ctx, "unheard")
	if err != nil {
		return err
	}
	node, err := r.site.Serve(ctx)
	if err != nil {
		return err
	}
	err = r.site.CaughtUp(ctx)
	var with float64
	if err == nil {
		with, err = r.pgbench(ctx, "intakes")
	}
	if err == nil {
		err = r.site.CaughtUp(ctx)
	}
	if stop := node.Stop(); err == nil {
		err = stop
	}
	if err != nil {
		return err
	}
	r.pair("writers.throughput", with, without)
	return r.say("writers  %d  %.0f commits/s with the feed, %.0f without\n", i+1, with, without)
}

var tps = regexp.MustCompile(`(?m)^tps = ([0-9.]+)`)

func (r *runner) pgbench(ctx context.Context, table string) (float64, error) {
	script := filepath.Join(os.TempDir(), fmt.Sprintf("nudge-pgbench-%d.sql", os.Getpid()))
	err := os.WriteFile(script, fmt.Appendf(nil, `\set u random(1, %d)
insert into %s (user_id, medication_id, status, dose, note) values (:u, 1, 'taken', 1.50, 'after breakfast');
`, r.options.sockets, table), 0o600)
	if err != nil {
		return 0, err
	}
	defer func() { _ = os.Remove(script) }()
	if err := r.site.Exec(ctx, "checkpoint"); err != nil {
		return 0, err
	}
	out, err := exec.CommandContext(ctx, filepath.Join(r.site.Bin(), "pgbench"), "--no-vacuum", "--protocol=prepared",
		"--client="+clients, "--jobs="+threads, "--time="+strconv.Itoa(int(r.lasting.Seconds())), "--file="+script,
		r.site.DSN("postgres")).CombinedOutput()
	if err != nil {
		return 0, fmt.Errorf("pgbench: %w: %s", err, out)
	}
	found := tps.FindSubmatch(out)
	if found == nil {
		return 0, fmt.Errorf("pgbench said %q", out)
	}
	return strconv.ParseFloat(string(found[1]), 64)
}
