package attach

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
)

// PlanDetach returns what takes nudge out of the database, in order, and notes about what it leaves
// and why. Whatever attach did not make stays.
func PlanDetach(ctx context.Context, conn *pgx.Conn, spec Spec) (statements []Statement, left []string, err error) {
	st, err := inspect(ctx, conn, spec)
	if err != nil {
		return nil, nil, err
	}
	d := &detacher{st: st, spec: spec, conn: conn}
	for _, step := range []func(context.Context) error{d.slot, d.publication, d.identities, d.schema, d.roles} {
		if err := step(ctx); err != nil {
			return nil, nil, fmt.Errorf("plan detach: %w", err)
		}
	}
	return d.out, d.left, nil
}

type detacher struct {
	st   *state
	spec Spec
	conn *pgx.Conn
	out  []Statement
	left []string
}

func (d *detacher) add(why, sql string) { d.out = append(d.out, Statement{SQL: sql, Why: why}) }

func (d *detacher) leave(format string, args ...any) {
	d.left = append(d.left, fmt.Sprintf(format, args...))
}

func (d *detacher) slot(context.Context) error {
	s := d.st.slot
	if s == nil {
		return nil
	}
	if !s.logical || s.plugin != "pgoutput" || s.database != d.st.database {
		d.leave("slot %s is not nudge's (plugin %q, database %q)", d.spec.Slot, s.plugin, s.database)
		return nil
	}
	name := literal(d.spec.Slot)
	d.add("a slot that nobody reads fills the disk. Stop every `nudge serve` first: a running one makes it again", `do $$
begin
    for i in 1..100 loop
        perform pg_terminate_backend(active_pid) from pg_replication_slots where slot_name = `+name+` and active;
        exit when not found;
        perform pg_sleep(0.1);
    end loop;
    perform pg_drop_replication_slot(`+name+`);
end $$`)
	return nil
}

func (d *detacher) publication(context.Context) error {
	p := d.st.publication
	if p == nil {
		return nil
	}
	name := ident(d.spec.Publication)
	if n, ok := p.notes(); !ok || !n.Made {
		d.leave("publication %s was not made by attach; if it is not needed: drop publication %s;", d.spec.Publication, name)
		return nil
	}
	d.add("nobody streams it any more", "drop publication "+name)
	return nil
}

// identities puts every table back before the indexes go: without an identity the app's updates fail.
func (d *detacher) identities(ctx context.Context) error {
	var before map[string]string
	if d.st.publication != nil {
		n, _ := d.st.publication.notes()
		before = n.Identity
	}
	restored := map[string]bool{}
	restore := func(node, sql, to string) {
		if restored[node] {
			return
		}
		restored[node] = true
		d.add("replica identity of "+node+" as it was", "alter table "+sql+" replica identity "+to)
	}
	for _, node := range slices.Sorted(maps.Keys(before)) {
		schema, name, _ := strings.Cut(node, ".")
		var exists bool
		if err := d.conn.QueryRow(ctx, `select exists (select from pg_class c join pg_namespace n on n.oid = c.relnamespace
			where n.nspname = $1 and c.relname = $2)`, schema, name).Scan(&exists); err != nil {
			return err
		}
		if exists {
			restore(node, ident(schema, name), clause(before[node]))
		}
	}
	// Not only spec's tables: the configuration may have changed since.
	rows, _ := d.conn.Query(ctx, `
		with recursive made(oid, root) as (
		     select c.oid, true from pg_class c
		      where c.relkind in ('i', 'I') and obj_description(c.oid, 'pg_class') = $1
		     union all
		     select h.inhrelid, false from made m join pg_inherits h on h.inhparent = m.oid)
		select t.relnamespace::regnamespace::text, n.nspname, t.relname, ic.relname, bool_or(i.indisreplident), ic.relkind = 'I', ic.relispartition
		  from made m join pg_index i on i.indexrelid = m.oid join pg_class ic on ic.oid = m.oid
		  join pg_class t on t.oid = i.indrelid join pg_namespace n on n.oid = t.relnamespace
		 group by 1, 2, 3, 4, 6, 7 order by 2, 3, 4`, mark)
	type made struct {
		Schema, Namespace, Table, Index string
		Identity, Partitioned, Part     bool
	}
	indexes, err := pgx.CollectRows(rows, pgx.RowToStructByPos[made])
	if err != nil {
		return err
	}
	for _, x := range indexes {
		if x.Identity {
			restore(x.Namespace+"."+x.Table, ident(x.Namespace, x.Table), "default")
		}
	}
	for _, x := range indexes {
		switch {
		case x.Part: // goes with the partitioned one
		case x.Partitioned:
			d.add("made by attach", "drop index "+ident(x.Namespace, x.Index))
		default:
			d.out = append(d.out, Statement{SQL: "drop index concurrently " + ident(x.Namespace, x.Index), Why: "made by attach", NoTransaction: true})
		}
	}
	return nil
}

