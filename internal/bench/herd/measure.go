package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/nudgesync/nudge/internal/bench"
	"github.com/nudgesync/nudge/internal/bench/floor"
	"github.com/nudgesync/nudge/internal/bench/site"
)

const (
	changes = 3  // that each device lacks
	rows    = 5  // that each user has from before
	most    = 20 // connections that nudge may have, its default
	goal    = 1.5
)

// runner measures one herd after the other.
type runner struct {
	options

	out     io.Writer
	site    *site.Site
	node    *site.Node
	devices []site.Device
	file    string // they stand in
}

// measure prepares a site, lets the herds come, and keeps the results.
func measure(ctx context.Context, o options, out io.Writer) (err error) {
	s, err := site.Open(ctx, o.program, map[string]string{"shared_preload_libraries": "pg_stat_statements"})
	if err != nil {
		return err
	}
	defer s.Close(context.WithoutCancel(ctx))
	if err := s.Exec(ctx, "create extension pg_stat_statements"); err != nil {
		return err
	}
	r := &runner{options: o, out: out, site: s}
	if err := r.write(ctx, rows); err != nil {
		return err
	}
	if r.node, err = s.Serve(ctx); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.node.Stop()) }()
	began := time.Now()
	if r.devices, err = r.node.Devices(ctx, o.devices, 1); err != nil {
		return err
	}
	if err := r.say("Postgres %s; %d devices, which received everything in %.0f s; %d connections:\n",
		s.Version, o.devices, time.Since(began).Seconds(), o.connections); err != nil {
		return err
	}
	if err := r.save(); err != nil {
		return err
	}
	defer func() { _ = os.Remove(r.file) }()
	current, err := r.compare(ctx, "current", o.pairs)
	if err != nil {
		return err
	}
	if err := r.change(ctx); err != nil {
		return err
	}
	changed, err := r.compare(ctx, "changed", o.pairs)
	if err != nil {
		return err
	}
	if err := r.expire(ctx); err != nil {
		return err
	}
	expired, err := r.compare(ctx, "expired", 1)
	if err != nil {
		return err
	}
	current.Goal, changed.Goal = goal, goal
	worse := current
	if changed.Broken != "" || current.Broken == "" && changed.Ratio > current.Ratio {
		worse = changed
	}
	worse.Metric, worse.Note = "herd.p99", "as "+worse.Metric+", the worse of the two"
	return o.sink.Finish(ctx, out, []bench.Result{worse, current, changed, expired}, "Postgres "+s.Version)
}

func (r *runner) say(format string, args ...any) error {
	_, err := fmt.Fprintf(r.out, format, args...)
	return err
}

// write gives each user rows, in one transaction.
func (r *runner) write(ctx context.Context, n int) error {
	return r.site.Exec(ctx, `
insert into intakes (user_id, medication_id, status, dose, note)
select u, i, 'taken', 1.50, 'after breakfast' from generate_series(1, $1::int) u, generate_series(1, $2::int) i`, r.options.devices, n)
}

func (r *runner) change(ctx context.Context) error {
	if err := r.write(ctx, changes); err != nil {
		return err
	}
	return r.node.Await(ctx, r.devices[0], changes)
}

// expire drops what the log holds: no cursor of before can be followed.
func (r *runner) expire(ctx context.Context) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+r.node.Admin+"/v1/admin/log/trim", http.NoBody)
	if err != nil {
		return err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	if err := res.Body.Close(); err != nil {
		return err
	}
	if res.StatusCode != http.StatusNoContent {
		return fmt.Errorf("trim the log: %s", res.Status)
	}
	return nil
}

// save writes the devices down for the herd's process.
func (r *runner) save() error {
	text, err := json.Marshal(r.devices)
	if err != nil {
		return err
	}
	r.file = filepath.Join(os.TempDir(), fmt.Sprintf("nudge-herd-%d.json", os.Getpid()))
	return os.WriteFile(r.file, text, 0o600)
}

