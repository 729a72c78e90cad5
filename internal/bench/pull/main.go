// Command pull measures how many pulls a second a node answers, in ratio to a net/http handler that
// gives the same answer to everybody, under the same load of wrk's.
//
//	pull.check    a device that is up to date asks with If-None-Match: 304, from memory
//	pull.tail     a device asks for three changes, which are in memory
//	pull.log      the same, of which memory has none: from the log, in the app's database
//	pull.log.own  the same, with the log in a database of its own
//
// The subject is `nudge serve` on a Postgres of its own; each request has the token and the cursor of
// another device. The constant answer is one that the subject gave: status, headers and body. Both have a
// process of their own, and wrk has one. No pull has a bound but the first two.
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
	users       int
	connections int
	lasting     time.Duration
	pairs       int
	profile     string
	sink        bench.Sink
}

func main() { bench.Main("pull", start) }

func start(ctx context.Context, args []string, out io.Writer) error {
	var o options
	var constant bool
	flags := flag.NewFlagSet("pull", flag.ContinueOnError)
	flags.StringVar(&o.program, "nudge", ".bin/nudge", "the program")
	flags.IntVar(&o.users, "users", 2000, "users, of one device each")
	flags.IntVar(&o.connections, "connections", 64, "connections that ask")
	flags.DurationVar(&o.lasting, "lasting", 8*time.Second, "of one run")
	flags.IntVar(&o.pairs, "pairs", 3, "runs of subject and floor, in turn")
	flags.StringVar(&o.profile, "cpuprofile", "", "write CPU profiles of the first runs to this prefix, + .pull.check and so on")
	flags.BoolVar(&constant, "constant", false, "for internal use: serve the constant answer")
	o.sink.Flags(flags)
	if err := flags.Parse(args); err != nil {
		return err
	}
	if constant {
		return floor.HTTP(ctx, os.Stdin, out)
	}
	if o.pairs < 3 || o.users < 1000 || o.lasting < time.Second {
		return errors.New("at least 3 pairs, 1000 users, and a second")
	}
	return measure(ctx, o, out)
}
