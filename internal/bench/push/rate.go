package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime/pprof"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nudgesync/nudge/internal/bench"
	"github.com/nudgesync/nudge/notify/push"
)

const day = 24 * time.Hour

// share has workers call fn with 0 to n-1, until one fails. It returns how long that took.
func share(workers, n int, fn func(i int) error) (time.Duration, error) {
	var (
		next   atomic.Int64
		failed atomic.Pointer[error]
		work   sync.WaitGroup
	)
	began := time.Now()
	for range workers {
		work.Go(func() {
			for failed.Load() == nil {
				i := int(next.Add(1)) - 1
				if i >= n {
					return
				}
				if err := fn(i); err != nil {
					failed.Store(&err)
				}
			}
		})
	}
	work.Wait()
	if err := failed.Load(); err != nil {
		return 0, *err
	}
	return time.Since(began), nil
}

// sendOne sends, and takes no answer but that it was accepted.
func sendOne(ctx context.Context, s push.Sender, t target) error {
	if a := s.Send(ctx, t.message("p.0123456789abcdef0123456789abcdef")); a.Outcome != push.Accepted {
		return fmt.Errorf("%s: %v, %s", t.Road, a.Outcome, a.Reason)
	}
	return nil
}

// warm opens the connection: a provider may take one stream alone until it has accepted something.
func warm(ctx context.Context, s push.Sender, t target) error { return sendOne(ctx, s, t) }

// rates measures the senders one by one. The worst of them with most workers is push.rate.
func (r *runner) rates(ctx context.Context, targets []target) error {
	var worst bench.Result
	for i, road := range allRoads() {
		var own []target
		for k := i; k < len(targets); k += roads {
			own = append(own, targets[k])
		}
		own = own[:r.used()]
		requests, err := r.fakes.record(ctx, road.name, own)
		if err != nil {
			return fmt.Errorf("record %s: %w", road.name, err)
		}
		on := &onRoad{name: road.name, targets: own, requests: requests}
		for _, step := range []struct{ workers, share int }{{1, 8}, {4, 4}, {workers, 1}} {
			res, err := r.rate(ctx, on, step.workers, r.pushes/step.share)
			if err != nil {
				return fmt.Errorf("%s with %d workers: %w", road.name, step.workers, err)
			}
			r.results = append(r.results, res)
			if step.workers == workers && (worst.Metric == "" || res.Ratio < worst.Ratio) {
				worst = res
			}
		}
	}
	worst.Note = "as " + worst.Metric + ", the worst of the three; " + worst.Note
	worst.Metric, worst.Must, worst.Goal = "push.rate", 0.6, 0.9
	r.results = append(r.results, worst)
	return nil
}

// onRoad is what is sent over a road.
type onRoad struct {
	name     string
	targets  []target
	requests []request // the same, recorded
	next     int       // of both, so that all devices are used alike
}

// rate measures one sender with so many workers.
func (r *runner) rate(ctx context.Context, on *onRoad, workers, n int) (bench.Result, error) {
	res := bench.Result{Metric: "push.rate." + on.name + "." + strconv.Itoa(workers), Unit: "pushes/s", Better: "higher"}
	s, err := r.fakes.sender(ctx, on.name, workers, nil)
	if err != nil {
		return res, err
	}
	defer s.Close()
	b, err := r.fakes.bare(on.name, on.requests)
	if err != nil {
		return res, err
	}
	defer b.transport.CloseIdleConnections()
	if err := errors.Join(warm(ctx, s, on.targets[on.next%len(on.targets)]), b.send(ctx, on.next+1)); err != nil {
		return res, err
	}
	on.next += 2
	subject := func(i int) error { return sendOne(ctx, s, on.targets[(on.next+i)%len(on.targets)]) }
	floor := func(i int) error { return b.send(ctx, on.next+i) }
	var subjects, floors []float64
	var cost, floorCost []spent
	for pair := range r.pairs + 1 { // the first warms up
		stop := func() error { return nil }
		if pair == 1 && r.profile != "" && n == r.pushes {
			if stop, err = profile(r.profile + "." + on.name); err != nil {
				return res, err
			}
		}
		rate, c, err := r.turn(workers, n, subject)
		if err := errors.Join(err, stop()); err != nil {
			return res, err
		}
		on.next += n
		floorRate, fc, err := r.turn(workers, n, floor)
		if err != nil {
			return res, fmt.Errorf("floor: %w", err)
		}
		on.next += n
		if pair == 0 {
			continue
		}
		subjects, floors, cost, floorCost = append(subjects, rate), append(floors, floorRate), append(cost, c), append(floorCost, fc)
		err = r.say("%-22s %d  %6.0f pushes/s  CPU a push: ours %5.1f µs, fake %5.1f   floor %6.0f, CPU %5.1f, fake %5.1f\n",
			res.Metric, pair, rate, c.own, c.fake, floorRate, fc.own, fc.fake)
		if err != nil {
			return res, err
		}
	}
	own, fake, share := medians(cost)
	floorOwn, floorFake, floorShare := medians(floorCost)
	res.Note = fmt.Sprintf("CPU a push %.0f µs, and %.0f of the fake provider's, %.0f%% of all; the floor's %.0f and %.0f, %.0f%%",
		own, fake, share, floorOwn, floorFake, floorShare)
	return bench.Pairs(res, subjects, floors), nil
}

// spent is CPU time a push, in µs.
type spent struct{ own, fake float64 }

func medians(of []spent) (own, fake, share float64) {
	var owns, fakes []float64
	for _, s := range of {
		owns, fakes = append(owns, s.own), append(fakes, s.fake)
	}
	own, fake = bench.Median(owns), bench.Median(fakes)
	return own, fake, 100 * fake / (own + fake)
}

func (r *runner) turn(workers, n int, fn func(i int) error) (perSecond float64, s spent, err error) {
	pids := [2]int{os.Getpid(), r.fakes.PID}
	var used [2]time.Duration
	for i, pid := range pids {
		c, err := bench.CostOf(pid)
		if err != nil {
			return 0, s, err
		}
		used[i] = -c.CPU
	}
	took, err := share(workers, n, fn)
	if err != nil {
		return 0, s, err
	}
	for i, pid := range pids {
		c, err := bench.CostOf(pid)
		if err != nil {
			return 0, s, err
		}
		used[i] += c.CPU
	}
	each := func(d time.Duration) float64 { return d.Seconds() * 1e6 / float64(n) }
	return float64(n) / took.Seconds(), spent{each(used[0]), each(used[1])}, nil
}

// profile writes the CPU profile until the returned function is called.
func profile(file string) (stop func() error, err error) {
	f, err := os.Create(file)
	if err != nil {
		return nil, fmt.Errorf("profile: %w", err)
	}
	if err := pprof.StartCPUProfile(f); err != nil {
		return nil, errors.Join(fmt.Errorf("profile: %w", err), f.Close())
	}
	return func() error {
		pprof.StopCPUProfile()
		return f.Close()
	}, nil
}
