package value

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// Types says what the types of columns are made of: those every Postgres has, by their fixed OIDs, and
// those of one database, as Load read them. It is immutable.
type Types struct {
	loaded map[uint32]typeDef
}

// typeDef is one type of the catalog. With all fields zero its values are plain strings: enums, ranges,
// multiranges and base types of extensions.
type typeDef struct {
	base        uint32 // of a domain, else 0
	elem        uint32 // of an array, else 0
	delim       byte   // of an array
	isComposite bool
	isHstore    bool
	fields      []attribute // of a composite, in attribute order
	labels      []label     // of an enum, in order of their OIDs
}

// label is one value of an enum: renaming it keeps its OID.
type label struct {
	oid  uint32
	name string
}

type attribute struct {
	name string
	oid  uint32
}

// Builtin knows the types whose OIDs are the same in every Postgres.
func Builtin() *Types { return &Types{} }

// Known reports whether t knows what the type is. A column of an unknown type is a reason to Load anew.
func (t *Types) Known(oid uint32) bool {
	_, loaded := t.loaded[oid]
	return loaded || oid < firstUnpinnedOID
}

// Querier is a pgx connection, pool or transaction.
type Querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

// Load reads from the catalog the types named by oids and all that they are made of: bases of domains,
// elements of arrays, attributes of composites, subtypes of ranges. It is one query, so one state of the catalog. A type
// that does not exist (any more) is left out and so not Known.
func Load(ctx context.Context, q Querier, oids []uint32) (*Types, error) {
	rows, err := q.Query(ctx, typesSQL, oids)
	if err != nil {
		return nil, fmt.Errorf("read types from the catalog: %w", err)
	}
	defer rows.Close()
	t := &Types{loaded: map[uint32]typeDef{}}
	for rows.Next() {
		var oid uint32
		var d typeDef
		var delim string
		var names, labels []string
		var types, ids []uint32
		err := rows.Scan(&oid, &d.base, &d.elem, &delim, &d.isComposite, &d.isHstore, &names, &types, &ids, &labels)
		if err != nil {
			return nil, fmt.Errorf("read types from the catalog: %w", err)
		}
		d.delim = delim[0]
		for i, name := range names {
			d.fields = append(d.fields, attribute{name: name, oid: types[i]})
		}
		for i, name := range labels {
			d.labels = append(d.labels, label{oid: ids[i], name: name})
		}
		t.loaded[oid] = d
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read types from the catalog: %w", err)
	}
	return t, nil
}

// An array is what has the array subscript handler: point, name and others also have an element type,
// but print, and count in to_jsonb, as scalars. The delimiter is the element type's.
const typesSQL = `
with recursive need(oid) as (
    select unnest($1::oid[])
    union
    select part.oid
      from need
      join pg_catalog.pg_type t on t.oid = need.oid
     cross join lateral (
           select t.typbasetype
            union all
           select t.typelem where t.typsubscript = 'pg_catalog.array_subscript_handler'::regproc
            union all
           select a.atttypid
             from pg_catalog.pg_attribute a
            where t.typtype = 'c' and a.attrelid = t.typrelid and a.attnum > 0 -- 0 if dropped
            union all
           select r.rngsubtype from pg_catalog.pg_range r where t.oid in (r.rngtypid, r.rngmultitypid)
           ) part(oid)
     where part.oid <> 0
)
select t.oid,
       t.typbasetype,
       case when e.oid is null then 0::oid else t.typelem end,
       coalesce(e.typdelim::text, ','),
       t.typtype = 'c',
       t.typname = 'hstore' and exists (
           select from pg_catalog.pg_depend d
             join pg_catalog.pg_extension x on x.oid = d.refobjid
            where d.classid = 'pg_catalog.pg_type'::regclass and d.objid = t.oid
              and d.refclassid = 'pg_catalog.pg_extension'::regclass and d.deptype = 'e'
              and x.extname = 'hstore'),
       coalesce(f.names, '{}'),
       coalesce(f.types, '{}'),
       coalesce(l.oids, '{}'),
       coalesce(l.names, '{}')
  from need
  join pg_catalog.pg_type t on t.oid = need.oid
  left join pg_catalog.pg_type e
    on e.oid = t.typelem and t.typsubscript = 'pg_catalog.array_subscript_handler'::regproc
 cross join lateral (
       select array_agg(a.attname::text order by a.attnum) as names,
              array_agg(a.atttypid order by a.attnum) as types
         from pg_catalog.pg_attribute a
        where t.typtype = 'c' and a.attrelid = t.typrelid and a.attnum > 0 and not a.attisdropped) f
 cross join lateral (
       select array_agg(l.oid order by l.oid) as oids, array_agg(l.enumlabel::text order by l.oid) as names
         from pg_catalog.pg_enum l
        where l.enumtypid = t.oid) l`
