package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/spf13/cobra"

	"github.com/nudgesync/nudge/server/api"
	"github.com/nudgesync/nudge/server/attach"
)

func newPollCommand(a *app) *cobra.Command {
	var after time.Duration
	var off bool
	cmd := &cobra.Command{
		Use:   "poll",
		Short: "Turn every device to slow polling, or back",
		Long: `The way back from sockets, without a release of the app. While it is on, every page tells devices to ask
again after that time, sockets are sent away, spread over time, and new ones refused. It is kept in the
change log's database: every node follows within a second, also one that restarts. Without a flag, it
says how things stand.`,
		Example: "  nudge poll --after 60s\n  nudge poll --off\n  nudge poll",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			asked := cmd.Flags().Changed("after")
			if asked && (after < api.MinPollAfter || after > api.MaxPollAfter || after%time.Second != 0) {
				return &usageError{
					err:     fmt.Errorf("--after %v: want whole seconds, from %v to %v", after, api.MinPollAfter, api.MaxPollAfter),
					command: cmd.CommandPath(),
				}
			}
			if asked && off {
				return &usageError{err: errors.New("--after and --off contradict each other"), command: cmd.CommandPath()}
			}
			cfg, err := a.config()
			if err != nil {
				return err
			}
			pool, err := openPool(cmd.Context(), cfg.LogDSN(), 2)
			if err != nil {
				return fail(attach.CodeConnect, err, "connect to the change log's database")
			}
			defer pool.Close()
			order := pollOrder{pool}
			if asked || off {
				if err := order.SetPollAfter(cmd.Context(), after); err != nil {
					return fail("poll_unwritable", err, "write the order", "has nudge attach been run with this version?")
				}
			}
			if after, err = order.PollAfter(cmd.Context()); err != nil {
				return fail("poll_unreadable", err, "read the order", "has nudge attach been run with this version?")
			}
			if after == 0 {
				_, err = fmt.Fprintln(a.stdout, "devices hold sockets and are nudged")
			} else {
				_, err = fmt.Fprintf(a.stdout, "devices poll every %v\n", after)
			}
			return err
		},
	}
	cmd.Flags().DurationVar(&after, "after", 0, `time between two pulls of a device, such as "60s"`)
	cmd.Flags().BoolVar(&off, "off", false, "back to sockets and nudges")
	return cmd
}

// pollOrder is the row that holds the operator's order to poll. It implements api.Polling.
type pollOrder struct{ pool *pgxpool.Pool }

// PollAfter reads the order; 0: there is none.
func (p pollOrder) PollAfter(ctx context.Context) (time.Duration, error) {
	var value string
	err := p.pool.QueryRow(ctx, "select value from nudge.settings where name = 'poll_after_s'").Scan(&value)
	if errors.Is(err, pgx.ErrNoRows) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("read poll_after_s: %w", err)
	}
	s, err := strconv.Atoi(value)
	if err != nil {
		return 0, fmt.Errorf("read poll_after_s: %w", err)
	}
	return min(max(time.Duration(s)*time.Second, api.MinPollAfter), api.MaxPollAfter), nil
}

// SetPollAfter writes it; 0 takes it back.
func (p pollOrder) SetPollAfter(ctx context.Context, after time.Duration) error {
	sql, args := "delete from nudge.settings where name = 'poll_after_s'", []any(nil)
	if after > 0 {
		sql = `insert into nudge.settings (name, value) values ('poll_after_s', $1)
			on conflict (name) do update set value = excluded.value, changed_at = now()`
		args = []any{strconv.Itoa(int(after.Seconds()))}
	}
	if _, err := p.pool.Exec(ctx, sql, args...); err != nil {
		return fmt.Errorf("write poll_after_s: %w", err)
	}
	return nil
}
