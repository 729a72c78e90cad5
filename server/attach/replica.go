package attach

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// server is what tells a replica of the source from another server.
type server struct {
	system, database string
	standby          bool
	timeline         int32 // 0: a standby that receives nothing, or whose role may not see it
	receives         bool  // it receives WAL
	seesAll          bool  // its role may see from where
	feedback         bool  // hot_standby_feedback
}

func lookAt(ctx context.Context, conn *pgx.Conn) (s server, err error) {
	err = conn.QueryRow(ctx, `
		select (select system_identifier::text from pg_control_system()), current_database()::text, standby,
		       coalesce(case when standby then (select received_tli from pg_stat_wal_receiver)
		                else ('x' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8))::bit(32)::int end, 0),
		       exists (select from pg_stat_wal_receiver), pg_has_role('pg_read_all_stats', 'usage'),
		       current_setting('hot_standby_feedback')::bool
		  from (select pg_is_in_recovery() as standby offset 0) s`).
		Scan(&s.system, &s.database, &s.standby, &s.timeline, &s.receives, &s.seesAll, &s.feedback)
	return s, err
}

// checkRows looks whether source.snapshot_dsn reaches the source, or a replica of it that pages can be read
// from. The role's rights came along with the replica.
func checkRows(ctx context.Context, source *pgx.Conn, dsn string, spec Spec) []Finding {
	const key = "source.snapshot_dsn"
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return []Finding{connectFinding(key, spec.Snapshot.Name, err)}
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	out := []Finding{{OK: true, Code: CodeConnect, Subject: key, Message: "connected as " + spec.Snapshot.Name}}
	add := func(f Finding) []Finding {
		f.Code, f.Subject = CodeReplica, key
		return append(out, f)
	}
	primary, err := lookAt(ctx, source)
	if err != nil {
		return add(Finding{Message: "cannot ask source.dsn what it is: " + err.Error(), Fix: "run `nudge check` again; if it stays, the database's log says why"})
	}
	s, err := lookAt(ctx, conn)
	switch other := "name a read replica of the source in " + key + ", or leave it out"; {
	case err != nil:
		return add(Finding{Message: "cannot ask " + key + " what it is: " + err.Error(), Fix: "run `nudge check` again; if it stays, the database's log says why"})
	case s.system != primary.system:
		return add(Finding{Message: fmt.Sprintf("%s is another cluster (system %s), no replica of the source (%s)", key, s.system, primary.system), Fix: other})
	case s.database != primary.database:
		return add(Finding{Message: fmt.Sprintf("%s is database %s, and the source %s", key, s.database, primary.database), Fix: "name the same database in both"})
	case !s.standby && s.timeline != primary.timeline:
		return add(Finding{Message: fmt.Sprintf("%s was a replica and has been promoted: it is on timeline %d, and the source on %d", key, s.timeline, primary.timeline), Fix: other})
	case !s.standby:
		return add(Finding{OK: true, Message: key + " is the primary"})
	case !s.seesAll:
		return add(Finding{
			Message: "role " + spec.Snapshot.Name + " may not see whose WAL its replica receives, and nudge reads none that it can't tell",
			Fix:     "grant pg_read_all_stats to " + ident(spec.Snapshot.Name) + "; -- on the primary",
		})
	case !s.receives || s.timeline == 0:
		return add(Finding{Advice: true, Message: key + " is a replica that receives no WAL now: until it does, no device can start", Fix: "let it stream: its primary_conninfo, or its log, says why it does not"})
	case s.timeline != primary.timeline:
		return add(Finding{Message: fmt.Sprintf("%s is a replica on timeline %d, and the source is on %d", key, s.timeline, primary.timeline), Fix: other})
	}
	out = add(Finding{OK: true, Message: key + " is a replica of the source"})
	if !s.feedback {
		out = add(Finding{
			Advice: true, Message: "hot_standby_feedback is off on the replica: what VACUUM removes on the primary can cancel a page, which is then read again",
			Fix: settingFix("hot_standby_feedback", "on") + " -- on the replica, then select pg_reload_conf(); or the same in your provider's settings",
		})
	}
	return out
}
