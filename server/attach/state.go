package attach

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/nudgesync/nudge/changefeed/route"
	"github.com/nudgesync/nudge/migrations"
)

// state is what the database is like now, as far as spec is concerned.
type state struct {
	user, database string
	settings       map[string]string
	provider       provider
	tables         map[string]*table // of spec, by name; absent: no such relation
	known          []string          // every table of the database, for suggestions
	publication    *publication      // nil: none
	slot           *slot             // nil: none
	slots, senders int               // in use
	physical       []string          // slots that standbys stream through
	roles          map[string]*role  // of spec; absent: no such role
	schema         bool              // schema nudge exists
	applied        []int64           // versions of its migrations
	unreadable     bool              // they exist and cannot be read
	segments       []string          // partitions of nudge.changes
	rights         map[right]bool    // what the roles may do; absent: role or object do not exist
}

type table struct {
	*route.CatalogTable
	temporary, unlogged bool
	ownedBy             string
	forceRowSecurity    bool
	primaryKey          string // the constraint's name
	candidate           string // a unique index that could become the primary key
	nodes               []node // the table, and what is below a partitioned one, parents first
}

// node is a table of its own, or one of a partition tree: each has an identity of its own (P12).
type node struct {
	schema, name    string
	parent          string // "schema.name" as a key of its table's nodes; "" for the first
	partitioned     bool
	identity        byte
	identityIndex   string
	identityColumns []string
	indexes         []index
}

// index is one of a node's.
type index struct {
	name    string
	parent  string // the index of the partitioned table that it is a part of, "" for none
	valid   bool
	marked  bool // it, or what it is a part of, was made by attach
	usable  bool // Postgres takes it for a replica identity, once valid
	columns []string
}

func (n *node) key() string { return n.schema + "." + n.name }

func (n *node) sql() string { return ident(n.schema, n.name) }

type publication struct {
	allTables   bool
	complete    bool // insert, update, delete and truncate
	viaRoot     bool
	comment     string
	tables      map[string]member
	publishesUs bool // a table of schema nudge is in it
}

// member is a published table.
type member struct {
	named    bool     // by itself; else through its schema or its partitioned table
	filtered bool     // only rows that pass a condition
	columns  []string // if there is a list of them
}

type slot struct {
	plugin, database, walStatus, reason  string
	logical, active, temporary, failover bool
}

type role struct {
	superuser, replication, bypassRLS, login bool
	comment                                  string
}

func inspect(ctx context.Context, conn *pgx.Conn, spec Spec) (*state, error) {
	st := &state{settings: map[string]string{}, tables: map[string]*table{}, roles: map[string]*role{}, rights: map[right]bool{}}
	for _, step := range []struct {
		what string
		read func(context.Context, *pgx.Conn, Spec) error
	}{
		{"server", st.readServer},
		{"tables", st.readTables},
		{"partitions", st.readNodes},
		{"publication", st.readPublication},
		{"slot", st.readSlot},
		{"roles", st.readRoles},
		{"schema " + migrations.Schema, st.readSchema},
		{"rights", st.readRights},
	} {
		if err := step.read(ctx, conn, spec); err != nil {
			return nil, fmt.Errorf("inspect %s: %w", step.what, err)
		}
	}
	return st, nil
}

func (st *state) readServer(ctx context.Context, conn *pgx.Conn, _ Spec) error {
	rows, _ := conn.Query(ctx, `select name, setting from pg_settings where name = any($1) or name like 'rds.%' or name like 'cloudsql.%'`,
		[]string{"wal_level", "max_replication_slots", "max_wal_senders", "server_version_num", "synchronous_commit", "wal_writer_delay", "max_slot_wal_keep_size", "synchronized_standby_slots", "server_encoding"})
	var name, value string
	_, err := pgx.ForEachRow(rows, []any{&name, &value}, func() error {
		st.settings[name] = value
		return nil
	})
	if err != nil {
		return err
	}
	var marks []string
	err = conn.QueryRow(ctx, `
		select current_user, current_database(), (select count(*) from pg_replication_slots), (select count(*) from pg_stat_replication),
		       (select coalesce(array_agg(rolname::text), '{}') from pg_roles
		         where rolname in ('rds_superuser', 'cloudsqlsuperuser', 'azure_pg_admin', 'neon_superuser', 'supabase_admin')),
		       (select coalesce(array_agg(slot_name::text order by slot_name), '{}') from pg_replication_slots
		         where slot_type = 'physical' and not temporary)`).
		Scan(&st.user, &st.database, &st.slots, &st.senders, &marks, &st.physical)
	st.provider = detect(marks)
	return err
}

