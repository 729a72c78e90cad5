package attach

import (
	"slices"
	"strconv"
	"strings"
)

// generatedFinding refuses a table whose publishing would break the app: from Postgres 18 on, its own
// UPDATE and DELETE fail where the replica identity, FULL, holds generated columns that are not published
// (P11, P16). Publishing those is no way out: virtual ones never are, and snapshots leave them out.
func (st *state) generatedFinding(ts TableSpec, t *table) (Finding, bool) {
	version, _ := strconv.Atoi(st.settings["server_version_num"]) // a number, says Postgres
	var generated []string
	for _, c := range t.Columns {
		if c.Generated {
			generated = append(generated, c.Name)
		}
	}
	if version < 180000 || len(generated) == 0 {
		return Finding{}, false
	}
	name := ident(t.Schema, t.Name)
	f := Finding{Code: CodeReplicaIdentity, Subject: ts.Name}
	owner, _ := t.Column(ts.Owner)
	full := slices.IndexFunc(t.nodes, func(n node) bool { return n.identity == 'f' })
	switch {
	case ts.Owner != "" && !owner.NotNull && !contains(t.PrimaryKey, []string{ts.Owner}):
		f.Fix = "alter table " + name + " alter column " + ident(ts.Owner) + " set not null;"
		if full >= 0 {
			f.Fix += "\n" + defaults(t)
		}
	case full >= 0:
		f.Fix = defaults(t)
	default:
		return Finding{}, false
	}
	f.Message = ts.Name + " needs or has replica identity full, and generated columns (" + strings.Join(generated, ", ") +
		"): once it is published, Postgres 18 refuses every UPDATE and DELETE of it. With an owner that is never null, an index will do in its place"
	return f, true
}

// defaults takes FULL away; the plan then chooses what is needed.
func defaults(t *table) string {
	var lines []string
	for i := range t.nodes {
		if t.nodes[i].identity == 'f' {
			lines = append(lines, "alter table "+t.nodes[i].sql()+" replica identity default;")
		}
	}
	return strings.Join(lines, "\n")
}
