package route

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// Blind names the tables, in order, whose replica identity, or that of a partition of theirs, lacks the owner or
// the key (P11): their updates and deletes do not say whose row is gone. What is between a table and the partitions
// that hold its rows has no say in that (P12).
func Blind(ctx context.Context, q Querier, c *Config) ([]string, error) {
	var tables, columns []string
	names := c.Names()
	for _, name := range names {
		rule := c.Tables[name]
		for _, column := range append([]string{rule.Owner}, rule.Key...) {
			tables, columns = append(tables, name), append(columns, column)
		}
	}
	rows, err := q.Query(ctx, blindSQL, names, relationNames(names), tables, columns)
	if err != nil {
		return nil, fmt.Errorf("look at replica identities: %w", err)
	}
	out, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("look at replica identities: %w", err)
	}
	return out, nil
}

const blindSQL = `
with recursive part(name, oid, root) as (
    select n.nspname || '.' || c.relname, c.oid, true
      from pg_class c
      join pg_namespace n on n.oid = c.relnamespace
     where n.nspname || '.' || c.relname = any($1) and c.relname::text = any($2)
    union all
    select part.name, i.inhrelid, false
      from part join pg_class c on c.oid = part.oid join pg_inherits i on i.inhparent = part.oid
     where c.relkind = 'p'
)
select distinct part.name
  from part
  join pg_class c on c.oid = part.oid
  join unnest($3::text[], $4::text[]) w(name, wanted) on w.name = part.name
 where (part.root or c.relkind <> 'p') and c.relreplident <> 'f' and not exists (
       select from pg_index i
        cross join lateral unnest(i.indkey::int2[]) with ordinality k(attnum, ord)
         join pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.attnum
        where i.indrelid = c.oid and k.ord <= i.indnkeyatts and a.attname = w.wanted
          and (c.relreplident = 'd' and i.indisprimary and i.indimmediate or c.relreplident = 'i' and i.indisreplident))
 order by 1`