func (st *state) readTables(ctx context.Context, conn *pgx.Conn, spec Spec) error {
	names := make([]string, len(spec.Tables))
	for i, t := range spec.Tables {
		names[i] = t.Name
	}
	catalog, err := route.Catalog(ctx, conn, names)
	if err != nil {
		return err
	}
	for name, c := range catalog {
		t := &table{CatalogTable: c}
		err := conn.QueryRow(ctx, `
			select c.relpersistence = 't', c.relpersistence = 'u', pg_get_userbyid(c.relowner), c.relforcerowsecurity,
			       coalesce((select conname from pg_constraint where conrelid = c.oid and contype = 'p'), ''),
			       coalesce((select min(i.indexrelid::regclass::text) from pg_index i
			                  where i.indrelid = c.oid and i.indisunique and i.indimmediate and i.indisvalid
			                    and i.indpred is null and i.indexprs is null
			                    and not exists (select from pg_attribute a
			                                     where a.attrelid = c.oid and a.attnum = any(i.indkey) and not a.attnotnull)), '')
			  from pg_class c where c.oid = $1`, c.OID).
			Scan(&t.temporary, &t.unlogged, &t.ownedBy, &t.forceRowSecurity, &t.primaryKey, &t.candidate)
		if err != nil {
			return err
		}
		st.tables[name] = t
	}
	rows, _ := conn.Query(ctx, `
		select n.nspname || '.' || c.relname from pg_class c join pg_namespace n on n.oid = c.relnamespace
		 where c.relkind in ('r', 'p') and n.nspname not in ('pg_catalog', 'information_schema', 'nudge') order by 1`)
	st.known, err = pgx.CollectRows(rows, pgx.RowTo[string])
	return err
}

func (st *state) readNodes(ctx context.Context, conn *pgx.Conn, _ Spec) error {
	for _, t := range st.tables {
		if t.Kind != 'r' && t.Kind != 'p' {
			continue
		}
		rows, _ := conn.Query(ctx, nodesSQL, t.OID)
		var err error
		t.nodes, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (node, error) {
			var n node
			var identity string
			err := row.Scan(&n.schema, &n.name, &n.parent, &n.partitioned, &identity)
			n.identity = identity[0]
			return n, err
		})
		if err != nil {
			return err
		}
		for i := range t.nodes {
			if err := t.nodes[i].readIndexes(ctx, conn); err != nil {
				return err
			}
		}
	}
	return nil
}

const nodesSQL = `
with recursive tree(oid, parent, level) as (
     select $1::oid, null::oid, 0
     union all
     select i.inhrelid, i.inhparent, t.level + 1
       from tree t join pg_inherits i on i.inhparent = t.oid join pg_class p on p.oid = t.oid and p.relkind = 'p')
select n.nspname, c.relname, coalesce(pn.nspname || '.' || pc.relname, ''), c.relkind = 'p', c.relreplident::text
  from tree t
  join pg_class c on c.oid = t.oid
  join pg_namespace n on n.oid = c.relnamespace
  left join pg_class pc on pc.oid = t.parent
  left join pg_namespace pn on pn.oid = pc.relnamespace
 order by t.level, n.nspname, c.relname`

