package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/nudgesync/nudge/internal/bench"
	"github.com/nudgesync/nudge/internal/bench/floor"
	"github.com/nudgesync/nudge/internal/bench/site"
)

const (
	changes = 3 // that a pull brings
	warmup  = time.Second
	// filler is how many changes push the others out of a memory of the least size.
	filler    = 20_000
	leastTail = "NUDGE_LIMITS_TAIL_BYTES=1MiB"
)

// runner measures one kind of pull after the other.
type runner struct {
	options

	out     io.Writer
	site    *site.Site
	wrk     *wrk
	results []bench.Result
}

// measure prepares a site, runs everything on it, and keeps the results.
func measure(ctx context.Context, o options, out io.Writer) error {
	w, err := newWrk(o.connections, o.lasting)
	if err != nil {
		return err
	}
	defer w.close()
	s, err := site.Open(ctx, o.program, nil)
	if err != nil {
		return err
	}
	defer s.Close(context.WithoutCancel(ctx))
	r := &runner{options: o, out: out, site: s, wrk: w}
	if err := r.say("Postgres %s, %s; %d devices, %d connections:\n", s.Version, version(ctx), o.users, o.connections); err != nil {
		return err
	}
	if err := r.memory(ctx); err != nil {
		return err
	}
	if err := r.ownLog(ctx); err != nil {
		return err
	}
	return o.sink.Finish(ctx, out, r.results, "Postgres "+s.Version, version(ctx))
}

func (r *runner) say(format string, args ...any) error {
	_, err := fmt.Fprintf(r.out, format, args...)
	return err
}

// memory measures what comes from memory, and then what comes from the log once memory has forgotten it.
func (r *runner) memory(ctx context.Context) error {
	node, err := r.site.Serve(ctx)
	if err != nil {
		return err
	}
	devices, err := r.begin(ctx, node)
	if err != nil {
		return stopped(node, err)
	}
	err = r.compare(ctx, node, devices, bench.Result{Metric: "pull.check", Must: 0.65, Goal: 0.88}, `{code="304",source="tail"}`)
	if err == nil {
		err = r.change(ctx, node, devices)
	}
	if err == nil {
		err = r.compare(ctx, node, devices, bench.Result{Metric: "pull.tail", Must: 0.45, Goal: 0.70}, `{code="200",source="tail"}`)
	}
	if err := stopped(node, err); err != nil {
		return err
	}
	if node, err = r.site.Serve(ctx, leastTail); err != nil {
		return err
	}
	err = r.forget(ctx)
	if err == nil {
		err = r.compare(ctx, node, devices, bench.Result{Metric: "pull.log"}, `{code="200",source="log"}`)
	}
	return stopped(node, err)
}

// ownLog measures what comes from a log that has a database of its own.
func (r *runner) ownLog(ctx context.Context) error {
	env, err := r.site.OwnLog(ctx)
	if err != nil {
		return err
	}
	node, err := r.site.Serve(ctx, append(env, leastTail)...)
	if err != nil {
		return err
	}
	devices, err := r.begin(ctx, node)
	if err == nil {
		err = r.change(ctx, node, devices)
	}
	if err == nil {
		err = r.forget(ctx)
	}
	if err == nil {
		err = r.compare(ctx, node, devices, bench.Result{Metric: "pull.log.own"}, `{code="200",source="log"}`)
	}
	return stopped(node, err)
}

func stopped(node *site.Node, err error) error {
	if stop := node.Stop(); err == nil {
		return stop
	}
	return err
}

// begin lets every device receive everything.
func (r *runner) begin(ctx context.Context, node *site.Node) ([]site.Device, error) {
	began := time.Now()
	devices, err := node.Devices(ctx, r.users, 1)
	if err != nil {
		return nil, err
	}
	return devices, r.say("%d devices received everything in %.1f s\n", len(devices), time.Since(began).Seconds())
}

// change gives every user what a pull is to bring, in one transaction each.
func (r *runner) change(ctx context.Context, node *site.Node, devices []site.Device) error {
	err := r.site.Exec(ctx, `
do $$ begin
  for u in 1 .. `+fmt.Sprint(r.users)+` loop
    insert into intakes (user_id, medication_id, status, dose, note)
    select u, i, 'taken', 1.50, 'after breakfast' from generate_series(1, `+fmt.Sprint(changes)+`) i;
    commit;
  end loop;
end $$`)
	if err != nil {
		return err
	}
	return node.Await(ctx, devices[len(devices)-1], changes)
}

