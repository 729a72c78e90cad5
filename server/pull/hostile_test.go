package pull_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/nudgesync/nudge/internal/devpg/pgtest"
)

// everything is a table of many types; its rows go by notes' name so that devices know its key.
const everything = `
create type mood as enum ('calm', 'very "glad"');
create domain dose as numeric(8,3);
create type place as (street text, door int);
create table notes (
  id bigint primary key, user_id bigint not null,
  b boolean, i2 smallint, i8 bigint, f4 real, f8 double precision, n numeric, d dose,
  t text, v varchar(40), c char(5), u uuid, ba bytea, j json, jb jsonb,
  ts timestamp, tz timestamptz, da date, ti time, iv interval, m mood, p place,
  ia int[], ta text[][], ra int4range, ip inet, bits varbit, oidv oid,
  double_id bigint generated always as (id * 2) stored);
alter table notes replica identity full;`

const everyRow = `
insert into notes values
 (1, 1, true, -3, 9007199254740993, 0.1, 0.30000000000000004, 1.50, 2.500,
  e'quotes " \\ and\nlines', 'x', 'ab', '6ba7b810-9dad-11d1-80b4-00c04fd430c8', '\x00ff10', '{"a": [1, 2.50]}', '{"b": null}',
  '2026-03-01 04:05:06.789', '2026-03-01 04:05:06+05:45', '0044-03-15 BC', '23:59:59.5', '-1 year 2 days 3 hours', 'very "glad"', row('a "b", c', 4),
  '[2:3]={1,null}', '{{a,"b c"},{null,"\""}}', '[1,5)', '10.0.0.0/8', b'10110', 42),
 (2, 1, false, null, -1, 'NaN', '-Infinity', 'NaN', null,
  '', null, null, null, '', '"text"', '1e2', 'infinity', '-infinity', 'infinity', '24:00:00', '0', null, row(null, null), '{}', '{}', 'empty', '::1', '', 0),
 (3, 1, null, null, null, null, 1e300, 1e20, 0, repeat('long ', 900), null, null, null, null, null, null, null, null, null, null, null, null, null, null, null, null, null, null, null)`

// P16, P18, P19: whatever the database's settings and encoding are, the stream and a snapshot say the same, byte
// for byte, and both mean what to_jsonb means.
func TestP18StreamEqualsSnapshot(t *testing.T) {
	for name, db := range map[string]string{
		"utf8":   "encoding 'UTF8'",
		"latin1": "encoding 'LATIN1' lc_collate 'C' lc_ctype 'C'",
	} {
		t.Run(name, func(t *testing.T) {
			dsn := hostileDatabase(t, db)
			r := newRigOn(t, dsn, withoutRefused(t, everything), "public.notes")
			streamed, late := r.device("1"), r.device("1")
			streamed.sync()
			r.exec(everyRow)
			r.exec(`insert into notes (id, user_id, t) values (4, 1, $1)`, "Käse für £5")
			r.exec(`update notes set i2 = 7 where id = 3`) // the long text is not sent again: from the old row
			r.settle()
			streamed.sync()
			late.sync()
			if diff := cmp.Diff(late.rows, streamed.rows); diff != "" {
				t.Errorf("-snapshot +stream:\n%s", diff)
			}
			if len(late.rows) != 4 {
				t.Errorf("%d rows", len(late.rows))
			}
			for id, row := range late.rows {
				var k struct{ ID int64 }
				key := strings.TrimPrefix(id, "user:1 public.notes ")
				if err := json.Unmarshal([]byte(key), &k); err != nil {
					t.Fatal(err)
				}
				var want string
				// The reference runs under the settings that to_jsonb is compared under.
				if err := r.db.QueryRow(t.Context(), `select (to_jsonb(x) - 'double_id')::text from notes x where id = $1`, k.ID).Scan(&want); err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(decoded(want), decoded(row)); diff != "" {
					t.Errorf("row %d (-to_jsonb +nudge):\n%s", k.ID, diff)
				}
			}
		})
	}
}

// withoutRefused leaves out the generated column from Postgres 18 on, which under REPLICA IDENTITY FULL
// refuses the app's own updates of a table with one that is not published.
func withoutRefused(t *testing.T, schema string) string {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), pgtest.Cluster(t).DSN("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(t.Context())) }()
	var refused bool
	if err := conn.QueryRow(t.Context(), `select current_setting('server_version_num')::int >= 180000`).Scan(&refused); err != nil {
		t.Fatal(err)
	}
	if !refused {
		return schema
	}
	return strings.Replace(schema, ",\n  double_id bigint generated always as (id * 2) stored", "", 1)
}

// hostileDatabase is one whose settings change how every value prints, unless a session says otherwise.
func hostileDatabase(t *testing.T, create string) string {
	t.Helper()
	dsn := pgtest.Database(t) // for a connection, and for its name
	conn, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	name := conn.Config().Database + "_hostile"
	for _, sql := range []string{
		fmt.Sprintf("create database %s template template0 %s", name, create),
		fmt.Sprintf("alter database %s set datestyle = 'German'", name),
		fmt.Sprintf("alter database %s set intervalstyle = 'sql_standard'", name),
		fmt.Sprintf("alter database %s set extra_float_digits = -10", name),
		fmt.Sprintf("alter database %s set bytea_output = 'escape'", name),
		fmt.Sprintf("alter database %s set timezone = 'Asia/Kathmandu'", name),
	} {
		if _, err := conn.Exec(t.Context(), sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	t.Cleanup(func() {
		ctx := context.WithoutCancel(t.Context())
		for _, sql := range []string{
			// The walsender of the feed that was stopped ends a little later than the feed: wait for it.
			"select pg_terminate_backend(active_pid, 10000) from pg_replication_slots where active and database = '" + name + "'",
			"select pg_drop_replication_slot(slot_name) from pg_replication_slots where database = '" + name + "'",
			"drop database " + name + " with (force)",
		} {
			if _, err := conn.Exec(ctx, sql); err != nil {
				t.Errorf("%s: %v", sql, err)
			}
		}
		_ = conn.Close(ctx)
	})
	u, err := url.Parse(dsn)
	if err != nil {
		t.Fatal(err)
	}
	u.Path = "/" + name
	return u.String()
}