func (n *node) readIndexes(ctx context.Context, conn *pgx.Conn) error {
	rows, _ := conn.Query(ctx, indexesSQL, n.schema, n.name, mark)
	var x index
	var identity bool
	_, err := pgx.ForEachRow(rows, []any{&x.name, &x.parent, &x.valid, &x.marked, &x.usable, &x.columns, &identity}, func() error {
		n.indexes = append(n.indexes, x)
		if identity {
			n.identityIndex, n.identityColumns = x.name, x.columns
		}
		x.columns = nil // the next row must not share it
		return nil
	})
	return err
}

const indexesSQL = `
select ic.relname, coalesce((select p.relname::text from pg_inherits h join pg_class p on p.oid = h.inhparent where h.inhrelid = ic.oid), ''),
       i.indisvalid,
       exists (with recursive up(oid) as (
                    select ic.oid
                    union all
                    select h.inhparent from up join pg_inherits h on h.inhrelid = up.oid)
               select from up where obj_description(up.oid, 'pg_class') = $3),
       i.indisunique and i.indimmediate and i.indpred is null and i.indexprs is null and not i.indisexclusion
         and not exists (select from pg_attribute a
                          where a.attrelid = i.indrelid and a.attnum = any(i.indkey) and not a.attnotnull),
       coalesce((select array_agg(a.attname::text order by k.ord)
                   from unnest(i.indkey::int2[]) with ordinality k(attnum, ord)
                   join pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.attnum
                  where k.ord <= i.indnkeyatts), '{}'),
       i.indisreplident
  from pg_index i
  join pg_class ic on ic.oid = i.indexrelid
  join pg_class t on t.oid = i.indrelid
  join pg_namespace n on n.oid = t.relnamespace
 where n.nspname = $1 and t.relname = $2
 order by cardinality(i.indkey::int2[]), ic.relname`

func (st *state) readPublication(ctx context.Context, conn *pgx.Conn, spec Spec) error {
	p := &publication{tables: map[string]member{}}
	err := conn.QueryRow(ctx, `
		select puballtables, pubinsert and pubupdate and pubdelete and pubtruncate, pubviaroot,
		       coalesce(obj_description(oid, 'pg_publication'), ''),
		       exists (select from pg_publication_tables t where t.pubname = p.pubname and t.schemaname = 'nudge')
		  from pg_publication p where pubname = $1`, spec.Publication).
		Scan(&p.allTables, &p.complete, &p.viaRoot, &p.comment, &p.publishesUs)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil
	}
	if err != nil {
		return err
	}
	// prqual and prattrs are of Postgres 15.
	rows, _ := conn.Query(ctx, `
		select n.nspname || '.' || c.relname, true, to_jsonb(r) ->> 'prqual' is not null,
		       case when to_jsonb(r) ->> 'prattrs' is not null then
		            (select array_agg(a.attname::text order by a.attnum) from pg_attribute a
		              where a.attrelid = c.oid and a.attnum = any(string_to_array(translate(to_jsonb(r) ->> 'prattrs', '[],', ''), ' ')::int2[])) end
		  from pg_publication p join pg_publication_rel r on r.prpubid = p.oid
		  join pg_class c on c.oid = r.prrelid join pg_namespace n on n.oid = c.relnamespace
		 where p.pubname = $1
		 union all
		select t.schemaname || '.' || t.tablename, false, false, null from pg_publication_tables t
		 where t.pubname = $1
		   and not exists (select from pg_publication p join pg_publication_rel r on r.prpubid = p.oid
		                     join pg_class c on c.oid = r.prrelid join pg_namespace n on n.oid = c.relnamespace
		                    where p.pubname = $1 and n.nspname = t.schemaname and c.relname = t.tablename)`, spec.Publication)
	var name string
	var m member
	_, err = pgx.ForEachRow(rows, []any{&name, &m.named, &m.filtered, &m.columns}, func() error {
		p.tables[name] = m
		m.columns = nil // the next row must not share it
		return nil
	})
	st.publication = p
	return err
}

