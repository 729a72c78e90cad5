package route

import (
	"context"
	"fmt"
	"strings"

	"github.com/nudgesync/nudge/changefeed/pgoutput"
	"github.com/nudgesync/nudge/changefeed/value"
)

// Look reads the shapes of the named tables ("schema.name") from the catalog. It takes no locks on them: an
// ALTER that waits must not hold up whoever looks. A table that does not exist has the zero Shape. Empty is
// left to be filled.
func Look(ctx context.Context, q Querier, publication string, names []string) (map[string]*Sight, error) {
	out := make(map[string]*Sight, len(names))
	for _, n := range names {
		out[n] = &Sight{Table: n}
	}
	rows, err := q.Query(ctx, lookSQL, publication, names, relationNames(names))
	if err != nil {
		return nil, fmt.Errorf("look at the tables: %w", err)
	}
	defer rows.Close()
	userTypes := map[string][]uint32{}
	for rows.Next() {
		var s Sight
		rel := &pgoutput.Rel{}
		var columns []string
		var oids, parts, attached, files, writers []uint32
		var modifiers []int32
		err := rows.Scan(&s.Table, &rel.ID, &s.Shape.Member, &columns, &oids, &modifiers, &s.Shape.Places, &s.Shape.Unsent,
			&parts, &attached, &files, &writers, &s.Shape.Uneven, &s.Shape.Key)
		if err != nil {
			return nil, fmt.Errorf("look at the tables: %w", err)
		}
		for i, name := range columns {
			rel.Columns = append(rel.Columns, pgoutput.Column{Name: name, Type: oids[i], Modifier: modifiers[i]})
			if value.UserDefined(oids[i]) {
				userTypes[s.Table] = append(userTypes[s.Table], oids[i])
			}
		}
		s.Shape.OID, s.Shape.Columns = rel.ID, Signature(rel)
		if len(parts) > 0 {
			s.Shape.Parts, s.Writers = make(map[uint32]Part, len(parts)), make(map[uint32]uint32, len(parts))
		}
		for i, id := range parts {
			s.Shape.Parts[id], s.Writers[id] = Part{Attached: attached[i], File: files[i]}, writers[i]
		}
		out[s.Table] = &s
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("look at the tables: %w", err)
	}
	rows.Close()
	for name, oids := range userTypes {
		if out[name].Shape.Types, err = value.Load(ctx, q, oids); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// StreamedColumns are the columns of a table that its relation has in the stream of a publication (P16, P17),
// in their order. A table that is in none is taken to be there with its own columns.
func StreamedColumns(ctx context.Context, q Querier, publication, table string) ([]string, error) {
	rows, err := q.Query(ctx, `
select a.attname::text
  from pg_class c
  join pg_namespace n on n.oid = c.relnamespace
  left join pg_publication p on p.pubname = $1
  left join pg_publication_rel r on r.prpubid = p.oid and r.prrelid = c.oid
  join pg_attribute a on a.attrelid = c.oid and `+isStreamed+`
 where n.nspname || '.' || c.relname = $2 and c.relname::text = any($3)
 order by a.attnum`, publication, table, relationNames([]string{table}))
	if err != nil {
		return nil, fmt.Errorf("read the columns of %s: %w", table, err)
	}
	defer rows.Close()
	var out []string
	for rows.Next() {
		var name string
		if err := rows.Scan(&name); err != nil {
			return nil, fmt.Errorf("read the columns of %s: %w", table, err)
		}
		out = append(out, name)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read the columns of %s: %w", table, err)
	}
	return out, nil
}

// relationNames are what the tables' own names may be: schemas and tables can have dots in their names.
// They let the catalog's index be used.
func relationNames(names []string) []string {
	var out []string
	for _, n := range names {
		for rest, found := n, true; found; {
			if _, rest, found = strings.Cut(rest, "."); found {
				out = append(out, rest)
			}
		}
	}
	return out
}

// isStreamed says whether pgoutput sends a column: one of the column list if there is one (from 15 on), else
// every one but those generated, of which 18 sends the stored ones where it is told so. Older catalogs lack
// prattrs and pubgencols, hence the detour over JSON.
const isStreamed = `a.attnum > 0 and not a.attisdropped and case
       when jsonb_typeof(to_jsonb(r) -> 'prattrs') = 'array' then to_jsonb(r) -> 'prattrs' @> to_jsonb(a.attnum)
       when a.attgenerated = 's' then coalesce(to_jsonb(p) ->> 'pubgencols', 'n') = 's'
       else a.attgenerated = '' end`

// A partition's identity serves the table if both have all columns, or both name an index; which columns an
// index has shows in the stream. A transaction that changed columns is no mere TRUNCATE: it is no writer. A
// subtransaction's id is younger than that of its transaction.
const lookSQL = `
with recursive tables as (
    select n.nspname || '.' || c.relname as name, c.oid, c.relkind, c.relreplident
      from pg_class c
      join pg_namespace n on n.oid = c.relnamespace
     where n.nspname || '.' || c.relname = any($2) and c.relname::text = any($3)
), part(root, oid, attached) as (
    select t.oid, i.inhrelid, i.xmin
      from tables t join pg_inherits i on i.inhparent = t.oid
     where t.relkind = 'p'
    union all
    select part.root, i.inhrelid, i.xmin
      from part join pg_inherits i on i.inhparent = part.oid
)
select t.name, t.oid, coalesce(r.oid, case when p.puballtables then p.oid end, 0),
       a.names, a.types, a.modifiers, a.places, u.names, x.oids, x.attached, x.files, x.writers, x.uneven, k.names
  from tables t
  left join pg_publication p on p.pubname = $1
  left join pg_publication_rel r on r.prpubid = p.oid and r.prrelid = t.oid
 cross join lateral (
       select coalesce(array_agg(a.attname::text order by a.attnum), '{}') as names,
              coalesce(array_agg(a.atttypid order by a.attnum), '{}') as types,
              coalesce(array_agg(a.atttypmod order by a.attnum), '{}') as modifiers,
              coalesce(array_agg(a.attnum order by a.attnum), '{}') as places
         from pg_attribute a
        where a.attrelid = t.oid and ` + isStreamed + `) a
 cross join lateral (
       select array_agg(a.attname::text order by a.attnum) as names
         from pg_attribute a
        where a.attrelid = t.oid and a.attnum > 0 and not a.attisdropped and not (` + isStreamed + `)) u
 cross join lateral (
       select coalesce(array_agg(c.oid order by c.oid), '{}') as oids,
              coalesce(array_agg(p.attached::text::bigint order by c.oid), '{}') as attached,
              coalesce(array_agg(c.relfilenode order by c.oid), '{}') as files,
              coalesce(array_agg(case when exists (
                select from pg_attribute a where a.attrelid = c.oid and age(a.xmin) <= age(c.xmin)
              ) then 0 else c.xmin::text::bigint end order by c.oid), '{}') as writers,
              coalesce(bool_or(c.relkind = 'r' and c.relreplident <> t.relreplident), false) as uneven
         from (select oid, attached from part where root = t.oid
               union all select t.oid, '0'::xid where t.relkind = 'r') p
         join pg_class c on c.oid = p.oid) x
 cross join lateral (
       select coalesce(array_agg(a.attname::text order by k.ord), '{}') as names
         from pg_index i
        cross join lateral unnest(i.indkey::int2[]) with ordinality k(attnum, ord)
         join pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.attnum
        where i.indrelid = t.oid and i.indisprimary and k.ord <= i.indnkeyatts) k`