// compare lets herds come to the node and to the constant handler in turn.
func (r *runner) compare(ctx context.Context, kind string, pairs int) (bench.Result, error) {
	res := bench.Result{Metric: "herd.p99." + kind, Unit: "ms", Better: "lower"}
	answer, err := r.node.Ask(ctx, &http.Client{Transport: &http.Transport{DisableCompression: true, DisableKeepAlives: true}}, r.devices[0], kind == "current")
	if err != nil {
		return res, err
	}
	constant, err := floor.Start(ctx, floor.Answer(answer))
	if err != nil {
		return res, err
	}
	defer func() { _ = constant.Stop() }() // nothing depends on how it ends
	var subject, floors []float64
	for i := range pairs {
		stop, err := watch(ctx, r.site)
		if err != nil {
			return res, err
		}
		s, err := r.herd(ctx, r.node.Public, kind, i == 0)
		if err != nil {
			return res, err
		}
		w, err := stop()
		if err != nil {
			return res, err
		}
		f, err := r.herd(ctx, constant.First, kind, false)
		if err != nil {
			return res, err
		}
		if err := r.line(kind, "nudge", i, s, fmt.Sprintf("  database: %d connections, %d statements", w.connections, w.statements)); err != nil {
			return res, err
		}
		if err := r.line(kind, "constant", i, f, ""); err != nil {
			return res, err
		}
		if f.Failed > 0 {
			return res, fmt.Errorf("%d requests to the constant handler failed: %s", f.Failed, f.Error)
		}
		switch {
		case s.Failed > 0:
			res.Broken = fmt.Sprintf("%d devices failed: %s", s.Failed, s.Error)
		case s.Overloaded > 0 && kind != "expired":
			res.Broken = fmt.Sprintf("%d answers of 503", s.Overloaded)
		case w.connections > most:
			res.Broken = fmt.Sprintf("%d connections to the database", w.connections)
		}
		res.Note = fmt.Sprintf("p50 %.1f ms (floor %.1f), %d answers of 503 (p50 %.1f, p99 %.1f ms), %d failed; database: %d connections, %d statements; all done after %.1f s",
			s.P50, f.P50, s.Overloaded, s.Refused50, s.Refused99, s.Failed, w.connections, w.statements, s.Elapsed.Seconds())
		subject, floors = append(subject, s.P99), append(floors, f.P99)
	}
	return bench.Pairs(res, subject, floors), nil
}

func (r *runner) line(kind, name string, i int, s seen, more string) error {
	return r.say("%-8s %-9s %d  p50 %8.1f ms  p99 %8.1f ms  max %8.1f ms  %d answers, %d of 503, %d devices failed, done in %.2f s%s\n",
		kind, name, i+1, s.P50, s.P99, s.Max, s.Answers, s.Overloaded, s.Failed, s.Elapsed.Seconds(), more)
}

// herd has a process of its own ask.
func (r *runner) herd(ctx context.Context, addr, kind string, profiled bool) (seen, error) {
	var s seen
	input, err := json.Marshal(herd{
		Addr: addr, Devices: r.file, Connections: min(r.connections, len(r.devices)), Within: r.within,
		Patience: r.patience, Validate: kind == "current",
	})
	if err != nil {
		return s, err
	}
	cmd, err := bench.Self(ctx, "-load")
	if err != nil {
		return s, err
	}
	p, err := bench.Start(cmd, input)
	if err != nil {
		return s, err
	}
	profile := make(chan error, 1)
	go func() {
		if r.profile == "" || !profiled {
			profile <- nil
			return
		}
		profile <- r.node.Profile(ctx, r.profile+"."+kind, max(r.within, time.Second)+time.Second)
	}()
	err = p.Tell("go")
	var line string
	if err == nil {
		line, err = p.Line()
	}
	if err == nil {
		err = json.Unmarshal([]byte(line), &s)
	}
	return s, errors.Join(err, <-profile, p.Stop())
}