func (st *state) readSlot(ctx context.Context, conn *pgx.Conn, spec Spec) error {
	var s slot
	// invalidation_reason and failover are of Postgres 17.
	err := conn.QueryRow(ctx, `
		select coalesce(plugin, ''), coalesce(database, ''), coalesce(wal_status, ''), coalesce(to_jsonb(s) ->> 'invalidation_reason', ''),
		       slot_type = 'logical', active, temporary, coalesce((to_jsonb(s) ->> 'failover')::bool, false)
		  from pg_replication_slots s where slot_name = $1`, spec.Slot).
		Scan(&s.plugin, &s.database, &s.walStatus, &s.reason, &s.logical, &s.active, &s.temporary, &s.failover)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil
	}
	if err != nil {
		return err
	}
	st.slot = &s
	return nil
}

func (st *state) readRoles(ctx context.Context, conn *pgx.Conn, spec Spec) error {
	for _, want := range spec.roles() {
		var r role
		err := conn.QueryRow(ctx, `
			select rolsuper, rolcanlogin, rolbypassrls,
			       rolreplication or exists (select from pg_roles m where m.rolname = 'rds_replication' and pg_has_role(r.oid, m.oid, 'usage')),
			       coalesce(shobj_description(oid, 'pg_authid'), '')
			  from pg_roles r where rolname = $1`, want.Name).
			Scan(&r.superuser, &r.login, &r.bypassRLS, &r.replication, &r.comment)
		if errors.Is(err, pgx.ErrNoRows) {
			continue
		}
		if err != nil {
			return err
		}
		st.roles[want.Name] = &r
	}
	return nil
}

func (st *state) readSchema(ctx context.Context, conn *pgx.Conn, _ Spec) error {
	var migrated, readable bool
	err := conn.QueryRow(ctx, `
		select exists (select from pg_namespace where nspname = 'nudge'),
		       exists (select from pg_tables where schemaname = 'nudge' and tablename = 'migrations'),
		       coalesce((select has_table_privilege(c.oid, 'select') from pg_class c join pg_namespace n on n.oid = c.relnamespace
		                  where n.nspname = 'nudge' and c.relname = 'migrations'), false)`).Scan(&st.schema, &migrated, &readable)
	if err != nil || !migrated {
		return err
	}
	if !readable {
		st.unreadable = true
		return nil
	}
	rows, _ := conn.Query(ctx, "select distinct version_id from "+migrations.Table+" where is_applied and version_id > 0")
	if st.applied, err = pgx.CollectRows(rows, pgx.RowTo[int64]); err != nil {
		return err
	}
	rows, _ = conn.Query(ctx, `
		select 'nudge.' || c.relname from pg_inherits i join pg_class c on c.oid = i.inhrelid
		  join pg_class p on p.oid = i.inhparent join pg_namespace n on n.oid = p.relnamespace
		 where n.nspname = 'nudge' and p.relname = 'changes' order by c.relname`)
	st.segments, err = pgx.CollectRows(rows, pgx.RowTo[string])
	return err
}

// readRights asks for what plan may grant. A right is absent when its object is; a role that does not
// exist will have what everybody has.
func (st *state) readRights(ctx context.Context, conn *pgx.Conn, spec Spec) error {
	for _, r := range st.wanted(spec) {
		role := r.role
		if st.roles[role] == nil {
			role = "public"
		}
		var has *bool
		err := conn.QueryRow(ctx, `
			select case $2
			       when 'database' then has_database_privilege($1::name, current_database(), $4)
			       when 'schema' then (select has_schema_privilege($1::name, oid, $4) from pg_namespace where nspname = $3)
			       when 'function' then (select has_function_privilege($1::name, f.oid, $4)
			              from pg_proc f join pg_namespace n on n.oid = f.pronamespace where n.nspname || '.' || f.proname = $3)
			       else (select has_table_privilege($1::name, c.oid, $4)
			              from pg_class c join pg_namespace n on n.oid = c.relnamespace where n.nspname || '.' || c.relname = $3) end`,
			role, r.kind, r.object, r.privilege).Scan(&has)
		if err != nil {
			return err
		}
		if has != nil {
			st.rights[r] = *has
		}
	}
	return nil
}
