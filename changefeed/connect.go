package changefeed

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/nudgesync/nudge/changefeed/change"
	"github.com/nudgesync/nudge/changefeed/changelog"
	"github.com/nudgesync/nudge/changefeed/route"
	"github.com/nudgesync/nudge/changefeed/value"
)

// walSenderTimeout is set on our replication connection: a feed that went silent frees the slot then.
const walSenderTimeout = 10 * time.Second

// Prefixes of the WAL messages that the feed acts on. Anyone with a connection can emit one (P23), so
// none of them can do more than cost a little time.
const (
	originPrefix = "nudge.origin" // content: the device that writes this transaction
	configPrefix = "nudge.config" // content: hash of the configuration to put in force
	schemaPrefix = "nudge.schema" // content: what the watcher saw of a table, signed
)

// errSlotBusy: another feed streams the slot.
var errSlotBusy = errors.New("the slot is in use")

// stream is a replication connection that has begun to stream.
type stream struct {
	conn    *replConn
	writer  *changelog.Writer
	routing *route.Config // in force where the stream begins
	major   int           // version of the server
	key     []byte        // that messages about the schema are signed with
}

func (s *stream) close() { s.conn.close() }

// replConn is the hijacked connection. Only its owner reads and writes; anyone may close it.
type replConn struct {
	net      net.Conn
	frontend *pgproto3.Frontend
}

func (c *replConn) close() { _ = c.net.Close() }

// slot is what the server says of our slot.
type slot struct {
	exists    bool
	plugin    string
	database  string
	active    bool
	confirmed change.LSN
	walStatus string
}

// connect takes up the log, compares it with server and slot, begins an epoch where they do not fit
// together, and starts streaming.
func (f *Feed) connect(ctx context.Context) (_ *stream, err error) {
	w, err := f.cfg.Log.Writer(ctx, f.cfg.Name, f.cfg.SegmentAge)
	fresh := errors.Is(err, changelog.ErrNoEpoch)
	if err != nil && !fresh {
		return nil, err
	}
	if err := f.checkPublication(ctx); err != nil {
		return nil, err
	}
	conn, err := f.dial(ctx)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = conn.Close(context.WithoutCancel(ctx))
		}
	}()
	sys, err := pglogrepl.IdentifySystem(ctx, conn)
	if err != nil {
		return nil, fmt.Errorf("IDENTIFY_SYSTEM: %w", err)
	}
	sl, err := f.readSlot(ctx)
	if err != nil {
		return nil, err
	}
	if sl.exists && (sl.plugin != "pgoutput" || sl.database != sys.DBName) {
		return nil, fmt.Errorf("check_slot: slot %q is somebody else's (plugin %q, database %q): name another one in source.slot", f.cfg.Slot, sl.plugin, sl.database)
	}
	if sl.active {
		return nil, errSlotBusy
	}
	if reason := doubt(fresh, w.State(), sys, sl); reason != "" {
		if err := f.newEpoch(ctx, w, sys, sl, reason); err != nil {
			return nil, err
		}
	}
	state := w.State()
	key, err := f.cfg.Log.Key(ctx, "schema")
	if err != nil {
		return nil, err
	}
	routing, err := route.Decode(state.Config)
	if err != nil {
		return nil, err
	}
	if state.ConfigHash != f.hash {
		if err := f.announce(ctx, key, &state); err != nil {
			return nil, fmt.Errorf("announce the new configuration: %w", err)
		}
	}
	// Streaming from a transaction's end LSN, or from an adopted position L: commits at L or later come (P2).
	err = pglogrepl.StartReplication(ctx, conn, f.cfg.Slot, pglogrepl.LSN(state.Position), pglogrepl.StartReplicationOptions{
		Mode: pglogrepl.LogicalReplication,
		PluginArgs: []string{
			"proto_version '1'",
			"publication_names " + quoteLiteral(pgx.Identifier{f.cfg.Publication}.Sanitize()),
			"messages 'true'",
		},
	})
	if err != nil {
		return nil, fmt.Errorf("START_REPLICATION: %w", err)
	}
	major, err := majorVersion(conn)
	if err != nil {
		return nil, err
	}
	hijacked, err := conn.Hijack()
	if err != nil {
		return nil, fmt.Errorf("take over the replication connection: %w", err)
	}
	f.cfg.Metrics.leader.Set(1)
	f.cfg.Logger.Info("feed streams", "slot", f.cfg.Slot, "from", state.Head().String(), "timeline", sys.Timeline)
	return &stream{conn: &replConn{net: hijacked.Conn, frontend: hijacked.Frontend}, writer: w, routing: routing, major: major, key: key}, nil
}

func (f *Feed) dial(ctx context.Context) (*pgconn.PgConn, error) {
	cfg, err := pgconn.ParseConfig(f.cfg.DSN)
	if err != nil {
		return nil, fmt.Errorf("parse source DSN: %w", err)
	}
	for k, v := range value.SessionSettings() {
		cfg.RuntimeParams[k] = v
	}
	cfg.RuntimeParams["replication"] = "database"
	cfg.RuntimeParams["application_name"] = "nudge feed"
	cfg.RuntimeParams["wal_sender_timeout"] = strconv.FormatInt(walSenderTimeout.Milliseconds(), 10)
	conn, err := pgconn.ConnectConfig(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("open replication connection: %w", err)
	}
	return conn, nil
}

