package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/nudgesync/nudge/internal/bench"
	"github.com/nudgesync/nudge/internal/bench/site"
)

// calm is how long a server is left alone before its memory is looked at.
const calm = 5 * time.Second

// runner measures one thing after the other.
type runner struct {
	options

	out     io.Writer
	site    *site.Site
	file    string // the devices stand in
	figures map[string]*figures
	broken  string
	notes   map[string]string
	floods  string // said of a run that the database did not keep up with
	frame   int64  // bytes of a nudge
}

// figures are a metric's, in pairs.
type figures struct{ subject, floor []float64 }

// metrics are what is measured, in the order in which it is printed.
func metrics() []bench.Result {
	return []bench.Result{
		{Metric: "nudge.p50", Unit: "ms", Must: 2.5, Goal: 1.7, Better: "lower"},
		{Metric: "nudge.p99", Unit: "ms", Must: 4, Goal: 2, Better: "lower"},
		{Metric: "nudge.p99.2000", Unit: "ms", Must: 6, Goal: 3, Better: "lower"},
		{Metric: "delta.p50", Unit: "ms", Must: 3.5, Goal: 2.3, Better: "lower"},
		{Metric: "writers.throughput", Unit: "commits/s", Must: 0.70, Goal: 0.80, Better: "higher"},
		{Metric: "socket.rss", Unit: "KB", Must: 3.5, Goal: 2.7, Better: "lower", Usual: 3.6},
		{Metric: "nudge.fanout", Unit: "nudges/s", Must: 0.75, Goal: 0.95, Better: "higher"},
	}
}

// measure prepares a site, runs everything on it, and keeps the results.
func measure(ctx context.Context, o options, out io.Writer) error {
	s, err := site.Open(ctx, o.program, nil)
	if err != nil {
		return err
	}
	defer s.Close(context.WithoutCancel(ctx))
	r := &runner{options: o, out: out, site: s, figures: map[string]*figures{}, notes: map[string]string{}}
	if err := r.prepare(ctx); err != nil {
		return err
	}
	defer func() { _ = os.Remove(r.file) }()
	for i := range o.pairs {
		for _, round := range []func(context.Context, int) error{r.writers, r.sockets, r.raw, r.websockets} {
			if err := round(ctx, i); err != nil {
				return err
			}
		}
	}
	var all []bench.Result
	for _, res := range metrics() {
		f := r.figures[res.Metric]
		res.Note = r.notes[res.Metric]
		if res.Unit == "ms" {
			res.Broken = r.broken
		}
		all = append(all, bench.Pairs(res, f.subject, f.floor))
	}
	return o.sink.Finish(ctx, out, all, "Postgres "+s.Version)
}

func (r *runner) say(format string, args ...any) error {
	_, err := fmt.Fprintf(r.out, format, args...)
	return err
}

func (r *runner) of(metric string) *figures {
	if r.figures[metric] == nil {
		r.figures[metric] = &figures{}
	}
	return r.figures[metric]
}

func (r *runner) pair(metric string, subject, floor float64) {
	f := r.of(metric)
	f.subject, f.floor = append(f.subject, subject), append(f.floor, floor)
}

// prepare lets every device receive everything, and writes them down for the crowd.
func (r *runner) prepare(ctx context.Context) error {
	node, err := r.site.Serve(ctx)
	if err != nil {
		return err
	}
	began := time.Now()
	devices, err := node.Devices(ctx, r.options.sockets, 1)
	if err := errors.Join(err, node.Stop()); err != nil {
		return err
	}
	text, err := json.Marshal(devices)
	if err != nil {
		return err
	}
	r.file = filepath.Join(os.TempDir(), fmt.Sprintf("nudge-sockets-%d.json", os.Getpid()))
	if err := os.WriteFile(r.file, text, 0o600); err != nil {
		return err
	}
	return r.say("Postgres %s; %d devices, which received everything in %.0f s:\n", r.site.Version, len(devices), time.Since(began).Seconds())
}

// crowd is the process that holds the sockets.
type crowdProcess struct{ *bench.Process }

func (r *runner) crowd(ctx context.Context, j joining) (crowdProcess, error) {
	j.Devices, j.DSN = r.file, r.site.DSN("postgres")
	input, err := json.Marshal(j)
	if err != nil {
		return crowdProcess{}, err
	}
	cmd, err := bench.Self(ctx, "-be", beCrowd)
	if err != nil {
		return crowdProcess{}, err
	}
	p, err := bench.Start(cmd, input)
	return crowdProcess{p}, err
}

// do has the crowd do something; meanwhile is called once it listens, for what it does not write itself.
func (c crowdProcess) do(req request, meanwhile func() error) (heard, error) {
	var h heard
	line, err := json.Marshal(req)
	if err != nil {
		return h, err
	}
	if err := c.Tell(string(line)); err != nil {
		return h, err
	}
	if meanwhile != nil {
		if _, err := c.Line(); err != nil {
			return h, err
		}
		if err := meanwhile(); err != nil {
			return h, err
		}
	}
	answer, err := c.Line()
	if err != nil {
		return h, err
	}
	return h, json.Unmarshal([]byte(answer), &h)
}

// serve starts a server of this program's.
func (r *runner) serve(ctx context.Context, be string) (*bench.Process, error) {
	cmd, err := bench.Self(ctx, "-be", be, "-frame", strconv.FormatInt(r.frame, 10))
	if err != nil {
		return nil, err
	}
	return bench.Start(cmd, nil)
}

// resident is a process's memory, after a while in which nothing happens to it.
func resident(ctx context.Context, pid int) (int64, error) {
	select {
	case <-time.After(calm):
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	c, err := bench.CostOf(pid)
	return c.Resident, err
}

// perSocket is the memory in KB that a server has taken since before, a socket.
func (r *runner) perSocket(ctx context.Context, pid int, before bench.Cost) (float64, error) {
	after, err := resident(ctx, pid)
	return float64(after-before.Resident) / 1e3 / float64(r.options.sockets), err
}
