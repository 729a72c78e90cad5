package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/spf13/cobra"

	"github.com/nudgesync/nudge/notify/device"
	"github.com/nudgesync/nudge/server/api"
	"github.com/nudgesync/nudge/server/attach"
)

func newExplainCommand(a *app) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "explain USER [DEVICE]",
		Short: "Say why a user's devices are stale, or that they are not",
		Long: `Say, of each device that the user has registered or of one of them, what it waits for: its registration, the user's
newest change, what the device has acknowledged, whether it is due for a push and since when, its budget, and its
last pushes with what the provider answered and when the device pulled. The first line is the verdict.

It reads the change log's database, so it works beside a node that runs and without one. A device that has never
registered is not known here: it hears over a socket alone.`,
		Example: "  nudge explain 7\n  nudge explain 7 phone --json",
		Args:    cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			cfg, err := a.config()
			if err != nil {
				return err
			}
			pool, err := openPool(cmd.Context(), cfg.LogDSN(), 1)
			if err != nil {
				return fail(attach.CodeConnect, err, "connect to the change log's database")
			}
			defer pool.Close()
			var name string
			if len(args) == 2 {
				name = args[1]
			}
			known, err := newExplainer(pool, cfg.Source.Slot, a.log).Explain(cmd.Context(), args[0], name)
			switch {
			case errors.Is(err, device.ErrUnknown) && name != "":
				return fail("explain_unknown", nil, fmt.Sprintf("user %s has no device %s registered", args[0], name), "nudge explain "+args[0]+" lists those that are")
			case errors.Is(err, device.ErrUnknown):
				return fail("explain_unknown", nil, "user "+args[0]+" has no device registered", "devices register with PUT /v1/devices/{id}; without it they hear over a socket alone")
			case err != nil:
				return databaseRefused(err, "explain_failed", "read what is known of the devices")
			}
			now := time.Now()
			out := make([]api.Explanation, len(known))
			for i := range known {
				out[i] = api.Explain(&known[i], now)
			}
			if asJSON {
				return json.NewEncoder(a.stdout).Encode(out)
			}
			for i := range out {
				printExplanation(a.stdout, &out[i], now)
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print it as GET /v1/admin/explain does")
	return cmd
}

// newExplainer reads what is known of devices; it opens no target.
func newExplainer(pool *pgxpool.Pool, slot string, log *slog.Logger) *device.Store {
	return device.NewStore(device.Config{Pool: pool, Slot: slot, Log: log})
}

func printExplanation(w io.Writer, e *api.Explanation, now time.Time) {
	line := func(name, format string, args ...any) {
		_, _ = fmt.Fprintf(w, "  %-13s %s\n", name, fmt.Sprintf(format, args...))
	}
	_, _ = fmt.Fprintf(w, "%s of user %s: %s\n", e.Device.Device, e.User, e.Verdict)
	line("registered", "%s, for %s %s %s %s", when(&e.RegisteredAt, now), e.Road, e.App, e.Environment, e.AppVersion)
	status := e.Status
	if e.Reason != nil {
		status += ": " + *e.Reason
	}
	line("status", "%s", status)
	session := "none"
	if e.Session != "" {
		session = e.Session
	}
	line("session", "%s", session)
	line("head", "%s; looked at up to %s", orDash(e.Head), orDash(e.Marked))
	line("acknowledged", "%s", orDash(e.Acked))
	if e.Due == "" {
		line("due", "no")
	} else {
		line("due", "%s, %s, since %s; the next push %s", e.Due, e.Urgency, when(e.DueSince, now), when(e.NextAt, now))
	}
	line("budget", "next not before %s; last accepted %s; %d accepted and not heard of since", when(e.NotBefore, now), when(e.PushedAt, now), e.Unheard)
	for _, p := range e.Pushes {
		line("push", "%s %s %s; sent %s, answered %s, pulled %s, acknowledged %s", p.Nudge, p.Status, p.Reason,
			when(p.SentAt, now), when(p.AnsweredAt, now), when(p.PulledAt, now), when(p.AckedAt, now))
	}
}

// when is a time as people think of it, "-" for none.
func when(t *time.Time, now time.Time) string {
	if t == nil || t.IsZero() {
		return "-"
	}
	d := now.Sub(*t).Round(time.Second)
	if d < 0 {
		return "in " + (-d).String()
	}
	return d.String() + " ago"
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
