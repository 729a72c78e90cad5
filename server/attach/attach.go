// Package attach prepares a database for nudge, checks that it is, and takes everything out again.
//
// All three look at the catalog first and then speak of differences alone. Plan gives the statements
// that are still missing, so a database that is attached gives none. Check runs the same plan: what it
// would still do is what is wrong, and its statements are the fix. PlanDetach undoes what carries
// attach's mark, a comment on the role, index or publication that it made, and nothing else.
//
// Order matters. A table is published only when its replica identity is right, because Postgres refuses
// the app's updates of a published table without one; and an identity is moved before the index behind
// it is dropped, for the same reason (P11). Detaching starts with the slot, because a slot that nobody
// reads fills the disk.
package attach

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// Spec is what the configuration asks of the source database.
type Spec struct {
	Tables      []TableSpec
	Slot        string
	Publication string
	Feed        Role // reads the WAL and writes the log: the user of source.dsn
	Snapshot    Role // reads rows: the user of source.snapshot_dsn; may be Feed
	// LogElsewhere: schema nudge is not in the source database.
	LogElsewhere bool
}

// TableSpec is one table that nudge follows.
type TableSpec struct {
	Name  string // "schema.name"
	Owner string // the column that routes its rows; "" if none does
	// Columns are the others that the configuration names: they must exist.
	Columns []string
}

// Role is a login. Password is used when the role is made, and never printed.
type Role struct{ Name, Password string }

// roles are Spec's, each once.
func (s *Spec) roles() []Role {
	if s.Feed.Name == s.Snapshot.Name {
		return []Role{s.Feed}
	}
	return []Role{s.Feed, s.Snapshot}
}

// Statement is one thing that the database's owner has to run.
type Statement struct {
	SQL string // as psql takes it, without the last semicolon; several statements at times
	Why string // one line
	// NoTransaction: Postgres refuses it within a transaction block.
	NoTransaction bool
	// Code and Subject are the finding of Check that it settles.
	Code, Subject string

	// exec runs it instead of SQL, where that has what only psql or the one who types can know.
	exec func(context.Context, *pgx.Conn) error
}

// Finding is one line of Check.
type Finding struct {
	OK      bool
	Advice  bool // worth knowing, not wrong
	Code    string
	Subject string // a table, role, slot, publication or setting
	Message string
	Fix     string // the exact SQL or setting; "" if OK
}

// Wrong reports whether nudge cannot work as things are.
func (f Finding) Wrong() bool { return !f.OK && !f.Advice }

// Codes of findings.
const (
	CodeConnect           = "check_connect"
	CodeReplica           = "check_replica"
	CodeWALLevel          = "check_wal_level"
	CodeMaxSlots          = "check_max_slots"
	CodeMaxSenders        = "check_max_wal_senders"
	CodeTableMissing      = "check_table_missing"
	CodeTableKind         = "check_table_kind"
	CodeColumnMissing     = "check_column_missing"
	CodePrimaryKey        = "check_primary_key"
	CodeReplicaIdentity   = "check_replica_identity"
	CodePublication       = "check_publication"
	CodeRole              = "check_role"
	CodeReplicationRole   = "check_replication_role"
	CodeGrants            = "check_grants"
	CodeMigrations        = "check_migrations"
	CodeEncoding          = "check_encoding"
	CodeSlot              = "check_slot"
	CodeSlotWALLimit      = "check_slot_wal_limit"
	CodeStandbySlots      = "check_standby_slots"
	CodeSynchronousCommit = "check_synchronous_commit"
)

// RefusedError says why a plan cannot be made: tables that nudge cannot follow as they are.
type RefusedError struct{ Findings []Finding }

// Error lists the findings.
func (e *RefusedError) Error() string {
	lines := make([]string, len(e.Findings))
	for i, f := range e.Findings {
		lines[i] = f.Code + ": " + f.Message
	}
	return strings.Join(lines, "; ")
}

// lockTimeout bounds how long a statement waits for a table that is in use: whatever waits for a
// strong lock makes the app's own queries wait behind it.
const lockTimeout = "5s"

