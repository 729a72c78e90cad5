package attach

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/nudgesync/nudge/migrations"
)

// right is one privilege that a role needs.
type right struct{ role, kind, object, privilege string }

// logRights is what the feed does with nudge's own tables. Partitions of changes are opened and
// dropped through functions that run as their owner.
var logRights = []struct {
	kind, object string
	feed         []string
	snapshot     []string
}{
	{"schema", migrations.Schema, []string{"usage"}, []string{"usage"}},
	{"table", "nudge.changes", []string{"select", "insert"}, []string{"select"}},
	{"table", "nudge.segments", []string{"select", "insert"}, []string{"select"}},
	{"table", "nudge.feed", []string{"select", "insert", "update"}, []string{"select"}},
	{"table", "nudge.keys", []string{"select", "insert", "update"}, nil}, // who reads rows need not read keys
	{"table", "nudge.revocations", []string{"select", "insert", "update", "delete"}, nil},
	{"table", "nudge.settings", []string{"select", "insert", "update", "delete"}, nil},
	{"table", "nudge.devices", []string{"select", "insert", "update", "delete"}, nil},
	{"table", "nudge.due", []string{"select", "insert", "update", "delete"}, nil},
	{"table", "nudge.marking", []string{"select", "insert", "update"}, nil},
	{"table", "nudge.wakes", []string{"select", "insert", "update", "delete"}, nil},
	{"table", migrations.Table, []string{"select"}, nil},
	{"function", "nudge.segment_open", []string{"execute"}, nil},
	{"function", "nudge.segment_drop", []string{"execute"}, nil},
}

var signatures = map[string]string{
	"nudge.segment_open": "nudge.segment_open(integer, bigint, bigint)",
	"nudge.segment_drop": "nudge.segment_drop(integer)",
}

// wanted lists the rights that spec needs, those on objects that do not exist yet included.
func (st *state) wanted(spec Spec) []right {
	var out []right
	add := func(role, kind, object string, privileges ...string) {
		for _, p := range privileges {
			if r := (right{role, kind, object, p}); !slices.Contains(out, r) {
				out = append(out, r)
			}
		}
	}
	for _, r := range spec.roles() {
		add(r.Name, "database", st.database, "connect")
	}
	if !spec.LogElsewhere {
		for _, l := range logRights {
			add(spec.Feed.Name, l.kind, l.object, l.feed...)
			add(spec.Snapshot.Name, l.kind, l.object, l.snapshot...)
		}
		for _, s := range st.segments {
			add(spec.Feed.Name, "table", s, "select", "insert")
			add(spec.Snapshot.Name, "table", s, "select")
		}
	}
	for _, ts := range spec.Tables {
		if t := st.tables[ts.Name]; t != nil {
			add(spec.Snapshot.Name, "schema", t.Schema, "usage")
			add(spec.Snapshot.Name, "table", ts.Name, "select")
		}
	}
	return out
}

// planRoles makes the logins that do not exist, and gives those that do what is missing.
func (st *state) planRoles(spec Spec) []Statement {
	var out []Statement
	for _, want := range spec.roles() {
		name := ident(want.Name)
		add := func(code, why, sql string) {
			out = append(out, Statement{SQL: sql, Why: why, Code: code, Subject: want.Name})
		}
		feeds := want.Name == spec.Feed.Name
		secured := st.secured(spec, want.Name)
		r := st.roles[want.Name]
		if r == nil {
			r = &role{login: true, replication: feeds && st.provider != onRDS, bypassRLS: secured != ""}
			sql := "create role " + name + " login"
			if r.replication {
				sql += " replication"
			}
			if r.bypassRLS {
				sql += " bypassrls"
			}
			add(CodeRole, "the role that "+st.duty(spec, want.Name), sql)
			add(CodeRole, "so that detach knows it", "comment on role "+name+" is "+literal(mark))
			if want.Password != "" {
				out = append(out, passwordStatement(want))
			}
		}
		switch {
		case r.superuser:
			continue
		case !r.login:
			add(CodeRole, "nudge logs in as this role", "alter role "+name+" login")
		}
		if feeds && !r.replication {
			sql := "alter role " + name + " replication"
			if st.provider == onRDS {
				sql = "grant rds_replication to " + name
			}
			add(CodeReplicationRole, "reading the WAL takes the right to replicate", sql)
		}
		if secured != "" && !r.bypassRLS {
			add(CodeGrants, secured+" has row security, and nudge reads everybody's rows", "alter role "+name+" bypassrls")
		}
	}
	return out
}

func (st *state) duty(spec Spec, role string) string {
	switch {
	case spec.Feed.Name == spec.Snapshot.Name:
		return "reads the WAL and the tables, and writes the change log"
	case role == spec.Feed.Name:
		return "reads the WAL and writes the change log"
	}
	return "reads the tables"
}

// secured names a table whose row security would hide rows from the role, or is "".
func (st *state) secured(spec Spec, role string) string {
	if role != spec.Snapshot.Name {
		return ""
	}
	for _, ts := range spec.Tables {
		t := st.tables[ts.Name]
		if t != nil && t.RowSecurity && (t.ownedBy != role || t.forceRowSecurity) {
			return ts.Name
		}
	}
	return ""
}

// passwordStatement prints psql's own prompt, and sends a SCRAM verifier: the password itself appears
// neither on a screen nor in the server's log.
func passwordStatement(r Role) Statement {
	return Statement{
		SQL: `\password ` + ident(r.Name), Why: "the password that the configuration has for " + r.Name,
		Code: CodeRole, Subject: r.Name,
		exec: func(ctx context.Context, conn *pgx.Conn) error {
			verifier, err := scramVerifier(r.Password)
			if err != nil {
				return err
			}
			_, err = conn.Exec(ctx, "alter role "+ident(r.Name)+" password "+literal(verifier))
			return err
		},
	}
}

// planGrants gives each role, in one statement, the rights that it lacks. Whoever will own schema
// nudge needs none on it.
func (st *state) planGrants(spec Spec, admin string) []Statement {
	var out []Statement
	rights := st.wanted(spec)
	for _, want := range spec.roles() {
		r := st.roles[want.Name]
		if r != nil && r.superuser {
			continue
		}
		var order []string // objects as GRANT names them
		lacks := map[string][]string{}
		for _, w := range rights {
			if w.role != want.Name {
				continue
			}
			has, known := st.rights[w]
			// What does not exist yet will be admin's own, or opened to everybody by the migrations.
			if has || !known && (w.role == admin || w.kind == "schema") {
				continue
			}
			on := grantable(w)
			if lacks[on] == nil {
				order = append(order, on)
			}
			lacks[on] = append(lacks[on], w.privilege)
		}
		if len(order) == 0 {
			continue
		}
		lines := make([]string, len(order))
		for i, on := range order {
			lines[i] = fmt.Sprintf("grant %s on %s to %s", strings.Join(lacks[on], ", "), on, ident(want.Name))
		}
		out = append(out, Statement{
			SQL: strings.Join(lines, ";\n"), Why: "what the role that " + st.duty(spec, want.Name) + " may do, and no more",
			Code: CodeGrants, Subject: want.Name,
		})
	}
	return out
}

func grantable(r right) string {
	switch r.kind {
	case "function":
		return "function " + signatures[r.object]
	case "table":
		schema, name, _ := strings.Cut(r.object, ".")
		return ident(schema, name)
	}
	return r.kind + " " + ident(r.object)
}
