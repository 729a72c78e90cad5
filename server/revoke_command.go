package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/spf13/cobra"

	"github.com/nudgesync/nudge/server/attach"
	"github.com/nudgesync/nudge/server/auth"
)

func newRevokeCommand(a *app) *cobra.Command {
	var rev auth.Revocation
	var at, until string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "revoke --user U | --user U --device D | --jti J",
		Short: "Lock out a user, a device or one token, on every node within a second",
		Long: `End tokens before their time: open sockets close with 4502, pulls are refused with 403 token_revoked.

Of a user or a device it refuses the tokens that were issued up to now. Whoever signs in again later, by
the tokens' iat, is let in: a user who must stay out is to be refused by your backend, too. A token by its
jti is refused whenever it was issued. An issuer whose clock runs ahead dates its tokens too late, by 30 s
at most: to be sure of those too, add --at 30s, and whoever signs in before that has passed must do so again.

It holds for good, or until --until: give the end of the longest-lived token that is meant, and the
revocation is forgotten when nothing is left for it to refuse.

A device is the one that the token names (auth.claims.device). Where tokens name none, it is what the
client says it is, which ends a lost phone's session, but not a thief's: revoke the user then.`,
		Example: "  nudge revoke --user 7\n  nudge revoke --user 7 --device tablet --until 720h\n  nudge revoke --jti 8f14e45f --until 2026-12-31T00:00:00Z",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var err, errAt error
			rev.Until, err = parseTime("--until", until)
			rev.At, errAt = parseTime("--at", at)
			if err = errors.Join(err, errAt); err == nil {
				err = rev.Validate()
			}
			if err != nil {
				return &usageError{err: err, command: cmd.CommandPath()}
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
			written, err := auth.NewRevocations(auth.RevocationsConfig{Pool: pool, Log: a.log}).Write(cmd.Context(), rev)
			if err != nil {
				return databaseRefused(err, "revoke_failed", "write the revocation")
			}
			if asJSON {
				return json.NewEncoder(a.stdout).Encode(map[string]any{"seq": written.Seq, "at": written.At})
			}
			_, err = fmt.Fprintln(a.stdout, revoked(written))
			return err
		},
	}
	cmd.Flags().StringVar(&rev.User, "user", "", "the user's id")
	cmd.Flags().StringVar(&rev.Device, "device", "", "this device of the user alone")
	cmd.Flags().StringVar(&rev.JTI, "jti", "", "one token, by its jti")
	cmd.Flags().StringVar(&at, "at", "", "refuse what was issued up to then: a time (RFC 3339) or a duration from now (default: now)")
	cmd.Flags().StringVar(&until, "until", "", "when it ends: a time (RFC 3339) or a duration from now (default: never)")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the revocation's number and time as JSON")
	return cmd
}

// parseTime reads a flag's time or duration; "" is the zero time.
func parseTime(flag, s string) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	if d, err := time.ParseDuration(s); err == nil {
		return time.Now().Add(d), nil
	}
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return time.Time{}, fmt.Errorf("%s %q: want a time such as 2026-12-31T00:00:00Z, or a duration such as 720h", flag, s)
	}
	return t, nil
}

func revoked(r auth.Revocation) string {
	what := "user " + r.User
	switch {
	case r.JTI != "":
		return fmt.Sprintf("revoked the token with jti %s; every node refuses it within a second (number %d)", r.JTI, r.Seq)
	case r.Device != "":
		what = fmt.Sprintf("device %s of user %s", r.Device, r.User)
	}
	return fmt.Sprintf("revoked %s: tokens issued up to %s are refused by every node within a second (number %d)",
		what, r.At.UTC().Format(time.RFC3339), r.Seq)
}

// databaseRefused says what to do about the database's refusal of a command; code and attempt are for those without
// a cause that is known.
func databaseRefused(err error, code, attempt string) error {
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		switch pg.Code {
		case "42P01", "3F000": // undefined_table, invalid_schema_name
			return fail(attach.CodeMigrations, err, "the database has no table for it", "run nudge attach, or nudge migrate for a log in a database of its own")
		case "42501": // insufficient_privilege
			return fail(attach.CodeGrants, err, "the role may not do that", "run nudge attach, which grants it")
		}
	}
	return fail(code, err, attempt)
}
