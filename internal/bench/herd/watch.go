package main

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/nudgesync/nudge/internal/bench/site"
)

// lookEvery is how often the database's connections are counted.
const lookEvery = 20 * time.Millisecond

// watched is what the database had of a herd.
type watched struct {
	connections int // nudge's, at most; its replication connection among them
	statements  int // of nudge's
}

// watch looks at the database until the returned function is called. statements are all that nudge had
// executed meanwhile, what it does for its own upkeep among them.
func watch(ctx context.Context, s *site.Site) (stop func() (watched, error), err error) {
	conn, err := pgx.Connect(ctx, s.DSN("postgres"))
	if err != nil {
		return nil, err
	}
	const nudges = `usesysid in (select oid from pg_roles where rolname in ('nudge_feed', 'nudge_read'))`
	statements := func(ctx context.Context) (n int, err error) {
		err = conn.QueryRow(ctx, `select coalesce(sum(calls), 0)::bigint from pg_stat_statements
			where userid in (select oid from pg_roles where rolname in ('nudge_feed', 'nudge_read'))`).Scan(&n)
		return n, err
	}
	before, err := statements(ctx)
	if err != nil {
		return nil, err
	}
	looking, cancel := context.WithCancel(ctx)
	peak, ended := 0, make(chan error, 1)
	go func() {
		tick := time.NewTicker(lookEvery)
		defer tick.Stop()
		for {
			select {
			case <-looking.Done():
				ended <- nil
				return
			case <-tick.C:
			}
			var n int
			if err := conn.QueryRow(ctx, `select count(*) from pg_stat_activity where `+nudges).Scan(&n); err != nil {
				ended <- fmt.Errorf("count connections: %w", err)
				return
			}
			peak = max(peak, n)
		}
	}()
	return func() (watched, error) {
		cancel()
		defer func() { _ = conn.Close(ctx) }()
		if err := <-ended; err != nil {
			return watched{}, err
		}
		after, err := statements(ctx)
		return watched{peak, after - before}, err
	}, nil
}
