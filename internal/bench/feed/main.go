// Command feed measures how fast the change feed drains a backlog, in ratio to pg_recvlogical, which
// reads the same stream from the same server with the same options and drops it.
//
//	feed.durable.row1    the feed and its log: transactions of one row
//	feed.durable.row100  the same, of a hundred rows
//	feed.decode          the stream decoded, routed and dropped; one row
//
// Each run has a slot of its own that stands before the backlog, and a process of its own. Commits are
// synchronous and fsync is on; autovacuum is off, so that it does not fall on one side alone.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"runtime"
	"time"

	"github.com/nudgesync/nudge/internal/bench"
	"github.com/nudgesync/nudge/internal/devpg"
)

// usualFloor is what pg_recvlogical did, in rows/s of one-row transactions, where the bounds were set.
const usualFloor = 56_000

// options are the flags.
type options struct {
	row1, row100 int // rows of the backlogs
	pairs        int
	sink         bench.Sink
	profile      string
	run          run // set in a child process
}

func main() { bench.Main("feed", start) }

func start(ctx context.Context, args []string, out io.Writer) error {
	var o options
	flags := flag.NewFlagSet("feed", flag.ContinueOnError)
	flags.IntVar(&o.row1, "row1", 200_000, "rows in the backlog of one-row transactions")
	flags.IntVar(&o.row100, "row100", 1_000_000, "rows in the backlog of hundred-row transactions")
	flags.IntVar(&o.pairs, "pairs", 3, "runs of each, in turn")
	flags.StringVar(&o.profile, "cpuprofile", "", "write CPU profiles of the first runs to this prefix, + .durable.row1 and so on")
	flags.StringVar(&o.run.What, "run", "", "for internal use: what this process is to run")
	flags.StringVar(&o.run.DSN, "dsn", "", "for internal use")
	flags.StringVar(&o.run.Slot, "slot", "", "for internal use")
	flags.Uint64Var(&o.run.Target, "target", 0, "for internal use")
	o.sink.Flags(flags)
	if err := flags.Parse(args); err != nil {
		return err
	}
	if o.run.What != "" {
		return o.run.child(ctx, o.profile, out)
	}
	if o.pairs < 3 || o.row1 < 1 || o.row100 < rowsPerLarge {
		return errors.New("at least 3 pairs, 1 row, and 100 rows")
	}
	return measure(ctx, o, out)
}

// measure starts a server, runs everything on it, and prints and saves the results.
func measure(ctx context.Context, o options, out io.Writer) error {
	cluster, err := devpg.Start(ctx, devpg.Options{Fsync: true, Settings: map[string]string{
		"synchronous_commit": "on", "autovacuum": "off", "max_wal_size": "8GB", "checkpoint_timeout": "1h",
	}})
	if err != nil {
		return err
	}
	defer func() {
		stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
		_ = cluster.Stop(stopping) // the results do not depend on it
	}()
	src, err := openSource(ctx, cluster)
	if err != nil {
		return err
	}
	defer src.close(context.WithoutCancel(ctx))
	_, err = fmt.Fprintf(out, "Postgres %s, %s, %d CPUs. CPU time a row, and peak memory (a server process's with shared buffers):\n",
		src.version, runtime.Version(), runtime.NumCPU())
	if err != nil {
		return err
	}

	durable1 := bench.Result{Metric: "feed.durable.row1", Unit: "rows/s", Must: 0.48, Goal: 0.60, Better: "higher", Usual: usualFloor}
	durable100 := bench.Result{Metric: "feed.durable.row100", Unit: "rows/s", Must: 0.36, Goal: 0.45, Better: "higher"}
	decode := bench.Result{Metric: "feed.decode", Unit: "rows/s", Must: 0.85, Goal: 0.95, Better: "higher", Usual: usualFloor}
	send, err := bench.SendCost(ctx)
	if err != nil {
		return err
	}
	durable1.Note = fmt.Sprintf("a row is three messages here, and the walsender sends each by itself, over TCP as over a Unix socket: "+
		"the floor follows what a send costs, now %.1f µs; the usual one needs a message in less than 6 µs", float64(send.Nanoseconds())/1e3)
	decode.Note = "its floor is " + durable1.Metric + "'s"

	small, err := src.compare(ctx, workload{name: "row1", rows: o.row1, perTx: 1, runs: []string{durable, decodeOnly}}, o, out)
	if err != nil {
		return err
	}
	large, err := src.compare(ctx, workload{name: "row100", rows: o.row100, perTx: rowsPerLarge, runs: []string{durable}}, o, out)
	if err != nil {
		return err
	}
	results := []bench.Result{
		bench.Pairs(durable1, small.rates[durable], small.rates[floor]),
		bench.Pairs(durable100, large.rates[durable], large.rates[floor]),
		bench.Pairs(decode, small.rates[decodeOnly], small.rates[floor]),
	}
	return o.sink.Finish(ctx, out, results, "Postgres "+src.version)
}
