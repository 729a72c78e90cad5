package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/nudgesync/nudge/internal/bench"
)

// request is what the crowd is to do.
type request struct {
	// Rate is how many commits a second, each of one row of another device's user, are to be made for how
	// long; 0: somebody else sees to it that every device hears once.
	Rate    float64
	Lasting time.Duration
	Pulls   bool // devices pull what they are nudged for
	Notify  bool // the floor: rows that nudge does not listen to, announced by NOTIFY
}

// heard is what came of it, in milliseconds from the intended moment of each commit.
type heard struct {
	Commit50, Commit99         float64
	Nudge50, Nudge99, Nudge999 float64
	Delta50, Delta99           float64
	Count                      int     // nudges, or notifications
	Missed                     int     // of commits: nudges, or pages where devices pull, that did not come
	Refused                    int     // pulls that were told to come again
	PerSecond                  float64 // of a fan-out, from the first nudge to the last
	Frame                      int64   // bytes of a nudge
}

const (
	writers = 32               // connections that write
	patient = 30 * time.Second // until what has not come counts as missed
)

const (
	insertSQL = `insert into intakes (user_id, medication_id, status, dose, note) values ($1, 1, 'taken', 1.50, 'after breakfast')`
	notifySQL = `with i as (insert into unheard (user_id, medication_id, status, dose, note) values ($1, 1, 'taken', 1.50, 'after breakfast') returning user_id)
select pg_notify('unheard', user_id::text) from i`
)

func (c *crowd) do(ctx context.Context, r request, out io.Writer) (heard, error) {
	n := len(c.sockets)
	if r.Rate == 0 {
		t := newTask(n, n, false)
		for i := range t.due {
			t.due[i].Store(1)
		}
		c.task.Store(t)
		if _, err := fmt.Fprintln(out, "the crowd listens"); err != nil {
			return heard{}, err
		}
		return c.finish(ctx, t, nil)
	}
	commits := int(r.Rate * r.Lasting.Seconds())
	t := newTask(n, commits, r.Pulls)
	if r.Notify {
		c.task.Store(nil)
		stop, err := c.subscribe(ctx, t)
		if err != nil {
			return heard{}, err
		}
		defer stop()
	} else {
		c.task.Store(t)
	}
	took, err := c.write(ctx, t, r, commits)
	if err != nil {
		return heard{}, err
	}
	return c.finish(ctx, t, took)
}

// write commits at the intended moments, which are fixed before and do not move: what the connections
// cannot send in time shows as latency. Users have their turn in random order, so that nobody is
// written to again before all others were.
func (c *crowd) write(ctx context.Context, t *task, r request, commits int) (bench.Latencies, error) {
	order := rand.Perm(len(c.sockets))
	sql := insertSQL
	if r.Notify {
		sql = notifySQL
	}
	took := make(bench.Latencies, commits)
	var next, overtaken atomic.Int64
	conns := make([]*pgx.Conn, writers)
	for i := range conns {
		conn, err := pgx.Connect(ctx, c.DSN)
		if err != nil {
			return nil, err
		}
		defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
		if _, err := conn.Prepare(ctx, "write", sql); err != nil {
			return nil, err
		}
		conns[i] = conn
	}
	began := time.Now().Add(100 * time.Millisecond)
	g, ctx := errgroup.WithContext(ctx)
	for _, conn := range conns {
		g.Go(func() error {
			for {
				i := int(next.Add(1) - 1)
				if i >= commits {
					return nil
				}
				intended := began.Add(time.Duration(float64(i) / r.Rate * float64(time.Second)))
				time.Sleep(time.Until(intended))
				who := order[i%len(order)]
				if !t.due[who].CompareAndSwap(0, int64(intended.Sub(t.began))) {
					overtaken.Add(1) // the one before has not been heard of yet: one nudge will do for both
				}
				if _, err := conn.Exec(ctx, "write", c.sockets[who].device.User); err != nil {
					return err
				}
				took[i] = time.Since(intended)
			}
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for range overtaken.Load() {
		t.finishOne()
	}
	return took, nil
}

// subscribe listens to the NOTIFYs, on one connection.
func (c *crowd) subscribe(ctx context.Context, t *task) (stop func(), err error) {
	conn, err := pgx.Connect(ctx, c.DSN)
	if err != nil {
		return nil, err
	}
	if _, err := conn.Exec(ctx, "listen unheard"); err != nil {
		return nil, errors.Join(err, conn.Close(ctx))
	}
	byUser := map[string]int{}
	for i, s := range c.sockets {
		byUser[strconv.Itoa(s.device.User)] = i
	}
	listening, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			n, err := conn.WaitForNotification(listening)
			if err != nil {
				return // what has not come counts as missed
			}
			t.heard(byUser[n.Payload], time.Now())
		}
	}()
	return func() {
		cancel()
		<-ended
		_ = conn.Close(context.WithoutCancel(ctx))
	}, nil
}

// finish waits for what is still to come.
func (c *crowd) finish(ctx context.Context, t *task, took bench.Latencies) (heard, error) {
	select {
	case <-t.done:
	case <-time.After(patient):
	case <-ctx.Done():
		return heard{}, ctx.Err()
	}
	c.task.Store(nil)
	t.mu.Lock()
	defer t.mu.Unlock()
	nudges, pages := bench.Latencies(t.nudges), bench.Latencies(t.pages)
	return heard{
		Commit50: took.Percentile(50), Commit99: took.Percentile(99),
		Nudge50: nudges.Percentile(50), Nudge99: nudges.Percentile(99), Nudge999: nudges.Percentile(99.9),
		Delta50: pages.Percentile(50), Delta99: pages.Percentile(99),
		Count: len(nudges), Missed: max(0, t.left), Refused: int(c.refused.Swap(0)), PerSecond: float64(len(nudges)) / max(t.last.Sub(t.first).Seconds(), 1e-6),
		Frame: c.frame.Load(),
	}, nil
}
