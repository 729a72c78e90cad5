package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/nudgesync/nudge/changefeed/change"
	"github.com/nudgesync/nudge/changefeed/changelog"
	"github.com/nudgesync/nudge/server/attach"
)

// tailPause is how often tail looks for news.
const tailPause = 200 * time.Millisecond

func newTailCommand(a *app) *cobra.Command {
	var scope, table string
	var all, once bool
	cmd := &cobra.Command{
		Use:   "tail",
		Short: "Print changes as they are logged, one JSON object a line",
		Long: `Follow the change log, for a person at a terminal: every change, or those of one scope or one table.
What concerns everybody (scope "*") is always among them. It reads the log and disturbs nobody.`,
		Example: "  nudge tail\n  nudge tail --scope user:7 --table public.intakes\n  nudge tail --all --once | jq .row",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := a.config()
			if err != nil {
				return err
			}
			pool, err := openPool(cmd.Context(), cfg.LogDSN(), 2)
			if err != nil {
				return fail(attach.CodeConnect, err, "connect to the change log's database")
			}
			defer pool.Close()
			t := tailing{
				log: changelog.Open(pool, cfg.Source.Slot), out: a.stdout, once: once,
				wants: func(c *change.Change) bool {
					return (scope == "" || string(c.Scope) == scope || c.Scope == change.All) &&
						(table == "" || c.Table == table || c.Table == "*")
				},
			}
			return t.run(cmd.Context(), all)
		},
	}
	cmd.Flags().StringVar(&scope, "scope", "", `only this scope, such as "user:7"`)
	cmd.Flags().StringVar(&table, "table", "", `only this table, such as "public.intakes"`)
	cmd.Flags().BoolVar(&all, "all", false, "begin at the log's start instead of at its end")
	cmd.Flags().BoolVar(&once, "once", false, "end when the log's end is reached")
	return cmd
}

// tailing is one run of the command.
type tailing struct {
	log   *changelog.Log
	out   io.Writer
	wants func(*change.Change) bool
	once  bool
}

// run prints until ctx ends, which is no error. A new epoch, or a log that was trimmed meanwhile, is
// followed from its start.
func (t *tailing) run(ctx context.Context, all bool) error {
	var after change.Position
	for {
		s, err := t.log.Feed(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, changelog.ErrNoEpoch) && !t.once:
			all = true // whatever comes first is new
		case err != nil:
			return fail("log_unreadable", err, "read the change log", "has nudge serve run yet? Is the log in log.dsn, or else in source.dsn?")
		default:
			if after.IsZero() && !all {
				after = s.Head()
			}
			if after.Epoch != s.Epoch || after.Before(s.Start()) {
				after = s.Start()
			}
			if err := t.log.Stretch(ctx, after, s.Head(), t.print); err != nil && !errors.Is(err, changelog.ErrGone) {
				if ctx.Err() != nil {
					return nil
				}
				return err
			}
			after = s.Head()
		}
		if t.once {
			return nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(tailPause):
		}
	}
}

// tailLine is a line's object. Row and key are compacted: a json value may hold line breaks.
type tailLine struct {
	Position    string          `json:"position"`
	CommittedAt time.Time       `json:"committed_at"`
	Scope       string          `json:"scope"`
	Op          string          `json:"op"`
	Table       string          `json:"table"`
	Key         json.RawMessage `json:"key,omitempty"`
	Row         json.RawMessage `json:"row,omitempty"`
	Origin      string          `json:"origin,omitempty"`
	Reason      string          `json:"reason,omitempty"`
}

func (t *tailing) print(c change.Change) error {
	if !t.wants(&c) {
		return nil
	}
	line := tailLine{
		Position: c.Pos.String(), CommittedAt: c.CommittedAt, Scope: string(c.Scope), Op: c.Op.String(),
		Table: c.Table, Key: c.Key, Row: c.Row, Origin: c.Origin, Reason: string(c.Reason),
	}
	b, err := json.Marshal(line) // compacts raw messages
	if err != nil {
		return fmt.Errorf("change at %s: %w", c.Pos, err)
	}
	_, err = t.out.Write(append(bytes.TrimSpace(b), '\n'))
	return err
}
