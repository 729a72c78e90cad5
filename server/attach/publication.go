package attach

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
)

// notes are kept in the publication's comment: detach restores the database from them.
type notes struct {
	// Made: attach created the publication.
	Made bool `json:"made"`
	// Identity is the replica identity that tables had before attach changed it, by "schema.name": d, n,
	// f or i:<index>.
	Identity map[string]string `json:"identity,omitempty"`
}

const notesPrefix = "nudge attach: "

// notes reads the comment; ok is false if it is somebody else's.
func (p *publication) notes() (n notes, ok bool) {
	text, ours := strings.CutPrefix(p.comment, notesPrefix)
	if !ours {
		return notes{}, p.comment == ""
	}
	return n, json.Unmarshal([]byte(text), &n) == nil
}

func (n notes) comment() string {
	b, _ := json.Marshal(n) // strings and a bool always marshal
	return notesPrefix + string(b)
}

func (st *state) publicationStatement(spec Spec, why, sql string) Statement {
	return Statement{SQL: sql, Why: why, Code: CodePublication, Subject: spec.Publication}
}

// planPublication makes it, empty, and writes down what the identities will be changed from.
func (st *state) planPublication(spec Spec, identities []identity) []Statement {
	var out []Statement
	name := ident(spec.Publication)
	add := func(why, sql string) { out = append(out, st.publicationStatement(spec, why, sql)) }
	kept, mine := notes{Made: true}, true
	pub := st.publication
	if pub == nil {
		add("what nudge streams; its tables follow", "create publication "+name+" with (publish_via_partition_root = true)")
	} else {
		kept, mine = pub.notes()
		if !pub.complete {
			add("inserts, updates, deletes and truncates must all be streamed", "alter publication "+name+" set (publish = 'insert, update, delete, truncate')")
		}
		if !pub.viaRoot {
			add("a partition's rows are those of the partitioned table", "alter publication "+name+" set (publish_via_partition_root = true)")
		}
	}
	before := maps.Clone(kept.Identity)
	for _, i := range identities {
		for node, was := range i.prior {
			if _, known := kept.Identity[node]; !known {
				if kept.Identity == nil {
					kept.Identity = map[string]string{}
				}
				kept.Identity[node] = was
			}
		}
	}
	if mine && (pub == nil || !maps.Equal(before, kept.Identity)) {
		add("so that detach knows what was there before", "comment on publication "+name+" is "+literal(kept.comment()))
	}
	return out
}

// planPublished adds the tables that are missing from the publication, and takes out those that the
// configuration no longer names if attach made it.
func (st *state) planPublished(spec Spec) []Statement {
	var out []Statement
	name := ident(spec.Publication)
	add := func(why, verb string, tables []string) {
		if len(tables) > 0 {
			out = append(out, st.publicationStatement(spec, why, "alter publication "+name+" "+verb+" table "+strings.Join(tables, ", ")))
		}
	}
	var missing, filtered, narrow, extra []string
	wanted := map[string]bool{}
	for _, ts := range spec.Tables {
		wanted[ts.Name] = true
		t := st.tables[ts.Name]
		if t == nil {
			continue
		}
		var m member
		published := false
		if st.publication != nil {
			m, published = st.publication.tables[ts.Name]
		}
		if m.filtered {
			filtered = append(filtered, ident(t.Schema, t.Name))
		}
		list, short := m.listed(ts, t)
		if short && !m.filtered {
			narrow = append(narrow, ident(t.Schema, t.Name))
		}
		if !published || m.filtered || short {
			missing = append(missing, ident(t.Schema, t.Name)+list)
		}
	}
	if st.publication != nil {
		if n, ok := st.publication.notes(); ok && n.Made {
			for _, k := range slices.Sorted(maps.Keys(st.publication.tables)) {
				if schema, table, _ := strings.Cut(k, "."); st.publication.tables[k].named && !wanted[k] {
					extra = append(extra, ident(schema, table))
				}
			}
		}
	}
	add("a row filter turns a change of owner into something else (P17)", "drop", filtered)
	add("a list of columns must have those that say whose row it is and which one (P17)", "drop", narrow)
	add("the tables that nudge follows", "add", missing)
	add("the configuration no longer names them", "drop", extra)
	return out
}

// listed is the member's list of columns as it must be, in SQL, "" for none; short if it is not so now.
func (m *member) listed(ts TableSpec, t *table) (list string, short bool) {
	needed := identityColumns(ts.Owner, t)
	full := slices.ContainsFunc(t.nodes, func(n node) bool { return n.identity == 'f' })
	switch {
	case m.columns == nil:
		return "", false
	case full: // Postgres would refuse the app's updates and deletes
		return "", true
	}
	columns := slices.Clone(m.columns)
	for _, c := range needed {
		if !slices.Contains(columns, c) {
			columns, short = append(columns, c), true
		}
	}
	return " (" + idents(columns) + ")", short
}
