// Command herd measures what becomes of 20,000 devices that pull within one second: the top of the hour.
//
//	herd.p99.current  all are up to date: 304, from memory
//	herd.p99.changed  each lacks three changes, which are in memory
//	herd.p99          the worse of these two, which have the bound
//	herd.p99.expired  the log has nothing left for any: each starts over, as the server lets it
//
// Each is the 99th percentile of the time from the moment at which a device meant to ask until it has
// everything, in ratio to the same requests, at the same moments, to a net/http handler that gives the
// same answer to everybody. The moments are drawn evenly over the second and do not move: a server that is slow
// is asked no less. A device that hears 503 comes again when it is told to.
//
// The subject is `nudge serve` on a Postgres of its own, the herd has a process of its own. Its connections are
// kept alive from before: phones would open new ones, through whatever ends TLS in front of nudge. Both
// processes may have fewer descriptors than there are devices, so a few devices share.
package main

import (
	"context"
	"errors"
	"flag"
	"io"
	"os"
	"time"

	"github.com/nudgesync/nudge/internal/bench"
	"github.com/nudgesync/nudge/internal/bench/floor"
)

// options are the flags.
type options struct {
	program     string
	devices     int
	connections int
	within      time.Duration
	patience    time.Duration
	pairs       int
	profile     string
	sink        bench.Sink
}

func main() { bench.Main("herd", start) }

func start(ctx context.Context, args []string, out io.Writer) error {
	var o options
	var constant, loading bool
	flags := flag.NewFlagSet("herd", flag.ContinueOnError)
	flags.StringVar(&o.program, "nudge", ".bin/nudge", "the program")
	flags.IntVar(&o.devices, "devices", 20_000, "devices, of one user each")
	flags.IntVar(&o.connections, "connections", 19_000, "connections that they share")
	flags.DurationVar(&o.within, "within", time.Second, "in which all of them ask")
	flags.DurationVar(&o.patience, "patience", 2*time.Minute, "after which a device gives up")
	flags.IntVar(&o.pairs, "pairs", 3, "runs of subject and floor, in turn; of expired cursors there is one")
	flags.StringVar(&o.profile, "cpuprofile", "", "write CPU profiles of the first runs to this prefix, + .current and so on")
	flags.BoolVar(&constant, "constant", false, "for internal use: serve the constant answer")
	flags.BoolVar(&loading, "load", false, "for internal use: be the herd")
	o.sink.Flags(flags)
	if err := flags.Parse(args); err != nil {
		return err
	}
	switch {
	case constant:
		return floor.HTTP(ctx, os.Stdin, out)
	case loading:
		return load(ctx, os.Stdin, out)
	case o.pairs < 3 || o.devices < 1 || o.connections < 1 || o.within < time.Millisecond:
		return errors.New("at least 3 pairs, a device, a connection, and a millisecond")
	}
	return measure(ctx, o, out)
}
