package route

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// Column is one column of a table, as the catalog has it.
type Column struct {
	Name      string
	Type      uint32 // OID
	Modifier  int32  // atttypmod
	BaseType  uint32 // OID of what a domain stands on, which is how query results name it; else Type
	TypeName  string // as format_type prints it: "character varying(20)"
	NotNull   bool
	Generated bool // pgoutput leaves it out, unless 18 is told otherwise (P16): StreamedColumns
	// Toastable: an update that does not touch a long value of it sends "unchanged" instead (P11).
	Toastable bool
}

// CatalogTable is what the source's catalog says of one table.
type CatalogTable struct {
	OID                  uint32
	Schema, Name         string
	Kind                 byte     // r table, p partitioned table, v view, …
	Columns              []Column // in attnum order, without dropped ones
	PrimaryKey           []string // in key order; empty: there is none
	PrimaryKeyDeferrable bool
	Identity             byte     // d default, n nothing, f full, i index
	IdentityIndex        string   // under i: the index's name
	IdentityColumns      []string // what an old tuple carries
	RowSecurity          bool
	// Leaves are the partitions below a partitioned table, root first order, by "schema.name".
	Leaves []string
}

// QualifiedName is "schema.name", the table's name in nudge.yaml and on the wire.
func (t *CatalogTable) QualifiedName() string { return t.Schema + "." + t.Name }

// Column finds a column by name.
func (t *CatalogTable) Column(name string) (Column, bool) {
	for _, c := range t.Columns {
		if c.Name == name {
			return c, true
		}
	}
	return Column{}, false
}

// Querier is a pgx connection, pool or transaction.
type Querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

// Catalog reads the named tables ("schema.name") from the source's catalog. A table that does not
// exist is missing from the result.
func Catalog(ctx context.Context, q Querier, names []string) (map[string]*CatalogTable, error) {
	out := make(map[string]*CatalogTable, len(names))
	rows, err := q.Query(ctx, catalogSQL, names)
	if err != nil {
		return nil, fmt.Errorf("read catalog: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var t CatalogTable
		var kind, identity string
		var names, types []string
		var oids, bases []uint32
		var modifiers []int32
		var notNull, generated, toastable []bool
		err := rows.Scan(&t.OID, &t.Schema, &t.Name, &kind, &identity, &t.RowSecurity,
			&names, &oids, &modifiers, &bases, &types, &notNull, &generated, &toastable,
			&t.PrimaryKey, &t.PrimaryKeyDeferrable, &t.IdentityIndex, &t.IdentityColumns, &t.Leaves)
		if err != nil {
			return nil, fmt.Errorf("read catalog: %w", err)
		}
		t.Kind, t.Identity = kind[0], identity[0]
		for i := range names {
			t.Columns = append(t.Columns, Column{names[i], oids[i], modifiers[i], bases[i], types[i], notNull[i], generated[i], toastable[i]})
		}
		switch t.Identity {
		case 'd':
			t.IdentityColumns = t.PrimaryKey
		case 'f':
			t.IdentityColumns = names
		case 'n':
			t.IdentityColumns = nil
		}
		out[t.QualifiedName()] = &t
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read catalog: %w", err)
	}
	return out, nil
}

const catalogSQL = `
select c.oid, n.nspname, c.relname, c.relkind::text, c.relreplident::text, c.relrowsecurity,
       a.names, a.oids, a.modifiers, a.bases, a.types, a.not_null, a.generated, a.toastable,
       coalesce(pk.cols, '{}'), coalesce(pk.deferrable, false),
       coalesce(ri.name, ''), coalesce(ri.cols, '{}'),
       coalesce((select array_agg(ln.nspname || '.' || lc.relname order by t.level, t.relid::text)
                   from pg_partition_tree(c.oid) t
                   join pg_class lc on lc.oid = t.relid
                   join pg_namespace ln on ln.oid = lc.relnamespace
                  where c.relkind = 'p' and t.isleaf), '{}')
  from pg_class c
  join pg_namespace n on n.oid = c.relnamespace
  cross join lateral (
       select coalesce(array_agg(a.attname::text order by a.attnum), '{}') as names,
              coalesce(array_agg(a.atttypid order by a.attnum), '{}') as oids,
              coalesce(array_agg(a.atttypmod order by a.attnum), '{}') as modifiers,
              coalesce(array_agg((
                with recursive base(oid) as (
                  select a.atttypid union all
                  select d.typbasetype from base join pg_type d on d.oid = base.oid and d.typtype = 'd')
                select b.oid from base b join pg_type d on d.oid = b.oid and d.typtype <> 'd'
              ) order by a.attnum), '{}') as bases,
              coalesce(array_agg(format_type(a.atttypid, a.atttypmod) order by a.attnum), '{}') as types,
              coalesce(array_agg(a.attnotnull order by a.attnum), '{}') as not_null,
              coalesce(array_agg(a.attgenerated <> '' order by a.attnum), '{}') as generated,
              coalesce(array_agg(a.attstorage in ('x', 'e', 'm') order by a.attnum), '{}') as toastable
         from pg_attribute a
        where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped) a
  left join lateral (
       select array_agg(a.attname::text order by k.ord) as cols, bool_or(not i.indimmediate) as deferrable
         from pg_index i
         cross join lateral unnest(i.indkey::int2[]) with ordinality k(attnum, ord)
         join pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.attnum
        where i.indrelid = c.oid and i.indisprimary and k.ord <= i.indnkeyatts) pk on true
  left join lateral (
       select ic.relname::text as name, array_agg(a.attname::text order by k.ord) as cols
         from pg_index i
         join pg_class ic on ic.oid = i.indexrelid
         cross join lateral unnest(i.indkey::int2[]) with ordinality k(attnum, ord)
         join pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.attnum
        where i.indrelid = c.oid and i.indisreplident and k.ord <= i.indnkeyatts
        group by ic.relname) ri on true
 where n.nspname || '.' || c.relname = any($1)`
