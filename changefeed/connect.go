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
)

// errSlotBusy: another feed streams the slot.
var errSlotBusy = errors.New("the slot is in use")

// stream is a replication connection that has begun to stream.
type stream struct {
	conn    *replConn
	writer  *changelog.Writer
	routing *route.Config // in force where the stream begins
}

func (s *stream) close() { s.conn.close() }

// replConn is the hijacked connection. Only its owner reads and writes; anyone may close it.
type replConn struct {
	net      net.Conn
	frontend *pgproto3.Frontend
}

func (c *replConn) close() { _ = c.net.Close() }

// connect takes up the log, compares it with server, slot, publication and witness, begins an epoch where
// they do not fit together, and starts streaming.
func (f *Feed) connect(ctx context.Context) (_ *stream, err error) {
	w, err := f.cfg.Log.Writer(ctx, f.cfg.Name, f.cfg.SegmentAge)
	fresh := errors.Is(err, changelog.ErrNoEpoch)
	if err != nil && !fresh {
		return nil, err
	}
	srv, err := f.readServer(ctx)
	if err != nil {
		return nil, err
	}
	pub, err := f.readPublication(ctx)
	if err != nil {
		return nil, err
	}
	if err := pub.usable(f.cfg.Publication, f.cfg.Routing); err != nil {
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
	seen, err := f.witness.read(f.cfg.Slot, sys.SystemID)
	if err != nil {
		return nil, err
	}
	found := facts{server: srv, system: sys, slot: sl, publication: pub, seen: seen}
	if reason := found.doubt(fresh, w.State()); reason != "" {
		if err := f.newEpoch(ctx, w, found, reason); err != nil {
			return nil, err
		}
	} else if err := f.keepPublication(ctx, w, pub); err != nil {
		return nil, err
	}
	state := w.State()
	// Before anything of this stream is handed out; and a file that can't be written is known at once.
	if err := f.witness.begin(f.cfg.Slot, sys.SystemID, state.Head()); err != nil {
		return nil, err
	}
	routing, err := route.Decode(state.Config)
	if err != nil {
		return nil, err
	}
	if state.ConfigHash != f.hash {
		// It takes effect where this message stands in the WAL; what was written before is routed as it
		// was then (A8).
		if _, err := f.cfg.Source.Exec(ctx, `select pg_logical_emit_message(true, $1, $2)`, configPrefix, configContent(f.hash)); err != nil {
			return nil, fmt.Errorf("announce the new configuration: %w", err)
		}
	}
	// Streaming from a transaction's end LSN, or from an adopted position L: commits at L or later come (P2).
	err = pglogrepl.StartReplication(ctx, conn, f.cfg.Slot, pglogrepl.LSN(state.Position), pglogrepl.StartReplicationOptions{
		Mode: pglogrepl.LogicalReplication,
		// Without origin 'none' (16+): it would leave out what a subscription of the app's database brings (A24).
		PluginArgs: []string{
			"proto_version '1'",
			"publication_names " + quoteLiteral(pgx.Identifier{f.cfg.Publication}.Sanitize()),
			"messages 'true'",
		},
	})
	if err != nil {
		return nil, fmt.Errorf("START_REPLICATION: %w", err)
	}
	hijacked, err := conn.Hijack()
	if err != nil {
		return nil, fmt.Errorf("take over the replication connection: %w", err)
	}
	f.cfg.Metrics.leader.Set(1)
	f.cfg.Logger.Info("feed streams", "slot", f.cfg.Slot, "from", state.Head().String(), "timeline", sys.Timeline)
	return &stream{conn: &replConn{net: hijacked.Conn, frontend: hijacked.Frontend}, writer: w, routing: routing}, nil
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

// server is what the feed has to know of the server it talks to.
type server struct {
	version int // 150018
}

// failoverSlots reports whether standbys can have copies of a slot (17+, P6).
func (s server) failoverSlots() bool { return s.version >= 170000 }

func (f *Feed) readServer(ctx context.Context) (server, error) {
	var s server
	var standby bool
	err := f.cfg.Source.QueryRow(ctx, `select current_setting('server_version_num')::int, pg_is_in_recovery()`).Scan(&s.version, &standby)
	if err != nil {
		return s, fmt.Errorf("read server: %w", err)
	}
	if standby {
		return s, errors.New("check_primary: the source is a standby; waiting until it is promoted, or point source.dsn at the primary")
	}
	return s, nil
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

func configContent(hash uint64) string { return strconv.FormatUint(hash, 16) }

func quoteLiteral(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }
