package attach_test

import (
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
)

// schemaSQL describes everything that is not the system's own, a line an object, without OIDs: what a
// removed object leaves behind shows, what was made anew does not. It works on every version; pg_dump
// refuses a server newer than itself.
const schemaSQL = `
with objects as (
  select distinct o.classid, o.objid, d.type, d.identity, coalesce(obj_description(o.objid, o.classid::regclass::text), '') as comment
    from (select classid, objid from pg_depend union select refclassid, refobjid from pg_depend) o,
         pg_identify_object(o.classid, o.objid, 0) d
   where o.objid >= 16384 and d.schema is distinct from 'pg_toast'
     and d.identity !~ '^"RI_ConstraintTrigger') -- a part of its constraint, and named by an OID
select 'object ' || concat_ws(' ', type, identity, comment) from objects
union all
select concat_ws(' ', 'relation', c.oid::regclass, c.relkind, c.relowner::regrole, c.relreplident, c.relrowsecurity,
       c.relforcerowsecurity, c.relpersistence, c.reloptions,
       coalesce(c.relacl, acldefault(case c.relkind when 'S' then 's' else 'r' end::"char", c.relowner)),
       pg_get_expr(c.relpartbound, c.oid), pg_get_partkeydef(c.oid))
  from pg_class c join objects o on o.classid = 'pg_class'::regclass and o.objid = c.oid
union all
select concat_ws(' ', 'column', a.attrelid::regclass, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull,
       a.attgenerated, a.attidentity, a.attstorage, a.attacl, pg_get_expr(d.adbin, d.adrelid))
  from pg_attribute a
  join objects o on o.classid = 'pg_class'::regclass and o.objid = a.attrelid
  left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
 where a.attnum > 0 and not a.attisdropped
union all
select concat_ws(' ', 'index', pg_get_indexdef(i.indexrelid), i.indisreplident, i.indisvalid)
  from pg_index i join objects o on o.classid = 'pg_class'::regclass and o.objid = i.indexrelid
union all
select concat_ws(' ', 'constraint', c.conrelid::regclass, c.conname, pg_get_constraintdef(c.oid))
  from pg_constraint c join objects o on o.classid = 'pg_constraint'::regclass and o.objid = c.oid
union all
select concat_ws(' ', 'function', p.proowner::regrole, coalesce(p.proacl, acldefault('f', p.proowner)), pg_get_functiondef(p.oid))
  from pg_proc p join objects o on o.classid = 'pg_proc'::regclass and o.objid = p.oid and p.prokind <> 'a'
union all
select concat_ws(' ', 'schema', nspname, nspowner::regrole, coalesce(nspacl, acldefault('n', nspowner))) from pg_namespace where nspname !~ '^pg_'
union all
select concat_ws(' ', 'default privileges', defaclrole::regrole, nullif(defaclnamespace, 0)::regnamespace, defaclobjtype, defaclacl)
  from pg_default_acl
union all
select 'publication ' || (to_jsonb(p) - 'oid')::text from pg_publication p
union all
select concat_ws(' ', 'published', p.pubname, r.prrelid::regclass, to_jsonb(r) - 'oid' - 'prpubid' - 'prrelid')
  from pg_publication_rel r join pg_publication p on p.oid = r.prpubid
union all
select concat_ws(' ', 'setting', setrole::regrole, setconfig) from pg_db_role_setting
 where setdatabase = (select oid from pg_database where datname = current_database()) or setrole::regrole::text = any($1)
union all
select concat_ws(' ', 'database', datdba::regrole, coalesce(datacl, acldefault('d', datdba))) from pg_database where datname = current_database()
union all
select 'role ' || rolname from pg_roles where rolname = any($1)
union all
select 'slot ' || slot_name from pg_replication_slots where database = current_database()
order by 1`

// schema is the database's, and what of the cluster's is the spec's: its roles and its slot.
func (s *site) schema(t *testing.T) []string {
	t.Helper()
	rows, err := s.conn.Query(t.Context(), schemaSQL, []string{s.spec.Feed.Name, s.spec.Snapshot.Name})
	if err != nil {
		t.Fatal(err)
	}
	lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(strings.Join(lines, "\n"), "\n") // a function's lines one by one, for the diff
}