// forget writes so much for somebody else that memory has nothing left of the devices' changes.
func (r *runner) forget(ctx context.Context) error {
	return r.site.Exec(ctx, `
insert into intakes (user_id, medication_id, status, dose, note)
select 0, i, 'taken', 1.50, 'after breakfast' from generate_series(1, $1::int) i`, filler)
}

// compare lets subject and floor have their turns. counted are the labels that every answer has to be
// counted under: else something else was measured.
func (r *runner) compare(ctx context.Context, node *site.Node, devices []site.Device, res bench.Result, counted string) error {
	if err := r.wrk.prepare(res.Metric, devices, res.Metric == "pull.check"); err != nil {
		return err
	}
	constant, err := r.constant(ctx, node, devices[0], res.Metric)
	if err != nil {
		return err
	}
	defer func() { _ = constant.Stop() }() // nothing depends on how it ends
	for _, addr := range []string{node.Public, constant.First} {
		if _, err := r.wrk.run(ctx, addr, res.Metric, warmup); err != nil {
			return fmt.Errorf("%s, warming up: %w", res.Metric, err)
		}
	}
	before, err := node.Metrics(ctx)
	if err != nil {
		return err
	}
	var subject, floors, cpu, floorCPU []float64
	var answers int
	for i := range r.pairs {
		profiled := make(chan error, 1)
		profile := ""
		if r.profile != "" && i == 0 {
			profile = r.profile + "." + res.Metric
		}
		go func() {
			if profile == "" {
				profiled <- nil
				return
			}
			profiled <- node.Profile(ctx, profile, r.lasting)
		}()
		s, err := r.turn(ctx, node.Public, node.PID, res.Metric, "nudge", i)
		if e := <-profiled; err == nil {
			err = e
		}
		if err != nil {
			return err
		}
		f, err := r.turn(ctx, constant.First, constant.PID, res.Metric, "constant", i)
		if err != nil {
			return err
		}
		subject, floors = append(subject, s.rate), append(floors, f.rate)
		cpu, floorCPU = append(cpu, s.cpu), append(floorCPU, f.cpu)
		answers += s.answers
	}
	after, err := node.Metrics(ctx)
	if err != nil {
		return err
	}
	name := "nudge_pulls_total" + counted
	if n := after[name] - before[name]; n < 0.99*float64(answers) {
		return fmt.Errorf("%s: of %d answers only %.0f were %s: %v", res.Metric, answers, n, counted, after)
	}
	res.Unit, res.Better = "pulls/s", "higher"
	res.Note = fmt.Sprintf("%.1f µs of CPU a pull, the floor %.1f", bench.Median(cpu), bench.Median(floorCPU))
	r.results = append(r.results, bench.Pairs(res, subject, floors))
	return nil
}

func (r *runner) turn(ctx context.Context, addr string, pid int, metric, name string, i int) (loaded, error) {
	before, err := bench.CostOf(pid)
	if err != nil {
		return loaded{}, err
	}
	l, err := r.wrk.run(ctx, addr, metric, r.lasting)
	if err != nil {
		return l, fmt.Errorf("%s, %s: %w", metric, name, err)
	}
	after, err := bench.CostOf(pid)
	if err != nil {
		return l, err
	}
	l.cpu = float64((after.CPU - before.CPU).Microseconds()) / float64(l.answers)
	return l, r.say("%-13s %-9s %d  %7.0f pulls/s  p50 %5.2f ms  p99 %6.2f ms  CPU %5.1f µs/pull\n", metric, name, i+1, l.rate,
		l.p50.Seconds()*1e3, l.p99.Seconds()*1e3, l.cpu)
}

// constant starts the floor: it answers as the node just answered one of the devices.
func (r *runner) constant(ctx context.Context, node *site.Node, d site.Device, metric string) (*bench.Process, error) {
	client := &http.Client{Transport: &http.Transport{DisableCompression: true}} // wrk asks for none
	defer client.CloseIdleConnections()
	answer, err := node.Ask(ctx, client, d, metric == "pull.check")
	if err != nil {
		return nil, err
	}
	return floor.Start(ctx, floor.Answer(answer))
}