// clause is what a note of an identity means in ALTER TABLE.
func clause(noted string) string {
	if name, ok := strings.CutPrefix(noted, "i:"); ok {
		return "using index " + ident(name)
	}
	switch noted {
	case "f":
		return "full"
	case "n":
		return "nothing"
	}
	return "default"
}

// schema drops what it finds by name, without CASCADE: nothing of the app's goes with it.
func (d *detacher) schema(ctx context.Context) error {
	if !d.st.schema {
		return nil
	}
	if len(d.st.applied) == 0 {
		d.leave("schema nudge holds no migrations of nudge's: it is left alone")
		return nil
	}
	var tables, functions []string
	err := d.conn.QueryRow(ctx, `
		select (select coalesce(array_agg('nudge.' || quote_ident(relname) order by relname), '{}') from pg_class
		         where relnamespace = n.oid and relkind in ('r', 'p') and not relispartition),
		       (select coalesce(array_agg(oid::regprocedure::text order by 1), '{}') from pg_proc where pronamespace = n.oid)
		  from pg_namespace n where nspname = 'nudge'`).Scan(&tables, &functions)
	if err != nil {
		return err
	}
	sql := "drop table " + strings.Join(tables, ", ")
	if len(functions) > 0 {
		sql = "drop function " + strings.Join(functions, ", ") + ";\n" + sql
	}
	d.add("nudge's own tables, and the change log with them", sql+";\ndrop schema nudge")
	return nil
}

// roles drops the roles that attach made, unless another database depends on them.
func (d *detacher) roles(ctx context.Context) error {
	for _, want := range d.spec.roles() {
		r := d.st.roles[want.Name]
		if r == nil {
			continue
		}
		if r.comment != mark {
			d.leave("role %s was there before attach: what it may do on the app's tables is left to you", want.Name)
			continue
		}
		revokes, err := d.revokes(ctx, want.Name)
		if err != nil {
			return err
		}
		if len(revokes) > 0 {
			d.add("what "+want.Name+" was allowed", strings.Join(revokes, ";\n"))
		}
		var others []string
		err = d.conn.QueryRow(ctx, `
			select coalesce(array_agg(distinct coalesce(b.datname, 'the whole cluster')), '{}')
			  from pg_shdepend s left join pg_database b on b.oid = s.dbid
			 where s.refclassid = 'pg_authid'::regclass and s.refobjid = (select oid from pg_roles where rolname = $1)
			   and s.dbid <> (select oid from pg_database where datname = current_database())
			   and not (s.dbid = 0 and s.classid = 'pg_database'::regclass
			            and s.objid = (select oid from pg_database where datname = current_database()))`, want.Name).Scan(&others)
		if err != nil {
			return err
		}
		if len(others) > 0 {
			d.leave("role %s is in use elsewhere (%s): it stays", want.Name, strings.Join(others, ", "))
			continue
		}
		d.add("made by attach", "drop role "+ident(want.Name))
	}
	return nil
}

// revokes takes back every grant in this database, as the catalog has them; those on schema nudge
// have gone with it.
func (d *detacher) revokes(ctx context.Context, role string) ([]string, error) {
	rows, _ := d.conn.Query(ctx, `
		with r as (select oid from pg_roles where rolname = $1)
		select distinct 'revoke all on table ' || quote_ident(n.nspname) || '.' || quote_ident(c.relname) || ' from ' || quote_ident($1)
		  from r, pg_class c join pg_namespace n on n.oid = c.relnamespace cross join aclexplode(c.relacl) a
		 where a.grantee = r.oid and n.nspname <> 'nudge'
		 union all
		select distinct 'revoke all on schema ' || quote_ident(n.nspname) || ' from ' || quote_ident($1)
		  from r, pg_namespace n cross join aclexplode(n.nspacl) a where a.grantee = r.oid and n.nspname <> 'nudge'
		 union all
		select distinct 'revoke all on database ' || quote_ident(b.datname) || ' from ' || quote_ident($1)
		  from r, pg_database b cross join aclexplode(b.datacl) a where a.grantee = r.oid and b.datname = current_database()
		 order by 1`, role)
	return pgx.CollectRows(rows, pgx.RowTo[string])
}
