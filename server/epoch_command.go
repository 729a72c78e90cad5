package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/spf13/cobra"

	"github.com/nudgesync/nudge/changefeed"
	"github.com/nudgesync/nudge/changefeed/changelog"
	"github.com/nudgesync/nudge/server/attach"
	"github.com/nudgesync/nudge/server/config"
)

func newEpochCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "epoch",
		Short: "Show the change log's epoch, or begin a new one",
		Long: `Show the change log's epoch: one unbroken history of the database as nudge has read it. Positions and cursors
count within it.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withLog(cmd.Context(), func(_ *config.Config, log *changelog.Log) error {
				s, err := log.Feed(cmd.Context())
				if err != nil {
					return epochError(err)
				}
				_, err = fmt.Fprintf(a.stdout, "epoch %s since %s: %s\nposition %s, last moved %s by %s\n",
					s.Epoch, s.EpochAt.UTC().Format(time.RFC3339), s.Reason, s.Position, s.MovedAt.UTC().Format(time.RFC3339), s.Leader)
				if err == nil && s.Doubt != "" {
					_, err = fmt.Fprintf(a.stdout, "it ends when the feed connects next: %s\n", s.Doubt)
				}
				return err
			})
		},
	}
	cmd.AddCommand(&cobra.Command{
		Use:   "new",
		Short: "Begin a new epoch: every device starts over with a reset",
		Long: `Begin a new epoch. Every device's next pull is answered by a reset, and the device receives its rows anew; its unsent
writes stay. It is for what nudge can't notice by itself: the database, or the change log's, was restored from
a copy of its disk or of its virtual machine. (A restore by WAL replay, a promoted standby, a lost slot and the like are
noticed.) With log.witness configured, nudge notices such a copy too.

Nothing more is logged in the present epoch from now on. A node that runs begins the next one at once; if none
runs, the next that starts does.`,
		Example: "  nudge epoch new",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withLog(cmd.Context(), func(cfg *config.Config, log *changelog.Log) error {
				s, err := log.Doubt(cmd.Context(), changefeed.ReasonOperator)
				if err != nil {
					return epochError(err)
				}
				if _, err := fmt.Fprintf(a.stdout, "epoch %s ends at %s\n", s.Epoch, s.Position); err != nil {
					return err
				}
				// A feed that runs finds out when it appends next: this is something to append.
				if err := heartbeat(cmd.Context(), string(cfg.Source.DSN)); err != nil {
					a.log.Warn("the source can't be reached: a node that runs begins the new epoch with the next change", "error", err)
				}
				return nil
			})
		},
	})
	return cmd
}

// withLog runs do on the change log as configured.
func (a *app) withLog(ctx context.Context, do func(*config.Config, *changelog.Log) error) error {
	cfg, err := a.config()
	if err != nil {
		return err
	}
	pool, err := openPool(ctx, cfg.LogDSN(), 2)
	if err != nil {
		return fail(attach.CodeConnect, err, "connect to the change log's database")
	}
	defer pool.Close()
	return do(cfg, changelog.Open(pool, cfg.Source.Slot))
}

func epochError(err error) error {
	if errors.Is(err, changelog.ErrNoEpoch) {
		return fail("no_epoch", nil, "the change log has no epoch yet", "the first one begins when nudge serve runs for the first time")
	}
	return fail("log_unreadable", err, "read the change log", "is the log in log.dsn, or else in source.dsn? nudge check tells more")
}

func heartbeat(ctx context.Context, dsn string) error {
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	_, err = conn.Exec(ctx, `select pg_logical_emit_message(true, $1, '')`, changelog.HeartbeatPrefix)
	return err
}
