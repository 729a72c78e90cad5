package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/nudgesync/nudge/changefeed"
	"github.com/nudgesync/nudge/changefeed/change"
	"github.com/nudgesync/nudge/changefeed/changelog"
	"github.com/nudgesync/nudge/changefeed/route"
	"github.com/nudgesync/nudge/internal/bench"
)

// logBackends is what the connections to the log call themselves.
const logBackends = "bench log"

// feed runs the real one until its log has passed the target: at once, if it only is to begin.
func (r run) feed(ctx context.Context, source *pgxpool.Pool, routing *route.Config) (report, error) {
	store, err := pool(ctx, r.DSN, logBackends)
	if err != nil {
		return report{}, err
	}
	defer store.Close()
	level := slog.LevelWarn
	if r.What == begin {
		level = slog.LevelError // a first epoch is worth a warning elsewhere
	}
	passed := make(chan time.Time, 1)
	feed, err := changefeed.New(changefeed.Config{
		DSN: r.DSN, Source: source, Log: changelog.Open(store, r.Slot), Routing: routing,
		Slot: r.Slot, Publication: publication, Name: "bench",
		Logger:  slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level})),
		Metrics: changefeed.NewMetrics(prometheus.NewRegistry()),
		Publish: func(_ context.Context, f change.Frame) {
			if uint64(f.Next.LSN) > r.Target {
				select {
				case passed <- time.Now(): // durable: published after the commit
				default:
				}
			}
		},
	})
	if err != nil {
		return report{}, err
	}
	ctx, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	started := time.Now()
	go func() { ended <- feed.Run(ctx) }()
	var rep report
	select {
	case at := <-passed:
		rep = report{Elapsed: at.Sub(started), Processes: processes(ctx, source, r.Slot)}
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	stop()
	if runErr := <-ended; runErr != nil {
		err = runErr
	}
	return rep, err
}

// processes is what this one, the walsender and the log's backends have used, as far as this system tells.
func processes(ctx context.Context, db *pgxpool.Pool, slot string) []process {
	var out []process
	add := func(name string, pids ...int) {
		var sum bench.Cost
		for _, pid := range pids {
			c, err := bench.CostOf(pid)
			if err != nil {
				return
			}
			sum.CPU += c.CPU
			sum.Peak += c.Peak
		}
		out = append(out, process{name, sum})
	}
	add("nudge", os.Getpid())
	var sender, log []int
	err := db.QueryRow(ctx, `
select (select array_agg(active_pid) from pg_replication_slots where slot_name = $1),
       (select array_agg(pid) from pg_stat_activity where application_name = $2)`, slot, logBackends).Scan(&sender, &log)
	if err != nil {
		slog.Default().Warn("what the server's processes used is not known", "error", err)
		return out
	}
	add("walsender", sender...)
	if len(log) > 0 {
		add(fmt.Sprintf("log (%d backends)", len(log)), log...)
	}
	return out
}
