package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/spf13/cobra"

	"github.com/nudgesync/nudge/server/attach"
	"github.com/nudgesync/nudge/server/config"
)

// adminEnv names the variable that holds the database owner's DSN: a password does not belong in a
// command line, where every user of the machine can read it.
const adminEnv = "NUDGE_ADMIN_DSN"

func newAttachCommand(a *app) *cobra.Command {
	var apply bool
	var admin string
	cmd := &cobra.Command{
		Use:   "attach",
		Short: "Prepare the database: print what its owner must run, or run it",
		Long: `Print what the database's owner must run so that nudge can follow the configured tables: roles,
nudge's own tables, replica identities and the publication. What is right already is left out, so a
database that is attached prints nothing. The output is a script for psql, which asks for the roles'
passwords; --apply runs it, and takes the passwords from the configuration.

It looks, and with --apply works, as the database's owner, whom ` + adminEnv + ` or --admin-dsn names.
Making a role that replicates takes a superuser (from Postgres 16, CREATEROLE and REPLICATION will do).`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.asAdmin(cmd.Context(), admin, func(ctx context.Context, conn *pgx.Conn, spec attach.Spec) error {
				plan, err := attach.Plan(ctx, conn, spec)
				var refused *attach.RefusedError
				if errors.As(err, &refused) {
					_ = printFindings(a.stderr, refused.Findings)
					return fail("attach_refused", nil, "the database must be changed first")
				}
				if err != nil {
					return fail("attach_failed", err, "look at the database")
				}
				if len(plan) == 0 {
					_, err := fmt.Fprintln(a.stdout, "-- nothing to do: the database is attached")
					return err
				}
				last := "-- done; `nudge check` says whether anything else is missing"
				if apply {
					if err := attach.Apply(ctx, conn, plan, a.stdout); err != nil {
						return halfWay("attach", err)
					}
				} else {
					if err := attach.Print(a.stdout, plan); err != nil {
						return err
					}
					last = "\n-- that is all; run it with psql as the database's owner, or as a superuser where it makes roles.\n" +
						"-- `nudge check` says afterwards whether anything else is missing"
				}
				_, err = fmt.Fprintln(a.stdout, last)
				return err
			})
		},
	}
	cmd.Flags().BoolVar(&apply, "apply", false, "run it instead of printing it")
	adminFlag(cmd, &admin)
	return cmd
}

func newDetachCommand(a *app) *cobra.Command {
	var apply bool
	var admin string
	cmd := &cobra.Command{
		Use:   "detach",
		Short: "Remove nudge from the database: print how, or do it",
		Long: `Print what removes nudge from the database: the slot first, then the publication, replica
identities, nudge's own tables and the roles that attach made. --apply runs it.

Stop every "nudge serve" before: a running one makes the slot again. The change log is lost.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.asAdmin(cmd.Context(), admin, func(ctx context.Context, conn *pgx.Conn, spec attach.Spec) error {
				plan, left, err := attach.PlanDetach(ctx, conn, spec)
				if err != nil {
					return fail("detach_failed", err, "look at the database")
				}
				if len(plan) == 0 {
					_, err = fmt.Fprintln(a.stdout, "-- nothing to do: nothing of nudge is in the database")
				} else if apply {
					err = attach.Apply(ctx, conn, plan, a.stdout)
				} else {
					err = attach.Print(a.stdout, plan)
				}
				if err != nil {
					return halfWay("detach", err)
				}
				for _, l := range left {
					if _, err := fmt.Fprintln(a.stdout, "-- left: "+l); err != nil {
						return err
					}
				}
				if apply && len(plan) > 0 && len(left) == 0 {
					_, err = fmt.Fprintln(a.stdout, "-- done: nothing of nudge is in the database")
				}
				return err
			})
		},
	}
	cmd.Flags().BoolVar(&apply, "apply", false, "run it instead of printing it")
	adminFlag(cmd, &admin)
	return cmd
}

// halfWay is the failure of a statement of attach or detach. Those before it stay done.
func halfWay(command string, err error) error {
	hints := []string{"what ran before it stays done; run " + command + " again once the cause is gone"}
	var pg *pgconn.PgError
	if errors.As(err, &pg) && pg.Code == "42501" {
		hints = append(hints, "name whoever may, the database's owner or a superuser, with "+adminEnv+" or --admin-dsn")
	}
	return fail(command+"_failed", err, command+" stopped half-way", hints...)
}

func newCheckCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "check",
		Short: "Say what is right with the database and what is not, and how to repair it",
		Long: `Connect as nudge would and say line by line what is right and what is not, each with the SQL or
the setting that repairs it. The exit status is 1 if anything is wrong; advice does not count.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := a.config()
			if err != nil {
				return err
			}
			findings, err := findings(cmd.Context(), cfg)
			if err != nil {
				return err
			}
			if err := printFindings(a.stdout, findings); err != nil {
				return err
			}
			if slices.ContainsFunc(findings, attach.Finding.Wrong) {
				return exitStatus(exitFailed)
			}
			return nil
		},
	}
}

