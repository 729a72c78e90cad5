package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/nudgesync/nudge/notify/device"
	"github.com/nudgesync/nudge/notify/push"
)

// beDispatcher is what this program can be besides itself.
const beDispatcher = "dispatcher"

// job is what a process of its own sends.
type job struct {
	At      addresses
	DSN     string  // of the due devices
	Targets string  // or, instead, a file of targets that get one push each
	Rate    float64 // pushes a second of each sender
	Profile string
}

// counts are what it has sent so far.
type counts struct {
	Accepted    map[string]int64 // by road
	Refused     map[string]int64 // or anything else
	Statements  int64
	Connections int32
}

func (c counts) accepted() (n int64) {
	for _, of := range c.Accepted {
		n += of
	}
	return n
}

// counting is a sender that counts.
type counting struct {
	sender

	accepted, refused atomic.Int64
}

func (c *counting) Send(ctx context.Context, m push.Message) push.Answer {
	a := c.sender.Send(ctx, m)
	if a.Outcome == push.Accepted {
		c.accepted.Add(1)
	} else {
		c.refused.Add(1)
	}
	return a
}

// dispatch sends, as told by the first line, from the second line on and until ctx or its input ends. It answers each
// further line with what it has sent so far.
func dispatch(ctx context.Context, in io.Reader, out io.Writer) (err error) {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	lines := bufio.NewReader(in)
	first, err := lines.ReadBytes('\n')
	if err != nil {
		return err
	}
	var j job
	if err := json.Unmarshal(first, &j); err != nil {
		return fmt.Errorf("read the job: %w", err)
	}
	senders := map[string]*counting{}
	for _, road := range allRoads() {
		s, err := j.At.sender(ctx, road.name, workers, nil)
		if err != nil {
			return err
		}
		defer s.Close()
		senders[road.name] = &counting{sender: s}
	}
	work, pool, statements, err := j.work(ctx, senders)
	if err != nil {
		return err
	}
	if pool != nil {
		defer pool.Close()
	}
	if _, err := fmt.Fprintln(out, "ready"); err != nil {
		return err
	}
	if _, err := lines.ReadBytes('\n'); err != nil {
		return err
	}
	if j.Profile != "" {
		end, err := profile(j.Profile)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, end()) }()
	}
	var running sync.WaitGroup
	failed := make(chan error, 1)
	running.Go(func() { failed <- work(ctx) })
	defer func() {
		stop()
		running.Wait()
		err = errors.Join(err, <-failed)
	}()
	for {
		if _, err := lines.ReadBytes('\n'); err != nil {
			return nil // whoever asked is done
		}
		c := counts{Accepted: map[string]int64{}, Refused: map[string]int64{}}
		for road, s := range senders {
			c.Accepted[road], c.Refused[road] = s.accepted.Load(), s.refused.Load()
		}
		if pool != nil {
			c.Statements, c.Connections = statements.n.Load(), pool.Stat().TotalConns()
		}
		if err := json.NewEncoder(out).Encode(c); err != nil {
			return err
		}
	}
}

// work is the dispatcher over the store, or all targets once without either.
func (j *job) work(ctx context.Context, senders map[string]*counting) (func(context.Context) error, *pgxpool.Pool, *counter, error) {
	if j.Targets != "" {
		work, err := straight(j.Targets, senders)
		return work, nil, nil, err
	}
	pool, statements, err := openPool(ctx, j.DSN, connections, nil)
	if err != nil {
		return nil, nil, nil, err
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	store, err := newStore(pool, log)
	if err != nil {
		return nil, nil, nil, err
	}
	metrics, err := push.NewMetrics(prometheus.NewRegistry())
	if err != nil {
		return nil, nil, nil, err
	}
	cfg := push.Config{Store: dueStore{store}, Log: log, Metrics: metrics, Lease: device.Lease}
	for road, s := range senders {
		cfg.Lanes = append(cfg.Lanes, push.Lane{Name: road, Road: road, Sender: s, Workers: workers, Rate: j.Rate, Ramp: -1})
	}
	d, err := push.New(cfg)
	if err != nil {
		return nil, nil, nil, err
	}
	return d.Run, pool, statements, nil
}

// straight is the floor: all senders at once, each to its own targets.
func straight(file string, senders map[string]*counting) (func(context.Context) error, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read the targets: %w", err)
	}
	var targets []target
	if err := json.Unmarshal(text, &targets); err != nil {
		return nil, fmt.Errorf("read the targets: %w", err)
	}
	by := map[string][]target{}
	for _, t := range targets {
		by[t.Road] = append(by[t.Road], t)
	}
	return func(ctx context.Context) error {
		var all sync.WaitGroup
		failed := make(chan error, roads)
		for road, s := range senders {
			all.Go(func() {
				err := warm(ctx, s, by[road][0])
				if err == nil {
					_, err = share(workers, len(by[road])-1, func(i int) error { return sendOne(ctx, s, by[road][i+1]) })
				}
				failed <- err
			})
		}
		all.Wait()
		close(failed)
		var errs []error
		for err := range failed {
			errs = append(errs, err)
		}
		return errors.Join(errs...)
	}, nil
}

// dueStore is device.Store as the dispatcher knows it, as in the server.
type dueStore struct{ *device.Store }

func (s dueStore) Claim(ctx context.Context, of push.Selection, n int) ([]push.Due, error) {
	claimed, err := s.Store.Claim(ctx, device.Selection{
		Road: of.Road, Environment: of.Environment, Apps: of.Apps, Others: of.Others, Urgency: device.Urgency(of.Urgency),
	}, n)
	out := make([]push.Due, len(claimed))
	for i, d := range claimed {
		out[i] = push.Due{
			Device: d.Device, User: d.User, Road: d.Road, App: d.App, Environment: d.Environment, Target: push.Target(d.Target),
			Hash: d.Hash, RegisteredAt: d.RegisteredAt, Nudge: d.Nudge, Urgency: int(d.Urgency), Attempts: d.Attempts, DueFor: d.DueFor,
		}
	}
	return out, err
}

func (s dueStore) Settle(ctx context.Context, results []push.Result) error {
	out := make([]device.Result, len(results))
	for i, r := range results {
		verdict := map[push.Verdict]device.Verdict{
			push.Sent: device.Accepted, push.Later: device.Later, push.Disabled: device.Disable, push.Quarantined: device.Quarantine,
		}[r.Verdict]
		out[i] = device.Result{
			Device: r.Due.Device, Nudge: r.Due.Nudge, Hash: r.Due.Hash, RegisteredAt: r.Due.RegisteredAt, Verdict: verdict,
			Reason: r.Reason, ID: r.ID, After: r.Wait, Gone: r.Gone,
		}
	}
	return s.Store.Settle(ctx, out)
}
