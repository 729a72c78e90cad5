// Command push measures pushes: from a change to the devices it makes due, and from there to the providers.
//
//	push.rate                  the worst of the three SDKs with 16 workers, below
//	push.rate.<sdk>.<workers>  pushes a second through our sender over the provider's own SDK
//	push.mark.<devices>        marking a batch of 1,000 changes, where so many devices are registered
//	push.mark.<devices>.wide   the same, but every change is of another user: 3,000 devices become due
//	push.drain                 100,000 due devices, a third to each provider, sent to by the dispatcher
//	push.isolation             what the other senders keep of their rate while one provider is silent, then dead
//
// The floor of push.rate is net/http over HTTP/2 that sends the very requests our sender made, recorded
// before, with as many workers: all that it spares is making them, which for Web Push is a key agreement, an encryption
// and a signature each. That of push.mark is appending the same batch to the log. That of push.drain is the
// same senders with the same targets and as many workers, out of memory: without store, dispatcher and ledger.
// That of push.isolation is the same senders' rate just before; all are paced then, since what a dead provider leaves of
// the machine would hide what it takes from the others.
//
// The providers are clientsim's, in a process of its own, and so is the dispatcher. Its lanes have no ramp,
// which would take a large fan-out to full speed in a minute, and the devices are urgent, so that the minutes around the
// quarters of an hour are like all others. The apps are on the phones' screens, where a push runs them at once.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/nudgesync/nudge/internal/bench"
)

// options are the flags.
type options struct {
	clientsim string
	devices   int
	pushes    int
	pairs     int
	drains    int
	paced     float64
	phase     time.Duration
	only      string
	profile   string
	sink      bench.Sink
}

const (
	workers    = 16 // of each sender, where nothing else is said
	roads      = 3
	batch      = 1000 // changes
	fewDevices = 1000
)

func main() { bench.Main("push", start) }

func start(ctx context.Context, args []string, out io.Writer) error {
	var o options
	var be string
	flags := flag.NewFlagSet("push", flag.ContinueOnError)
	flags.StringVar(&o.clientsim, "clientsim", ".bin/clientsim", "the program that simulates the providers")
	flags.IntVar(&o.devices, "devices", 100_000, "devices, a third on each road")
	flags.IntVar(&o.pushes, "pushes", 8000, "pushes of a run with 16 workers; fewer workers send fewer")
	flags.IntVar(&o.pairs, "pairs", 3, "runs of subject and floor, in turn")
	flags.IntVar(&o.drains, "drains", 3, "pairs of drains")
	flags.Float64Var(&o.paced, "paced", 300, "pushes a second of each sender, where one of them is dead")
	flags.DurationVar(&o.phase, "phase", 6*time.Second, "how long a provider is silent, and then dead")
	flags.StringVar(&o.only, "only", "", "of rate, mark, drain and isolation, with commas between: measure these alone")
	flags.StringVar(&o.profile, "cpuprofile", "", "write CPU profiles of the first runs to this prefix, + .apns, .fcm, .webpush and .drain")
	flags.StringVar(&be, "be", "", "for internal use: be the dispatcher")
	o.sink.Flags(flags)
	if err := flags.Parse(args); err != nil {
		return err
	}
	switch {
	case be == beDispatcher:
		return dispatch(ctx, os.Stdin, out)
	case be != "":
		return fmt.Errorf("nothing is called %q", be)
	case o.pairs < 3 || o.drains < 1 || o.devices < 30_000 || o.pushes < 1000 || o.paced < 1 || o.phase < time.Second:
		return errors.New("at least 3 pairs, a drain, 30,000 devices, 1,000 pushes, a push a second, and a second")
	case o.used() > o.devices/roads:
		return fmt.Errorf("a device takes only %d pushes: that needs %d devices, or fewer pushes or pairs", forDevice, o.used()*roads)
	}
	return measure(ctx, o, out)
}

// forDevice is how many pushes a device gets while rates are measured. FCM lets it have 20 collapsible ones, and the
// drains want some.
const forDevice = 10

// used is how many devices of a road that takes.
func (o *options) used() int {
	runs := 2 * (o.pairs + 1)
	return runs*(o.pushes/8+o.pushes/4+o.pushes)/forDevice + 1
}

// runner is a measurement under way.
type runner struct {
	options
	out   io.Writer
	fakes *providers

	results []bench.Result
}

func measure(ctx context.Context, o options, out io.Writer) (err error) {
	r := &runner{options: o, out: out}
	if r.fakes, err = openProviders(ctx, o.clientsim); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.fakes.Stop()) }()
	targets, err := r.fakes.targets(ctx, o.devices)
	if err != nil {
		return err
	}
	if r.wanted("rate") {
		if err := r.rates(ctx, targets); err != nil {
			return err
		}
	}
	if o.only == "rate" {
		return o.sink.Finish(ctx, out, r.results)
	}
	s, err := openStock(ctx)
	if err != nil {
		return err
	}
	defer s.close(context.WithoutCancel(ctx))
	if err := r.stocked(ctx, s, targets); err != nil {
		return err
	}
	return o.sink.Finish(ctx, out, r.results, "Postgres "+s.version)
}

// stocked measures what needs a database.
func (r *runner) stocked(ctx context.Context, s *stock, targets []target) error {
	if err := s.register(ctx, targets[:fewDevices/roads*roads]); err != nil {
		return err
	}
	if r.wanted("mark") {
		if err := r.marks(ctx, s, fmt.Sprintf("push.mark.%d", fewDevices), fewDevices/roads); err != nil {
			return err
		}
	}
	began := time.Now()
	if err := s.register(ctx, targets[fewDevices/roads*roads:]); err != nil {
		return err
	}
	if err := r.say("registered %d devices in %.1f s\n", len(targets), time.Since(began).Seconds()); err != nil {
		return err
	}
	if r.wanted("mark") {
		name := fmt.Sprintf("push.mark.%d", r.devices)
		if err := r.marks(ctx, s, name, fewDevices/roads); err != nil {
			return err
		}
		if err := r.marks(ctx, s, name+".wide", batch); err != nil {
			return err
		}
	}
	if r.wanted("drain") {
		if err := r.drain(ctx, s, targets); err != nil {
			return err
		}
	}
	if r.wanted("isolation") {
		return r.isolation(ctx, s)
	}
	return nil
}

func (r *runner) wanted(what string) bool {
	return r.only == "" || slices.Contains(strings.Split(r.only, ","), what)
}

func (r *runner) say(format string, args ...any) error {
	_, err := fmt.Fprintf(r.out, format, args...)
	return err
}