// findings looks at the database with the node's own eyes.
func findings(ctx context.Context, cfg *config.Config) ([]attach.Finding, error) {
	spec, err := attachSpec(cfg)
	if err != nil {
		return nil, err
	}
	dsns := attach.DSNs{Source: string(cfg.Source.DSN), Snapshot: cfg.SnapshotDSN(), Log: cfg.LogDSN()}
	return attach.Check(ctx, dsns, spec), nil
}

func adminFlag(cmd *cobra.Command, dsn *string) {
	cmd.Flags().StringVar(dsn, "admin-dsn", "", "connect as the database's owner (default: "+adminEnv+", or else source.dsn)")
}

// asAdmin connects to the source as its owner.
func (a *app) asAdmin(ctx context.Context, dsn string, do func(context.Context, *pgx.Conn, attach.Spec) error) error {
	cfg, err := a.config()
	if err != nil {
		return err
	}
	spec, err := attachSpec(cfg)
	if err != nil {
		return err
	}
	from := "by --admin-dsn"
	if dsn == "" {
		dsn, from = a.getenv(adminEnv), "by "+adminEnv
	}
	if dsn == "" {
		dsn, from = string(cfg.Source.DSN), "by source.dsn"
	}
	target, err := pgx.ParseConfig(dsn)
	if err != nil {
		return fail("attach_connect", nil, "the DSN given "+from+" can't be parsed") // the parser's error may quote the password
	}
	conn, err := pgx.ConnectConfig(ctx, target)
	if err != nil {
		var pg *pgconn.PgError
		if errors.As(err, &pg) { // the rest lists every address and way that was tried
			err = pg
		}
		return fail("attach_connect", err, "can't connect as "+target.User+", who is named "+from,
			"name the database's owner with "+adminEnv+"=postgres://… or --admin-dsn")
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	return do(ctx, conn, spec)
}

// attachSpec is what the configuration asks of the source database.
func attachSpec(cfg *config.Config) (attach.Spec, error) {
	spec := attach.Spec{Slot: cfg.Source.Slot, Publication: cfg.Source.Publication}
	var err error
	if spec.Feed, err = loginOf("source.dsn", string(cfg.Source.DSN)); err != nil {
		return attach.Spec{}, err
	}
	if spec.Snapshot, err = loginOf("source.snapshot_dsn", cfg.SnapshotDSN()); err != nil {
		return attach.Spec{}, err
	}
	spec.LogElsewhere = cfg.LogDSN() != string(cfg.Source.DSN)
	for _, name := range slices.Sorted(maps.Keys(cfg.Tables)) {
		t := cfg.Tables[name]
		ts := attach.TableSpec{Name: name, Owner: t.Owner, Columns: slices.Concat(t.Columns.Allow, t.Columns.Deny, t.Write)}
		switch {
		case t.Owner != "":
		case t.Parent != nil:
			ts.Owner = t.Parent.By
		default:
			ts.Owner = t.By
		}
		spec.Tables = append(spec.Tables, ts)
	}
	return spec, nil
}

// loginOf is whom a DSN connects as.
func loginOf(key, dsn string) (attach.Role, error) {
	c, err := pgconn.ParseConfig(dsn)
	if err != nil {
		return attach.Role{}, fmt.Errorf("%s can't be parsed", key) // the parser's error may quote the password
	}
	return attach.Role{Name: c.User, Password: c.Password}, nil
}

// printFindings writes one line a finding, and its repair below.
func printFindings(w io.Writer, findings []attach.Finding) error {
	for _, f := range findings {
		word := "wrong "
		switch {
		case f.OK:
			word = "ok    "
		case f.Advice:
			word = "advice"
		}
		if _, err := fmt.Fprintf(w, "%s  %s: %s\n", word, f.Code, f.Message); err != nil {
			return err
		}
		if f.Fix == "" {
			continue
		}
		if _, err := fmt.Fprintln(w, "        "+strings.ReplaceAll(f.Fix, "\n", "\n        ")); err != nil {
			return err
		}
	}
	return nil
}
