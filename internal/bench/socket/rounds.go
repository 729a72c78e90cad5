package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nudgesync/nudge/internal/bench"
	"github.com/nudgesync/nudge/internal/bench/site"
)

// saturated is the median commit, in milliseconds, from which on latencies say only how long the run was.
const saturated = 100

// sockets measures everything that the sockets of a node have to do with.
func (r *runner) sockets(ctx context.Context, i int) (err error) {
	node, err := r.site.Serve(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, node.Stop()) }()
	if err := r.site.CaughtUp(ctx); err != nil {
		return err
	}
	before, err := bench.CostOf(node.PID)
	if err != nil {
		return err
	}
	began := time.Now()
	crowd, err := r.crowd(ctx, joining{Addr: node.Public})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, crowd.Stop()) }()
	if err := r.say("nudge    %d  %d sockets in %.1f s\n", i+1, r.options.sockets, time.Since(began).Seconds()); err != nil {
		return err
	}
	perSocket, err := r.perSocket(ctx, node.PID, before)
	if err != nil {
		return err
	}
	r.of("socket.rss").subject = append(r.of("socket.rss").subject, perSocket)
	if err := r.say("nudge    %d  %.2f KB a socket\n", i+1, perSocket); err != nil {
		return err
	}
	profiled := r.profiling(ctx, i, node, "fanout", time.Duration(r.options.fans)*pause)
	fan, err := r.fans(ctx, "nudge", i, crowd, func() error {
		return r.site.Exec(ctx, `insert into intakes (user_id, medication_id, status, dose, note)
			select u, 1, 'taken', 1.50, 'after breakfast' from generate_series(1, $1::int) u order by random()`, r.options.sockets)
	})
	if err := errors.Join(err, <-profiled); err != nil {
		return err
	}
	r.of("nudge.fanout").subject = append(r.of("nudge.fanout").subject, fan)
	return r.latencies(ctx, i, node, crowd)
}

// pause is between two fan-outs: a session is nudged four times a second at most.
const pause = 500 * time.Millisecond

// profiling takes a profile of the node if one is wanted, and says when it is written.
func (r *runner) profiling(ctx context.Context, i int, node *site.Node, name string, d time.Duration) <-chan error {
	done := make(chan error, 1)
	if r.profile == "" || i > 0 {
		done <- nil
		return done
	}
	go func() { done <- node.Profile(ctx, r.profile+"."+name, max(d, time.Second)) }()
	return done
}

// fans is the median of some fan-outs' rates.
func (r *runner) fans(ctx context.Context, name string, i int, crowd crowdProcess, fan func() error) (float64, error) {
	var rates []float64
	for range r.options.fans {
		h, err := crowd.do(request{}, fan)
		if err != nil {
			return 0, err
		}
		if h.Missed > 0 {
			return 0, fmt.Errorf("%s: %d of a fan-out's frames did not come", name, h.Missed)
		}
		r.frame = h.Frame
		rates = append(rates, h.PerSecond)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
	rate := bench.Median(rates)
	return rate, r.say("%-8s %d  fan-out: %.0f frames of %d bytes a second\n", name, i+1, rate, r.frame)
}

// latencies measures commits, nudges and pulls, and their floors in turn.
func (r *runner) latencies(ctx context.Context, i int, node *site.Node, crowd crowdProcess) error {
	run := func(name string, req request) (heard, error) {
		req.Lasting = r.lasting
		profiled := r.profiling(ctx, i, node, name, r.lasting)
		h, err := crowd.do(req, nil)
		if err := errors.Join(err, <-profiled); err != nil {
			return h, err
		}
		if h.Missed > 0 {
			r.broken = fmt.Sprintf("%d of %.0f commits did not reach their device (%s)", h.Missed, req.Rate*req.Lasting.Seconds(), name)
		}
		return h, r.say("%-8s %d  %4.0f commits/s  commit p50 %5.2f p99 %6.2f   heard p50 %5.2f p99 %6.2f p99.9 %6.2f   pulled p50 %5.2f p99 %6.2f ms, %d refused, %d missed\n",
			name, i+1, req.Rate, h.Commit50, h.Commit99, h.Nudge50, h.Nudge99, h.Nudge999, h.Delta50, h.Delta99, h.Refused, h.Missed)
	}
	quiet, err := run("nudge", request{Rate: r.rate})
	if err != nil {
		return err
	}
	notify, err := run("NOTIFY", request{Rate: r.rate, Notify: true})
	if err != nil {
		return err
	}
	pulling, err := run("pulls", request{Rate: r.rate, Pulls: true})
	if err != nil {
		return err
	}
	fast, err := run("fast", request{Rate: r.fast, Pulls: true})
	if err != nil {
		return err
	}
	notifyFast, err := run("NOTIFY", request{Rate: r.fast, Notify: true})
	if err != nil {
		return err
	}
	r.pair("nudge.p50", quiet.Nudge50, quiet.Commit50)
	r.pair("nudge.p99", quiet.Nudge99, notify.Nudge99)
	r.pair("delta.p50", pulling.Delta50, pulling.Commit50)
	r.pair("nudge.p99.2000", fast.Nudge99, notifyFast.Nudge99)
	r.notes["nudge.p99"] = fmt.Sprintf("p99.9 %.1f ms (floor %.1f), in the last pair", quiet.Nudge999, notify.Nudge999)
	if worst := max(fast.Commit50, notifyFast.Commit50); worst > saturated {
		r.floods = fmt.Sprintf("the database did not keep up with %.0f commits a second (p50 %.0f ms): this row does not count; ", r.fast, worst)
	}
	r.notes["nudge.p99.2000"] = r.floods + fmt.Sprintf("p99.9 %.1f ms (floor %.1f), commit p99 %.1f ms (floor's %.1f), in the last pair",
		fast.Nudge999, notifyFast.Nudge999, fast.Commit99, notifyFast.Commit99)
	return nil
}

// raw measures the memory of a connection that has a goroutine and nothing else.
func (r *runner) raw(ctx context.Context, i int) (err error) {
	server, err := r.serve(ctx, beRaw)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, server.Stop()) }()
	before, err := bench.CostOf(server.PID)
	if err != nil {
		return err
	}
	crowd, err := r.crowd(ctx, joining{Addr: server.First, Raw: true})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, crowd.Stop()) }()
	perSocket, err := r.perSocket(ctx, server.PID, before)
	if err != nil {
		return err
	}
	r.of("socket.rss").floor = append(r.of("socket.rss").floor, perSocket)
	return r.say("raw      %d  %.2f KB a connection\n", i+1, perSocket)
}

// websockets measures what coder/websocket can write.
func (r *runner) websockets(ctx context.Context, i int) (err error) {
	server, err := r.serve(ctx, beWebSockets)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, server.Stop()) }()
	crowd, err := r.crowd(ctx, joining{Addr: server.First})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, crowd.Stop()) }()
	fan, err := r.fans(ctx, "floor", i, crowd, func() error { return server.Tell("fan") })
	r.of("nudge.fanout").floor = append(r.of("nudge.fanout").floor, fan)
	return err
}
