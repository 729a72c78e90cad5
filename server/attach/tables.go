package attach

import (
	"fmt"
	"strings"

	"github.com/nudgesync/nudge/migrations"
)

// refusals are the tables that nudge cannot follow as they are, and a publication it must not touch.
func (st *state) refusals(spec Spec) []Finding {
	var out []Finding
	for _, f := range append(st.checkTables(spec), st.checkForeignPublication(spec)...) {
		if f.Wrong() {
			out = append(out, f)
		}
	}
	return out
}

// checkTables says of every table whether it, its columns and its key will do.
func (st *state) checkTables(spec Spec) []Finding {
	var out []Finding
	for _, ts := range spec.Tables {
		t := st.tables[ts.Name]
		if t == nil {
			out = append(out, Finding{
				Code: CodeTableMissing, Subject: ts.Name,
				Message: "there is no table " + ts.Name + st.suggest(ts.Name),
				Fix:     "correct the name under tables in nudge.yaml, or create the table",
			})
			continue
		}
		if f, bad := t.kindFinding(ts.Name); bad {
			out = append(out, f)
			continue
		}
		before := len(out)
		out = append(out, t.missingColumns(ts)...)
		if f, bad := t.keyFinding(ts.Name); bad {
			out = append(out, f)
		}
		if f, bad := st.generatedFinding(ts, t); bad && len(out) == before {
			out = append(out, f)
		}
		if len(out) == before {
			out = append(out, Finding{OK: true, Code: CodePrimaryKey, Subject: ts.Name, Message: ts.Name + " has the key (" + strings.Join(t.PrimaryKey, ", ") + ")"})
		}
	}
	return out
}

func (t *table) kindFinding(name string) (Finding, bool) {
	f := Finding{Code: CodeTableKind, Subject: name}
	kinds := map[byte]string{'v': "a view", 'm': "a materialized view", 'f': "a foreign table", 'S': "a sequence", 'c': "a type", 'i': "an index", 'I': "an index"}
	switch what := kinds[t.Kind]; {
	case what != "":
		f.Message = name + " is " + what + ": its rows are not in the write-ahead log"
		f.Fix = "name the table that holds the rows"
	case t.temporary:
		f.Message = name + " is temporary: its rows are not in the write-ahead log"
		f.Fix = "name a table that stays"
	case t.unlogged:
		f.Message = name + " is unlogged: its rows are not in the write-ahead log"
		f.Fix = "alter table " + ident(t.Schema, t.Name) + " set logged;"
	case t.Schema == migrations.Schema:
		f.Message = name + " is nudge's own: following it would feed nudge with itself (P24)"
		f.Fix = "remove it from tables in nudge.yaml"
	default:
		return Finding{}, false
	}
	return f, true
}

func (t *table) missingColumns(ts TableSpec) []Finding {
	names := make([]string, len(t.Columns))
	for i, c := range t.Columns {
		names[i] = c.Name
	}
	var out []Finding
	for _, want := range append([]string{ts.Owner}, ts.Columns...) {
		if _, ok := t.Column(want); ok || want == "" {
			continue
		}
		out = append(out, Finding{
			Code: CodeColumnMissing, Subject: ts.Name + "." + want,
			Message: ts.Name + " has no column " + want + didYouMean(want, names),
			Fix:     "correct the name under tables." + ts.Name + " in nudge.yaml, or add the column",
		})
	}
	return out
}

func (t *table) keyFinding(name string) (Finding, bool) {
	f := Finding{Code: CodePrimaryKey, Subject: name}
	table := ident(t.Schema, t.Name)
	switch {
	case len(t.PrimaryKey) == 0 && t.candidate != "" && t.Kind == 'r':
		f.Message = name + " has no primary key, by which devices know its rows; it has a unique index that can become one"
		f.Fix = fmt.Sprintf("alter table %s add primary key using index %s;", table, t.candidate)
	case len(t.PrimaryKey) == 0:
		f.Message = name + " has no primary key, by which devices know its rows. If no columns make one, add one; that rewrites the table"
		f.Fix = "alter table " + table + " add column nudge_id bigint generated always as identity primary key;"
	case t.PrimaryKeyDeferrable:
		f.Message = name + "'s primary key is deferrable: Postgres takes it for no replica identity, and two rows may share a key in mid-transaction"
		f.Fix = fmt.Sprintf("alter table %s drop constraint %s, add constraint %s primary key (%s);", table, ident(t.primaryKey), ident(t.primaryKey), idents(t.PrimaryKey))
	default:
		return Finding{}, false
	}
	return f, true
}

// checkForeignPublication refuses one that streams more than named tables (P24).
func (st *state) checkForeignPublication(spec Spec) []Finding {
	p := st.publication
	if p == nil || !p.allTables && !p.publishesUs {
		return nil
	}
	afresh := *st
	afresh.publication = nil
	fix := append([]Statement{{SQL: "drop publication " + ident(spec.Publication)}}, afresh.planPublication(spec, nil)...)
	return []Finding{{
		Code: CodePublication, Subject: spec.Publication,
		Message: "publication " + spec.Publication + " streams nudge's own tables too: the log would feed itself (P24). Name another one in source.publication, or make it anew if nobody else reads it",
		Fix:     script(append(fix, afresh.planPublished(spec)...)),
	}}
}

// script is what psql has to run.
func script(statements []Statement) string {
	lines := make([]string, len(statements))
	for i, s := range statements {
		lines[i] = terminated(s.SQL)
	}
	return strings.Join(lines, "\n")
}
