// Command socket measures what lies between a commit and the devices that hold a socket.
//
//	nudge.p50, .p99     commit → nudge received, 500 commits a second over 15,000 sockets
//	nudge.p99.2000      the same at 2,000 a second, and every device pulls what it is nudged for
//	delta.p50           commit → change pulled over the socket and parsed, 500 a second
//	nudge.fanout        nudges a second to every socket at once, from the first received to the last
//	socket.rss          resident memory a socket, authenticated, registered and idle
//	writers.throughput  pgbench's transactions a second with the feed attached
//
// All latencies count from the moment at which a commit was meant to be sent; the moments are fixed before and
// do not move. The floor of p50 is the writers' own commit round trip, of the same commits; of p99 it is
// LISTEN/NOTIFY: the same commits at the same rate, of a table that nudge does not listen to, announced to one
// connection. nudge.fanout's is coder/websocket that writes a frame of a nudge's size to as many sockets,
// socket.rss's a TCP server with a goroutine a connection, that of writers.throughput the same pgbench while no
// nudge runs.
//
// The subject is `nudge serve` on a Postgres of its own. Devices, with the writers, have a process of their own.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/nudgesync/nudge/internal/bench"
	"github.com/nudgesync/nudge/internal/bench/floor"
)

// options are the flags.
type options struct {
	program    string
	sockets    int
	rate, fast float64
	lasting    time.Duration
	fans       int
	pairs      int
	profile    string
	sink       bench.Sink
}

func main() { bench.Main("socket", start) }

func start(ctx context.Context, args []string, out io.Writer) error {
	var o options
	var be string
	var frame int
	flags := flag.NewFlagSet("socket", flag.ContinueOnError)
	flags.StringVar(&o.program, "nudge", ".bin/nudge", "the program")
	flags.IntVar(&o.sockets, "sockets", 15_000, "sockets, of one user each")
	flags.Float64Var(&o.rate, "rate", 500, "commits a second")
	flags.Float64Var(&o.fast, "fast", 2000, "commits a second, where there are many")
	flags.DurationVar(&o.lasting, "lasting", 6*time.Second, "of one run")
	flags.IntVar(&o.fans, "fans", 5, "fan-outs of a run")
	flags.IntVar(&o.pairs, "pairs", 3, "runs of subject and floor, in turn")
	flags.StringVar(&o.profile, "cpuprofile", "", "write CPU profiles of the first runs to this prefix, + .fast and so on")
	flags.StringVar(&be, "be", "", "for internal use: be the crowd, raw or websockets")
	flags.IntVar(&frame, "frame", 0, "for internal use: bytes of a nudge")
	o.sink.Flags(flags)
	if err := flags.Parse(args); err != nil {
		return err
	}
	switch be {
	case "":
	case beCrowd:
		return hold(ctx, os.Stdin, out)
	case beRaw:
		return floor.Raw(ctx, out)
	case beWebSockets:
		return floor.WebSockets(ctx, frame, os.Stdin, out)
	default:
		return fmt.Errorf("nothing is called %q", be)
	}
	if o.pairs < 3 || o.sockets < 1 || o.lasting < time.Second || o.rate <= 0 || o.fast <= 0 || o.fans < 1 {
		return errors.New("at least 3 pairs, a socket, a second, a commit a second, and a fan-out")
	}
	return measure(ctx, o, out)
}

// What this program can be besides itself.
const (
	beCrowd      = "crowd"
	beRaw        = "raw"
	beWebSockets = "websockets"
)
