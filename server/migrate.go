package main

import (
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/spf13/cobra"

	"github.com/nudgesync/nudge/migrations"
)

func newMigrateCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "migrate",
		Short: "Bring nudge's own tables up to date",
		Long: `Create schema "nudge" in the change log's database (log.dsn, or else source.dsn), and
apply the migrations that are missing there. Nodes of the previous version keep working.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := a.config()
			if err != nil {
				return err
			}
			target, err := pgconn.ParseConfig(cfg.LogDSN())
			if err != nil {
				return errors.New("the log's DSN can't be parsed") // the parser's error may quote the password
			}
			where := fmt.Sprintf("%s on %s:%d", target.Database, target.Host, target.Port)
			applied, err := migrations.Up(cmd.Context(), cfg.LogDSN())
			if err != nil {
				return migrateError(where, target.User, err)
			}
			if len(applied) == 0 {
				_, err = fmt.Fprintf(a.stdout, "%s is up to date\n", where)
				return err
			}
			for _, v := range applied {
				if _, err := fmt.Fprintf(a.stdout, "%s: applied %05d\n", where, v); err != nil {
					return err
				}
			}
			return nil
		},
	}
}

func migrateError(where, user string, err error) error {
	var pg *pgconn.PgError
	var connect *pgconn.ConnectError
	switch {
	case errors.As(err, &pg) && pg.Code == "42501": // insufficient_privilege
		return fail("migrate_forbidden", err, fmt.Sprintf("%s may not change %s", user, where),
			"run it as the database's owner: NUDGE_LOG_DSN=… nudge migrate")
	case errors.As(err, &connect):
		return fail("migrate_database_away", err, "can't connect to "+where, "is Postgres running there, and does its pg_hba.conf let us in?")
	}
	return fail("migrate_failed", err, where)
}