// Plan returns what is still to be run for spec, in order; nothing if all is right. conn is the
// database's owner, or whoever will run it. A *RefusedError says that a table must be changed first.
func Plan(ctx context.Context, conn *pgx.Conn, spec Spec) ([]Statement, error) {
	st, err := inspect(ctx, conn, spec)
	if err != nil {
		return nil, err
	}
	if bad := st.refusals(spec); len(bad) > 0 {
		return nil, &RefusedError{bad}
	}
	return st.plan(spec, st.user), nil
}

// plan is Plan over what inspect found. admin is who will own what is made, "" if that is not known.
func (st *state) plan(spec Spec, admin string) []Statement {
	var out []Statement
	out = append(out, st.planRoles(spec)...)
	if !spec.LogElsewhere {
		out = append(out, st.planSchema()...)
	}
	out = append(out, st.planGrants(spec, admin)...)
	identities := st.planIdentities(spec)
	out = append(out, st.planPublication(spec, identities)...)
	for _, i := range identities {
		out = append(out, i.statements...)
	}
	return append(out, st.planPublished(spec)...)
}

// Print writes statements as a script for psql.
func Print(w io.Writer, statements []Statement) error {
	var b strings.Builder
	if len(statements) > 0 {
		fmt.Fprintf(&b, "-- Do not let the app's queries wait for long behind ours; run again what gives up.\nset lock_timeout = '%s';\n", lockTimeout)
	}
	for _, s := range statements {
		if s.NoTransaction {
			fmt.Fprintf(&b, "\n-- %s (cannot run in a transaction)\nset lock_timeout = 0;\n%s\nset lock_timeout = '%s';\n", s.Why, terminated(s.SQL), lockTimeout)
			continue
		}
		fmt.Fprintf(&b, "\n-- %s\n%s\n", s.Why, terminated(s.SQL))
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// terminated ends SQL with a semicolon; psql's own commands take none.
func terminated(sql string) string {
	if strings.HasPrefix(sql, `\`) {
		return sql
	}
	return sql + ";"
}

// Apply runs statements one by one, each in a transaction of its own, and prints each before it runs.
// What it did stays done when one fails; the next Plan goes on from there.
func Apply(ctx context.Context, conn *pgx.Conn, statements []Statement, w io.Writer) error {
	defer func() { _, _ = conn.Exec(ctx, "reset lock_timeout") }()
	for _, s := range statements {
		if _, err := fmt.Fprintf(w, "-- %s\n%s\n\n", s.Why, terminated(s.SQL)); err != nil {
			return err
		}
		if err := s.apply(ctx, conn); err != nil {
			return fmt.Errorf("%s: %w", s.Why, err)
		}
	}
	return nil
}

func (s *Statement) apply(ctx context.Context, conn *pgx.Conn) error {
	wait := lockTimeout
	if s.NoTransaction {
		wait = "0" // it waits for others without making anyone wait
	}
	if _, err := conn.Exec(ctx, "set lock_timeout = '"+wait+"'"); err != nil {
		return err
	}
	var err error
	if s.exec != nil {
		err = s.exec(ctx, conn)
	} else {
		_, err = conn.Exec(ctx, s.SQL)
	}
	var pg *pgconn.PgError
	if errors.As(err, &pg) && pg.Code == "55P03" {
		return fmt.Errorf("somebody else has held the table for %s; nothing was changed, run it again: %w", lockTimeout, err)
	}
	return err
}

// mark is the comment on what attach made: detach removes nothing without it.
const mark = "made by nudge attach"

// ident quotes a name, or "schema.name" as two.
func ident(parts ...string) string { return pgx.Identifier(parts).Sanitize() }

func literal(s string) string {
	if strings.Contains(s, `\`) {
		return ` E'` + strings.NewReplacer(`\`, `\\`, `'`, `''`).Replace(s) + `'`
	}
	return `'` + strings.ReplaceAll(s, `'`, `''`) + `'`
}

func idents(names []string) string {
	out := make([]string, len(names))
	for i, n := range names {
		out[i] = ident(n)
	}
	return strings.Join(out, ", ")
}