// doubt says why the log and the slot can't be one unbroken history; "" if they are.
func doubt(fresh bool, s changelog.State, sys pglogrepl.IdentifySystemResult, sl slot) string {
	switch {
	case fresh:
		return "first start"
	case s.SystemID != sys.SystemID:
		return "another database system"
	case s.Timeline != sys.Timeline:
		return "another timeline" // a promotion or a restore (P5)
	case s.Database != sys.DBName:
		return "another database"
	case s.Position > change.LSN(sys.XLogPos):
		return "the server is behind the log" // restored to an earlier place
	case !sl.exists:
		return "the slot is gone"
	case sl.walStatus == "lost":
		return "the slot has lost WAL" // max_slot_wal_keep_size (P9)
	case sl.confirmed > s.Position:
		return "the slot is ahead of the log" // somebody advanced it, or the log was restored (P3)
	}
	return ""
}

func (f *Feed) readSlot(ctx context.Context) (slot, error) {
	var s slot
	var confirmed, plugin, database, status *string
	err := f.cfg.Source.QueryRow(ctx, `
select plugin::text, database::text, active, confirmed_flush_lsn::text, wal_status
  from pg_replication_slots where slot_name = $1`, f.cfg.Slot).
		Scan(&plugin, &database, &s.active, &confirmed, &status)
	if errors.Is(err, pgx.ErrNoRows) {
		return s, nil
	}
	if err != nil {
		return s, fmt.Errorf("read slot: %w", err)
	}
	s.exists = true
	if plugin != nil {
		s.plugin = *plugin
	}
	if database != nil {
		s.database = *database
	}
	if status != nil {
		s.walStatus = *status
	}
	if confirmed != nil {
		if s.confirmed, err = change.ParseLSN(*confirmed); err != nil {
			return s, err
		}
	}
	return s, nil
}

// newEpoch makes the slot anew, and begins the log's next epoch where it starts.
func (f *Feed) newEpoch(ctx context.Context, w *changelog.Writer, sys pglogrepl.IdentifySystemResult, sl slot, reason string) error {
	if w.State().Epoch == 0 {
		f.cfg.Logger.Info("beginning the first epoch", "slot", f.cfg.Slot)
	} else {
		f.cfg.Logger.Warn("beginning a new epoch: every device starts over with a reset", "reason", reason, "slot", f.cfg.Slot)
	}
	if sl.exists {
		if _, err := f.cfg.Source.Exec(ctx, `select pg_drop_replication_slot($1)`, f.cfg.Slot); err != nil {
			return fmt.Errorf("drop slot: %w", err)
		}
	}
	// Waits for every transaction that is open now.
	var at string
	err := f.cfg.Source.QueryRow(ctx, `select lsn::text from pg_create_logical_replication_slot($1, 'pgoutput')`, f.cfg.Slot).Scan(&at)
	if err != nil {
		return fmt.Errorf("create slot: %w", err)
	}
	start, err := change.ParseLSN(at)
	if err != nil {
		return err
	}
	fence, err := f.nextXID(ctx)
	if err != nil {
		return err
	}
	// The shapes that devices will see in their snapshots at the earliest: another one in the stream is a
	// reset, also the first time (P14).
	relations, err := f.shapes(ctx)
	if err != nil {
		return err
	}
	err = w.NewEpoch(ctx, changelog.State{
		Epoch: w.State().Epoch.Next(), Position: start, SystemID: sys.SystemID, Timeline: sys.Timeline, Database: sys.DBName,
		ConfigHash: f.hash, Config: f.wanted, Relations: relations, SnapshotFence: fence, Reason: reason,
	})
	if err != nil {
		return err
	}
	f.cfg.Metrics.epochs.WithLabelValues(reason).Inc()
	return nil
}

// nextXID is a transaction id above all that were assigned before. A snapshot taken once all below it have
// ended sees all that the stream does not bring from here on (A4). A snapshot's own xmax would not do: it is
// the first id that has not ended, and may be open.
func (f *Feed) nextXID(ctx context.Context) (uint64, error) {
	var x int64
	if err := f.cfg.Source.QueryRow(ctx, `select pg_current_xact_id()::text::bigint`).Scan(&x); err != nil {
		return 0, fmt.Errorf("read next transaction id: %w", err)
	}
	return uint64(x), nil
}

// checkPublication refuses to stream a publication that would silently leave tables out. One that does not
// exist has no rows that could be missed.
func (f *Feed) checkPublication(ctx context.Context) error {
	rows, err := f.cfg.Source.Query(ctx, `
select n.nspname || '.' || c.relname
  from pg_class c
  join pg_namespace n on n.oid = c.relnamespace
 where n.nspname || '.' || c.relname = any($2)
except
select n.nspname || '.' || c.relname
  from pg_publication p, pg_get_publication_tables(p.pubname) g
  join pg_class l on l.oid = g.relid
  left join pg_partition_ancestors(l.oid) a on l.relispartition
  join pg_class c on c.oid = coalesce(a.relid, l.oid)
  join pg_namespace n on n.oid = c.relnamespace
 where p.pubname = $1`, f.cfg.Publication, f.cfg.Routing.Names())
	if err != nil {
		return fmt.Errorf("read publication: %w", err)
	}
	missing, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return fmt.Errorf("read publication: %w", err)
	}
	if len(missing) > 0 {
		return fmt.Errorf("check_publication: publication %q lacks %s; run nudge attach", f.cfg.Publication, strings.Join(missing, ", "))
	}
	return nil
}

// majorVersion of the server: 14 for "14.23", 19 for "19devel".
func majorVersion(conn *pgconn.PgConn) (int, error) {
	text := conn.ParameterStatus("server_version")
	digits := strings.IndexFunc(text+".", func(r rune) bool { return r < '0' || r > '9' })
	major, err := strconv.Atoi(text[:digits])
	if err != nil {
		return 0, fmt.Errorf("server version %q: %w", text, err)
	}
	return major, nil
}

func configContent(hash uint64) string { return strconv.FormatUint(hash, 16) }

func quoteLiteral(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }
