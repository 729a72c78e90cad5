package changefeed

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/nudgesync/nudge/changefeed/changelog"
	"github.com/nudgesync/nudge/changefeed/route"
)

// publication is what the feed streams, by catalog identity. What was dropped and made again, or altered,
// since it was stored has another one, though it may look the same.
type publication struct {
	ID      string               `json:"id"`      // OID and what it publishes; "" if there is none
	Version string               `json:"version"` // of its row: what was altered and altered back shows here
	Owner   uint32               `json:"owner"`   // OID
	Tables  map[string]published `json:"tables"`  // the configured ones that exist

	on      instance // where it was read
	partial bool     // some kind of change is not published
	viaRoot bool
}

// published is one table's membership.
type published struct {
	Table uint32 `json:"table"` // OID
	// By are the OIDs of what puts it in without naming it: a schema, a table that it is a partition of. An entry
	// of its own is part of its shape: another one is a reset of this table.
	By  string `json:"by,omitempty"`
	Own bool   `json:"own,omitempty"` // it has an entry of its own, or all tables are in

	in          bool // by whatever
	asRoot      bool // under the name of a table that it is a partition of
	partitioned bool
	filtered    bool     // only rows that pass a condition
	columns     []string // if there is a list of them
}

// readOn fails if it was read on another server; that there is none says nothing of where.
func (p *publication) readOn(i instance) error {
	if p.ID == "" {
		return nil
	}
	return i.same(p.on)
}

// encode is the form in which it is stored.
func (p *publication) encode() []byte {
	b, err := json.Marshal(p)
	if err != nil {
		panic(fmt.Sprintf("changefeed: encode publication: %v", err)) // strings and numbers only: can't happen
	}
	return b
}

// differs says why changes may be missing from the stream, if p was in force and now is; "" if none are.
// A table that is another one now has been dropped and made again: that concerns the table alone (P14).
func (p *publication) differs(now publication) string {
	// Another owner makes another version of the row, and nothing else. Flags that were set and set back at the
	// same time as that would go unseen.
	if p.ID != now.ID || p.Version != now.Version && p.Owner == now.Owner {
		return "the publication was replaced or altered"
	}
	for name, was := range p.Tables {
		if is, ok := now.Tables[name]; ok && is.Table == was.Table && !was.Own && was.lost(is) {
			return "a table was out of the publication"
		}
	}
	return ""
}

// lost reports whether something that put the table in does so no more. What came beside it took nothing away.
func (t *published) lost(now published) bool {
	by := strings.Fields(now.By)
	return slices.ContainsFunc(strings.Fields(t.By), func(oid string) bool { return !slices.Contains(by, oid) })
}

// usable refuses a publication that would silently leave out what the configuration asks for.
func (p *publication) usable(name string, routing *route.Config) error {
	refuse := func(format string, args ...any) error {
		return fmt.Errorf("check_publication: publication %q %s; run nudge attach", name, fmt.Sprintf(format, args...))
	}
	if p.ID == "" {
		return refuse("does not exist")
	}
	if p.partial {
		return refuse("does not publish inserts, updates, deletes and truncates, all of them")
	}
	var missing []string
	for _, table := range routing.Names() {
		t, ok := p.Tables[table]
		switch {
		case !ok: // it has no rows that could be missed
			continue
		case !t.in:
			missing = append(missing, table)
			continue
		case t.filtered:
			return refuse("filters the rows of %s: a change of owner would become something else (P17)", table)
		case t.asRoot:
			return refuse("publishes %s, a partition, under the name of its root (P12): configure the root, or set publish_via_partition_root = false", table)
		case t.partitioned && !p.viaRoot:
			return refuse("publishes the partitions of %s under their own names", table)
		}
		if lacks := t.lacks(routing.Tables[table]); len(lacks) > 0 {
			return refuse("has a list of columns of %s without %s, which say whose row it is and which one", table, strings.Join(lacks, ", "))
		}
	}
	if len(missing) > 0 {
		return refuse("lacks %s", strings.Join(missing, ", "))
	}
	return nil
}

// lacks are the columns that routing needs and the table's list of columns leaves out (P17).
func (t *published) lacks(rule route.Rule) []string {
	if t.columns == nil {
		return nil
	}
	listed := make(map[string]bool, len(t.columns))
	for _, c := range t.columns {
		listed[c] = true
	}
	var out []string
	for _, c := range append([]string{rule.Owner}, rule.Key...) {
		if c != "" && !listed[c] {
			out = append(out, c)
		}
	}
	return out
}

// A row's xmin tells one version of it from the next.
const publicationSQL = `
select concat_ws(' ', oid, puballtables, pubinsert, pubupdate, pubdelete, pubtruncate, pubviaroot), xmin::text, pubowner, not (pubinsert and pubupdate and pubdelete and pubtruncate), pubviaroot,
       current_setting('server_version_num')::int, ` + instanceSQL + `
  from pg_publication where pubname = $1`

// membersSQL asks for the configured tables, and by what each is published: by itself, by a table that it is a
// partition of, by its schema (15+), or because all are. Row filters and column lists are of Postgres 15.
const membersSQL = `
with pub as (select * from pg_publication where pubname = $1),
     t as (select x.name, c.oid, c.relkind = 'p' as partitioned,
                  case when c.relispartition then not exists (select from pg_publication_tables p
                    where p.pubname = $1 and p.schemaname = n.nspname and p.tablename = c.relname) else false end as as_root,
                  array(select c.oid union select relid::oid from pg_partition_ancestors(c.oid)) as family
             from unnest($2::text[]) x(name)
             join pg_namespace n on starts_with(x.name, n.nspname || '.')
             join pg_class c on c.relnamespace = n.oid and c.relname = substr(x.name, length(n.nspname) + 2)),
     m as (select t.*, pub.puballtables or exists (select from pg_publication_rel r where r.prpubid = pub.oid and r.prrelid = t.oid) as named,
                  concat_ws(' ',
                  (select string_agg(r.oid::text, ' ' order by r.oid) from pg_publication_rel r
                    where r.prpubid = pub.oid and r.prrelid = any(t.family) and r.prrelid <> t.oid)%s) as by,
                  exists (select from pg_publication_rel r
                           where r.prpubid = pub.oid and r.prrelid = any(t.family) and to_jsonb(r) ->> 'prqual' is not null) as filtered,
                  (select string_to_array(translate(to_jsonb(r) ->> 'prattrs', '[],', ''), ' ') from pg_publication_rel r
                    where r.prpubid = pub.oid and r.prrelid = t.oid) as attnums
             from t, pub)
select name, oid, by, named, named or by <> '', as_root, partitioned, filtered,
       case when attnums is not null then
            (select array_agg(a.attname::text) from pg_attribute a where a.attrelid = m.oid and a.attnum = any(attnums::int2[])) end
  from m`

const schemasSQL = `,
                  (select string_agg(s.oid::text, ' ' order by s.oid) from pg_publication_namespace s
                    where s.pnpubid = pub.oid and s.pnnspid in (select relnamespace from pg_class where oid = any(t.family)))`

func (f *Feed) readPublication(ctx context.Context) (publication, error) {
	p := publication{Tables: map[string]published{}}
	var version int
	err := f.cfg.Source.QueryRow(ctx, publicationSQL, f.cfg.Publication).Scan(&p.ID, &p.Version, &p.Owner, &p.partial, &p.viaRoot, &version, &p.on)
	if errors.Is(err, pgx.ErrNoRows) {
		return p, nil
	}
	if err != nil {
		return p, fmt.Errorf("read publication: %w", err)
	}
	schemas := ""
	if version >= 150000 {
		schemas = schemasSQL
	}
	rows, _ := f.cfg.Source.Query(ctx, fmt.Sprintf(membersSQL, schemas), f.cfg.Publication, f.cfg.Routing.Names())
	var name string
	var t published
	_, err = pgx.ForEachRow(rows, []any{&name, &t.Table, &t.By, &t.Own, &t.in, &t.asRoot, &t.partitioned, &t.filtered, &t.columns}, func() error {
		p.Tables[name] = t
		t.columns = nil // the next row must not share it
		return nil
	})
	if err != nil {
		return p, fmt.Errorf("read publication: %w", err)
	}
	return p, nil
}

// keepPublication stores what is streamed from here on, if that is not what is stored: a table came, or is
// another one now.
func (f *Feed) keepPublication(ctx context.Context, w *changelog.Writer, pub publication) error {
	f.published.Store(&pub)
	var stored publication
	if json.Unmarshal(w.State().Publication, &stored) == nil && string(stored.encode()) == string(pub.encode()) {
		return nil
	}
	return w.SetPublication(ctx, pub.encode())
}

// judge fails if the stream must end because it may lack changes from now on, or lacked some. connect decides
// what follows from it.
func (f *Feed) judge(now publication) error {
	if was := f.published.Load(); was != nil {
		if why := was.differs(now); why != "" {
			return fmt.Errorf("check_publication: %s", why)
		}
	}
	if err := now.usable(f.cfg.Publication, f.cfg.Routing); err != nil {
		return err
	}
	f.published.Store(&now)
	return nil
}
