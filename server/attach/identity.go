package attach

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
)

// identity is what is to be done about one table's replica identity, its partitions included.
type identity struct {
	table      string
	prior      map[string]string // by node: what detach has to restore
	statements []Statement
}

// nameMax is what Postgres keeps of a name.
const nameMax = 63

// indexName is nudge_<table>_identity, shortened with a hash where Postgres would cut it off.
func indexName(table string) string {
	name := "nudge_" + table + "_identity"
	if len(name) <= nameMax {
		return name
	}
	sum := sha256.Sum256([]byte(table))
	short := strings.ToValidUTF8(table[:nameMax-len("nudge__01234567_identity")], "")
	return "nudge_" + short + "_" + hex.EncodeToString(sum[:4]) + "_identity"
}

// identityColumns is what an old tuple must carry: the owner, then the rest of the key.
func identityColumns(owner string, t *table) []string {
	var out []string
	if owner != "" {
		out = append(out, owner)
	}
	for _, c := range t.PrimaryKey {
		if c != owner {
			out = append(out, c)
		}
	}
	return out
}

func contains(all, some []string) bool {
	for _, s := range some {
		if !slices.Contains(all, s) {
			return false
		}
	}
	return true
}

func (n *node) index(name string) (index, bool) {
	i := slices.IndexFunc(n.indexes, func(x index) bool { return x.name == name })
	if i < 0 {
		return index{}, false
	}
	return n.indexes[i], true
}

// carries reports whether n's old tuples hold the columns.
func (n *node) carries(columns, primaryKey []string) bool {
	switch n.identity {
	case 'f':
		return true
	case 'd':
		return contains(primaryKey, columns)
	case 'i':
		x, ok := n.index(n.identityIndex)
		return ok && x.valid && contains(x.columns, columns)
	}
	return false
}

// restorable is n's identity as detach reads it back.
func (n *node) restorable() string {
	if n.identity == 'i' {
		return "i:" + n.identityIndex
	}
	return string(n.identity)
}

// planIdentities moves each table whose old tuples lack the owner or the key, and only those.
func (st *state) planIdentities(spec Spec) []identity {
	var out []identity
	for _, ts := range spec.Tables {
		t := st.tables[ts.Name]
		if t == nil || len(t.nodes) == 0 || len(t.PrimaryKey) == 0 {
			continue
		}
		columns := identityColumns(ts.Owner, t)
		wrong := slices.DeleteFunc(slices.Clone(t.nodes), func(n node) bool { return n.carries(columns, t.PrimaryKey) })
		if len(wrong) == 0 {
			continue
		}
		p := identity{table: ts.Name, prior: map[string]string{}}
		owner, _ := t.Column(ts.Owner)
		switch {
		case contains(t.PrimaryKey, columns):
			p.setAll(wrong, "default", "the primary key holds all that an old row must tell")
		case !owner.NotNull:
			p.setAll(wrong, "full", "the owner may be null, so no index can serve as replica identity")
		default:
			p.useIndexes(t, columns)
		}
		out = append(out, p)
	}
	return out
}

func (p *identity) add(noTransaction bool, why, format string, args ...any) {
	p.statements = append(p.statements, Statement{
		SQL: fmt.Sprintf(format, args...), Why: why, NoTransaction: noTransaction,
		Code: CodeReplicaIdentity, Subject: p.table,
	})
}

func (p *identity) set(n *node, to, why string) {
	if x, _ := n.index(n.identityIndex); n.identity != 'i' || !x.marked {
		p.prior[n.key()] = n.restorable()
	}
	p.add(false, "replica identity of "+n.key()+": "+why, "alter table %s replica identity %s", n.sql(), to)
}

func (p *identity) setAll(nodes []node, to, why string) {
	for i := range nodes {
		p.set(&nodes[i], to, why)
	}
}

// useIndexes gives every node a unique index on columns and makes that its identity. A partitioned
// table's index is made as a shell, one leaf at a time and without blocking writers, and attached.
func (p *identity) useIndexes(t *table, columns []string) {
	chosen := map[string]string{} // node → index
	for i := range t.nodes {
		n := &t.nodes[i]
		name, made := n.choose(columns, chosen[n.parent])
		if made {
			p.make(n, name, columns)
		}
		chosen[n.key()] = name
		if x, _ := n.index(name); n.parent != "" && x.parent == "" {
			schema := t.nodes[slices.IndexFunc(t.nodes, func(m node) bool { return m.key() == n.parent })].schema
			p.add(false, "one index with that of "+n.parent, "alter index %s attach partition %s",
				ident(schema, chosen[n.parent]), ident(n.schema, name))
		}
	}
	for i := range t.nodes {
		n := &t.nodes[i]
		if !n.carries(columns, t.PrimaryKey) {
			p.set(n, "using index "+ident(chosen[n.key()]), "an update or delete must name the owner and the key of the old row")
		}
	}
}

// choose finds the index for n, or names the one to make. Within a partition tree it is the one that
// belongs to the parent's.
func (n *node) choose(columns []string, parents string) (name string, missing bool) {
	for _, x := range n.indexes {
		if parents != "" && x.parent == parents {
			return x.name, false
		}
		if n.parent == "" && x.usable && x.valid && contains(x.columns, columns) {
			return x.name, false
		}
	}
	name = indexName(n.name)
	for k := 2; ; k++ {
		x, taken := n.index(name)
		switch {
		case !taken:
			return name, true
		case x.usable && slices.Equal(x.columns, columns) && (x.valid || n.partitioned):
			return name, false // left by an attach that was interrupted
		case !x.valid && !n.partitioned && n.identityIndex != name:
			return name, true // make replaces it
		}
		name = indexName(fmt.Sprintf("%s_%d", n.name, k)) // the owner has changed
	}
}

func (p *identity) make(n *node, name string, columns []string) {
	if _, left := n.index(name); left {
		p.add(true, "a build of this index was interrupted", "drop index concurrently %s", ident(n.schema, name))
	}
	how, only := "concurrently ", ""
	if n.partitioned {
		how, only = "", "only "
	}
	p.add(!n.partitioned, "an index that can be the replica identity of "+n.key(),
		"create unique index %s%s on %s%s (%s)", how, ident(name), only, n.sql(), idents(columns))
	p.add(false, "so that detach knows it", "comment on index %s is %s", ident(n.schema, name), literal(mark))
}
