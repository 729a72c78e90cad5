package attach

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/nudgesync/nudge/migrations"
)

// DSNs are the connections that nudge will use, as configured.
type DSNs struct {
	Source   string // the feed's
	Snapshot string // for reading rows; may be Source
	Log      string // where schema nudge is, if that is another database; else ""
}

// Check connects as nudge will and says line by line what is right and what is not, in the order in
// which to repair it. It changes nothing.
func Check(ctx context.Context, dsns DSNs, spec Spec) []Finding {
	conn, err := pgx.Connect(ctx, dsns.Source)
	if err != nil {
		return []Finding{connectFinding("source.dsn", spec.Feed.Name, err)}
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	out := []Finding{{OK: true, Code: CodeConnect, Subject: "source.dsn", Message: "connected as " + spec.Feed.Name}}
	if dsns.Snapshot != dsns.Source {
		out = append(out, checkRows(ctx, conn, dsns.Snapshot, spec)...)
	}
	st, err := inspect(ctx, conn, spec)
	if err != nil {
		return append(out, Finding{Code: CodeConnect, Subject: "source.dsn", Message: err.Error(), Fix: "run `nudge check` again; if it stays, the database's log says why"})
	}
	out = append(out, st.checkServer(spec)...)
	out = append(out, st.checkTables(spec)...)
	out = append(out, st.checkPlan(spec)...)
	out = append(out, st.checkReplication(ctx, dsns.Source, spec))
	out = append(out, st.checkSlot(spec)...)
	if spec.LogElsewhere {
		out = append(out, checkLog(ctx, dsns.Log), st.checkEncoding(ctx, dsns.Log))
	}
	return append(out, st.advice(spec)...)
}

func connectFinding(key, role string, err error) Finding {
	f := Finding{Code: CodeConnect, Subject: key, Message: "cannot connect with " + key + ": " + err.Error(), Fix: "correct " + key + ", or start the server"}
	var pg *pgconn.PgError
	if !errors.As(err, &pg) {
		return f
	}
	f.Message = "cannot connect with " + key + ": " + pg.Message
	switch pg.Code {
	case "28P01":
		f.Fix = "run `nudge attach` to make the role, or, if it is there, set the password of " + key + ": \\password " + ident(role)
	case "28000":
		f.Fix = "run `nudge attach` to make the role, or let it in by pg_hba.conf"
	case "3D000":
		f.Fix = "correct the database's name in " + key
	case "53300":
		f.Fix = "free connections, or raise max_connections"
	}
	return f
}

// checkServer looks at the settings that only a restart changes.
func (st *state) checkServer(spec Spec) []Finding {
	var out []Finding
	level := Finding{OK: st.settings["wal_level"] == "logical", Code: CodeWALLevel, Subject: "wal_level", Message: "wal_level is " + st.settings["wal_level"]}
	if !level.OK {
		level.Message += ": the write-ahead log must be logical to be read"
		level.Fix = st.provider.walLevelFix()
	}
	out = append(out, level)
	ours, streaming := 0, 0
	if st.slot != nil {
		ours = 1
		if st.slot.active {
			streaming = 1
		}
	}
	for _, limit := range []struct {
		code, setting string
		used          int
	}{
		{CodeMaxSlots, "max_replication_slots", st.slots - ours},
		{CodeMaxSenders, "max_wal_senders", st.senders - streaming},
	} {
		most, _ := strconv.Atoi(st.settings[limit.setting]) // an integer setting
		f := Finding{OK: limit.used < most, Code: limit.code, Subject: limit.setting, Message: fmt.Sprintf("%s is %d, others use %d", limit.setting, most, limit.used)}
		if !f.OK {
			f.Message += fmt.Sprintf(": none is left for slot %s", spec.Slot)
			f.Fix = st.provider.fix(limit.setting, strconv.Itoa(limit.used+5), "then restart Postgres")
		}
		out = append(out, f)
	}
	return out
}

// checkPlan turns what a plan would still do into what is wrong.
func (st *state) checkPlan(spec Spec) []Finding {
	todo := st.plan(spec, "")
	var out []Finding
	add := func(code, subject, right, wrong string) {
		var fix []Statement
		for _, s := range todo {
			if s.Code == code && s.Subject == subject {
				fix = append(fix, s)
			}
		}
		f := Finding{OK: len(fix) == 0, Code: code, Subject: subject, Message: right}
		if !f.OK {
			f.Message, f.Fix = wrong, script(fix)
		}
		out = append(out, f)
	}
	for _, ts := range spec.Tables {
		if t := st.tables[ts.Name]; t != nil && len(t.PrimaryKey) > 0 {
			add(CodeReplicaIdentity, ts.Name, ts.Name+"'s replica identity tells owner and key",
				ts.Name+"'s replica identity does not tell owner and key of an old row: whose row was deleted or moved cannot be known"+st.wrongLeaves(ts))
		}
	}
	if foreign := st.checkForeignPublication(spec); len(foreign) > 0 {
		out = append(out, foreign...)
	} else {
		wrong := "publication " + spec.Publication + " does not stream exactly what is configured"
		if st.publication == nil {
			wrong = "there is no publication " + spec.Publication
		}
		add(CodePublication, spec.Publication, "publication "+spec.Publication+" streams the configured tables", wrong)
	}
	if !spec.LogElsewhere && !st.unreadable {
		add(CodeMigrations, migrations.Schema, "nudge's tables are up to date", "nudge's tables are missing or out of date (`nudge migrate` applies this too)")
	}
	for _, r := range spec.roles() {
		add(CodeRole, r.Name, "role "+r.Name+" exists", "role "+r.Name+" is missing, or may not log in")
		add(CodeGrants, r.Name, "role "+r.Name+" has the rights it needs", "role "+r.Name+" lacks rights")
	}
	return out
}

// wrongLeaves names partitions whose identity is not the table's.
func (st *state) wrongLeaves(ts TableSpec) string {
	t := st.tables[ts.Name]
	columns := identityColumns(ts.Owner, t)
	for _, n := range t.nodes[min(1, len(t.nodes)):] {
		if !n.carries(columns, t.PrimaryKey) {
			return " (its partition " + n.key() + ")"
		}
	}
	return ""
}

// checkReplication asks for a replication connection: a right, a pooler or pg_hba.conf may stand in the way.
func (st *state) checkReplication(ctx context.Context, dsn string, spec Spec) Finding {
	f := Finding{Code: CodeReplicationRole, Subject: spec.Feed.Name}
	r := st.roles[spec.Feed.Name]
	if r != nil && !r.superuser && !r.replication {
		f.Message = "role " + spec.Feed.Name + " may not replicate"
		f.Fix = "alter role " + ident(spec.Feed.Name) + " replication;"
		if st.provider == onRDS {
			f.Fix = "grant rds_replication to " + ident(spec.Feed.Name) + ";"
		}
		return f
	}
	cfg, err := pgconn.ParseConfig(dsn)
	if err == nil {
		cfg.RuntimeParams["replication"] = "database"
		var conn *pgconn.PgConn
		if conn, err = pgconn.ConnectConfig(ctx, cfg); err == nil {
			_, err = conn.Exec(ctx, "IDENTIFY_SYSTEM").ReadAll()
			_ = conn.Close(ctx)
		}
	}
	if err != nil {
		f.Message = "no replication connection: " + err.Error()
		f.Fix = st.provider.directly() + ", and let the role in by pg_hba.conf"
		return f
	}
	f.OK, f.Message = true, "role "+spec.Feed.Name+" may replicate"
	return f
}

func (st *state) checkSlot(spec Spec) []Finding {
	f := Finding{OK: true, Code: CodeSlot, Subject: spec.Slot}
	s := st.slot
	if s == nil {
		f.Message = "slot " + spec.Slot + " does not exist yet: `nudge serve` makes it at its first start"
		return []Finding{f}
	}
	drop := "select pg_drop_replication_slot(" + literal(spec.Slot) + ");"
	switch {
	case !s.logical || s.plugin != "pgoutput" || s.database != st.database:
		f.Message = fmt.Sprintf("slot %s is somebody else's (plugin %q, database %q)", spec.Slot, s.plugin, s.database)
		f.Fix = "name another slot in source.slot, or, if nobody reads it: " + drop
	case s.walStatus == "lost" || s.reason != "":
		f.Message = "slot " + spec.Slot + " is lost (" + cmp.Or(s.reason, s.walStatus) + "): it can't be read any more. `nudge serve` replaces it, and every device starts over"
		f.Fix = drop
	case s.temporary:
		f.Message = "slot " + spec.Slot + " is temporary: it ends with its session"
		f.Fix = "end that session, or name another slot in source.slot"
	default:
		f.Message = "slot " + spec.Slot + " holds its place"
		return []Finding{f}
	}
	f.OK = false
	return []Finding{f}
}

func checkLog(ctx context.Context, dsn string) Finding {
	f := Finding{Code: CodeMigrations, Subject: migrations.Schema}
	pending, err := migrations.Pending(ctx, dsn)
	switch {
	case err != nil:
		f.Message, f.Fix = "cannot read nudge's tables by log.dsn: "+err.Error(), "correct log.dsn, or run `nudge migrate`"
	case pending:
		f.Message, f.Fix = "nudge's tables in log.dsn are missing or out of date", "nudge migrate"
	default:
		f.OK, f.Message = true, "nudge's tables are up to date"
	}
	return f
}

// checkEncoding looks whether the log can hold every character of the source.
func (st *state) checkEncoding(ctx context.Context, dsn string) Finding {
	f := Finding{Code: CodeEncoding, Subject: "log.dsn"}
	var encoding string
	conn, err := pgx.Connect(ctx, dsn)
	if err == nil {
		err = conn.QueryRow(ctx, "select current_setting('server_encoding')").Scan(&encoding)
		_ = conn.Close(context.WithoutCancel(ctx))
	}
	source := st.settings["server_encoding"]
	switch {
	case err != nil:
		f.Message, f.Fix = "cannot read the encoding of log.dsn: "+err.Error(), "correct log.dsn"
	case encoding != "UTF8" && encoding != source:
		f.Message = "log.dsn is in " + encoding + " and the source in " + source + ": a row with a character that " + encoding + " lacks would stop the feed"
		f.Fix = "make a database in UTF8 (create database … template template0 encoding 'UTF8'), name it in log.dsn, and run `nudge migrate`"
	default:
		f.OK, f.Message = true, "log.dsn can hold the source's text ("+encoding+")"
	}
	return f
}

// advice is what works as it is and can be better.
func (st *state) advice(spec Spec) []Finding {
	var out []Finding
	add := func(code, subject, message, fix string) {
		out = append(out, Finding{Advice: true, Code: code, Subject: subject, Message: message, Fix: fix})
	}
	if st.settings["synchronous_commit"] == "off" {
		delay := st.settings["wal_writer_delay"]
		add(CodeSynchronousCommit, "synchronous_commit", "commits reach the log up to three times wal_writer_delay ("+delay+" ms) later, and so do nudges",
			st.provider.fix("wal_writer_delay", "10ms", "then select pg_reload_conf();"))
	}
	if st.settings["max_slot_wal_keep_size"] == "-1" {
		add(CodeSlotWALLimit, "max_slot_wal_keep_size", "nothing bounds the WAL that a slot holds back: if nudge is away for long, the disk fills up",
			st.provider.fix("max_slot_wal_keep_size", "10GB", "then select pg_reload_conf();"))
	}
	if st.slot != nil && st.slot.failover && len(st.physical) > 0 && st.settings["synchronized_standby_slots"] == "" {
		standbys := strings.Join(st.physical, ", ")
		add(CodeStandbySlots, "synchronized_standby_slots", "devices may be told of changes that no standby has yet, which are lost if one is promoted then. "+
			"Name the slots of those that may be: slot "+spec.Slot+" then waits for them (A2)",
			st.provider.fix("synchronized_standby_slots", standbys, "then select pg_reload_conf();"))
	}
	for _, ts := range spec.Tables {
		t := st.tables[ts.Name]
		if t == nil || ts.Owner == "" || len(t.nodes) == 0 || !slices.ContainsFunc(t.nodes, func(n node) bool { return n.identity == 'i' }) {
			continue
		}
		for _, c := range t.Columns {
			if c.Toastable && c.Name != ts.Owner && !slices.Contains(t.PrimaryKey, c.Name) {
				add(CodeReplicaIdentity, ts.Name, fmt.Sprintf("if rows of %s change owner, long values such as %s may have to be fetched anew; FULL spares that, for more WAL (P11)", ts.Name, c.Name),
					"alter table "+ident(t.Schema, t.Name)+" replica identity full;")
				break
			}
		}
	}
	return out
}
