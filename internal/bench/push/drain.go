package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/nudgesync/nudge/internal/bench"
)

// unpaced is more pushes a second than any sender makes here.
const unpaced = 1e6

// sending is a process that sends.
type sending struct{ *bench.Process }

// send starts a job's process, and has it begin.
func (r *runner) send(ctx context.Context, j job) (sending, error) {
	j.At = r.fakes.addresses
	text, err := json.Marshal(j)
	if err != nil {
		return sending{}, err
	}
	cmd, err := bench.Self(ctx, "-be", beDispatcher)
	if err != nil {
		return sending{}, err
	}
	p, err := bench.Start(cmd, text)
	if err != nil {
		return sending{}, err
	}
	return sending{p}, p.Tell("go")
}

func (s sending) counts() (counts, error) {
	var c counts
	if err := s.Tell("?"); err != nil {
		return c, err
	}
	line, err := s.Line()
	if err != nil {
		return c, err
	}
	return c, json.Unmarshal([]byte(line), &c)
}

// drained is what it took to send to all.
type drained struct {
	perSecond float64
	seconds   float64
	counts    counts
	cost      bench.Cost
	fake      time.Duration // CPU
}

// until waits until so many were sent to.
func (r *runner) until(ctx context.Context, j job, n int) (d drained, err error) {
	before, err := bench.CostOf(r.fakes.PID)
	if err != nil {
		return d, err
	}
	began := time.Now()
	s, err := r.send(ctx, j)
	if err != nil {
		return d, err
	}
	defer func() { err = errors.Join(err, s.Stop()) }()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for d.counts.accepted() < int64(n) {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return d, ctx.Err()
		}
		if d.counts, err = s.counts(); err != nil {
			return d, err
		}
		if time.Since(began) > 2*time.Minute {
			return d, fmt.Errorf("sent to %d of %d in two minutes: %+v", d.counts.accepted(), n, d.counts)
		}
	}
	d.seconds = time.Since(began).Seconds()
	d.perSecond = float64(n) / d.seconds
	after, err := bench.CostOf(r.fakes.PID)
	if err != nil {
		return d, err
	}
	d.fake = after.CPU - before.CPU
	d.cost, err = bench.CostOf(s.PID)
	return d, err
}

// drain measures the dispatcher over all devices, and the senders alone.
func (r *runner) drain(ctx context.Context, s *stock, targets []target) error {
	dir, err := os.MkdirTemp("", "nudge-bench-")
	if err != nil {
		return fmt.Errorf("make a directory: %w", err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	file := filepath.Join(dir, "targets.json")
	alone := targets[:len(targets)/5] // a rate takes no more
	text, err := json.Marshal(alone)
	if err != nil {
		return err
	}
	if err := os.WriteFile(file, text, 0o600); err != nil {
		return fmt.Errorf("write the targets: %w", err)
	}
	var subjects, floors []float64
	var last drained
	for pair := range r.drains {
		if err := s.due(ctx); err != nil {
			return err
		}
		j := job{DSN: s.dsn(), Rate: unpaced}
		if pair == 0 && r.profile != "" {
			j.Profile = r.profile + ".drain"
		}
		if last, err = r.until(ctx, j, len(targets)); err != nil {
			return err
		}
		if err := s.nobodyDue(ctx); err != nil {
			return err
		}
		floor, err := r.until(ctx, job{Targets: file}, len(alone))
		if err != nil {
			return err
		}
		subjects, floors = append(subjects, last.perSecond), append(floors, floor.perSecond)
		micros := func(d time.Duration, n int) float64 { return d.Seconds() * 1e6 / float64(n) }
		err = r.say("%-22s %d  %5.1f s, %6.0f pushes/s  CPU a push: ours %5.1f µs, fake %5.1f   floor %6.0f, CPU %5.1f, fake %5.1f\n",
			"push.drain", pair+1, last.seconds, last.perSecond, micros(last.cost.CPU, len(targets)), micros(last.fake, len(targets)),
			floor.perSecond, micros(floor.cost.CPU, len(alone)), micros(floor.fake, len(alone)))
		if err != nil {
			return err
		}
	}
	res := bench.Result{Metric: "push.drain", Unit: "pushes/s", Better: "higher", Note: fmt.Sprintf(
		"%d devices in %.1f s, no ramp; %d statements, %d connections; CPU %.1f s and the fake providers' %.1f s, peak memory %.0f MB; %d answers were not \"accepted\"",
		len(targets), last.seconds, last.counts.Statements, last.counts.Connections, last.cost.CPU.Seconds(), last.fake.Seconds(),
		float64(last.cost.Peak)/1e6, last.counts.refused())}
	r.results = append(r.results, bench.Pairs(res, subjects, floors))
	return nil
}

func (c counts) refused() (n int64) {
	for _, of := range c.Refused {
		n += of
	}
	return n
}

// nobodyDue is an error if a device was left out, or its answer not settled.
func (s *stock) nobodyDue(ctx context.Context) error {
	var left, unsettled int
	err := s.admin.QueryRow(ctx, `select (select count(*) from nudge.due where pushes = 0),
		(select count(*) from nudge.wakes where status = 'sent')`).Scan(&left, &unsettled)
	if err != nil {
		return fmt.Errorf("look at the devices: %w", err)
	}
	if left > 0 || unsettled > 0 {
		return fmt.Errorf("%d devices were left out, and %d pushes not settled", left, unsettled)
	}
	return nil
}
