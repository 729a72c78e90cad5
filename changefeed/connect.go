package changefeed

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"syscall"
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
	schemaPrefix = "nudge.schema" // content: what the watcher saw of a table, signed
)

// streamName is the application_name of a feed's replication connection.
const streamName = "nudge feed"

// errSlotBusy: another feed streams the slot.
var errSlotBusy = errors.New("the slot is in use")

// stream is a replication connection that has begun to stream.
type stream struct {
	conn    *replConn
	writer  *changelog.Writer
	routing *route.Config // in force where the stream begins
	server  server
	key     []byte // that messages about the schema are signed with
}

func (s *stream) close() { s.conn.close() }

// replConn is the hijacked connection. Only its owner reads and writes; anyone may close it.
type replConn struct {
	net      net.Conn
	socket   syscall.RawConn // under net; nil if there is none that is known
	frontend *pgproto3.Frontend
}

func (c *replConn) close() { _ = c.net.Close() }

// connect takes up the log, compares it with server, slot, publication and witness, begins an epoch where
// they do not fit together, and starts streaming.
func (f *Feed) connect(ctx context.Context) (_ *stream, err error) {
	whole := ctx
	ctx, cancel := context.WithTimeout(whole, f.cfg.Patience)
	defer cancel()
	// The slot is read before the log, and the log before the server's WAL position: another feed that comes
	// and goes meanwhile moves the log ahead of what was seen of the slot, never behind it.
	sl, err := f.readSlot(ctx)
	if err != nil {
		return nil, err
	}
	if sl.exists && (sl.plugin != "pgoutput" || sl.elsewhere) {
		return nil, fmt.Errorf("check_slot: slot %q is somebody else's (plugin %q, database %q): name another one in source.slot", f.cfg.Slot, sl.plugin, sl.database)
	}
	if sl.active { // a node that waits costs the source no more than this
		f.lookAtHolder(ctx, sl.pid)
		return nil, errSlotBusy
	}
	f.waiting.Store(nil)
	w, err := f.cfg.Log.Writer(ctx, f.cfg.Name, f.cfg.SegmentAge)
	fresh := errors.Is(err, changelog.ErrNoEpoch)
	if err != nil && !fresh {
		return nil, err
	}
	srv, err := f.readServer(ctx)
	if err != nil {
		return nil, err
	}
	if err := f.checkEncoding(ctx, srv.encoding); err != nil {
		return nil, err
	}
	conn, err := f.dial(ctx, srv)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = conn.Close(context.WithoutCancel(ctx))
		}
	}()
	if err := f.meet(ctx, conn, srv.on, sl.on); err != nil {
		return nil, err
	}
	sys, err := pglogrepl.IdentifySystem(ctx, conn)
	if err != nil {
		return nil, fmt.Errorf("IDENTIFY_SYSTEM: %w", err)
	}
	pub, err := f.readPublication(ctx)
	if err != nil {
		return nil, err
	}
	if err := pub.readOn(srv.on); err != nil {
		return nil, err
	}
	if err := pub.usable(f.cfg.Publication, f.cfg.Routing); err != nil {
		return nil, err
	}
	if err := f.takeOver(ctx, w); err != nil {
		return nil, err
	}
	seen, err := f.witness.read(f.cfg.Slot, sys.SystemID)
	if err != nil {
		return nil, err
	}
	found := facts{server: srv, system: sys, slot: sl, publication: pub, seen: seen}
	if reason := found.doubt(fresh, w.State()); reason != "" {
		if err := f.newEpoch(whole, w, found, reason); err != nil {
			return nil, err
		}
	} else if err := f.keepPublication(ctx, w, pub); err != nil {
		return nil, err
	}
	ctx, cancelStart := context.WithTimeout(whole, f.cfg.Patience)
	defer cancelStart()
	state := w.State()
	// Before anything of this stream is handed out; and a file that can't be written is known at once.
	if err := f.witness.begin(f.cfg.Slot, sys.SystemID, state.Head()); err != nil {
		return nil, err
	}
	key, err := f.cfg.Log.Key(ctx, "schema")
	if err != nil {
		return nil, err
	}
	routing, err := route.Decode(state.Config)
	if err != nil {
		return nil, err
	}
	if state.ConfigHash != f.hash {
		if err := f.announce(ctx, srv.on, key, &state); err != nil {
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
	// The slot is ours now. Was it made anew since it was looked at, the server forwards us in silence (P3).
	if sl, err = f.readSlot(ctx); err != nil {
		return nil, err
	}
	if err := srv.on.same(sl.on); err != nil { // a slot that was made, or a configuration that was told, elsewhere
		return nil, err
	}
	if sl.confirmed > state.Position {
		return nil, errors.New("another feed made the slot anew meanwhile")
	}
	hijacked, err := conn.Hijack()
	if err != nil {
		return nil, fmt.Errorf("take over the replication connection: %w", err)
	}
	f.cfg.Metrics.leader.Set(1)
	f.cfg.Logger.Info("feed streams", "slot", f.cfg.Slot, "from", state.Head().String(), "timeline", sys.Timeline)
	return &stream{conn: &replConn{net: hijacked.Conn, socket: socketOf(hijacked.Conn), frontend: hijacked.Frontend}, writer: w, routing: routing, server: srv, key: key}, nil
}

// takeOver clears the log of a feed that had the slot before.
func (f *Feed) takeOver(ctx context.Context, w *changelog.Writer) error {
	n, err := w.TakeOver(ctx)
	if n > 0 {
		f.cfg.Logger.Warn("ended connections to the log that a replaced feed left in mid-append", "connections", n)
	}
	return err
}

func (f *Feed) dial(ctx context.Context, srv server) (*pgconn.PgConn, error) {
	cfg, err := pgconn.ParseConfig(f.cfg.DSN)
	if err != nil {
		return nil, fmt.Errorf("parse source DSN: %w", err)
	}
	for k, v := range value.SessionSettings() {
		cfg.RuntimeParams[k] = v
	}
	// A network that went silent ends the connection also while it may rightly be quiet.
	dialer := net.Dialer{KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 10 * time.Second, Interval: 5 * time.Second, Count: 3}}
	cfg.DialFunc = dialer.DialContext
	cfg.RuntimeParams["replication"] = "database"
	cfg.RuntimeParams["application_name"] = streamName
	cfg.RuntimeParams["logical_decoding_work_mem"] = "128MB" // twice the default, before the server spills too (P21)
	cfg.RuntimeParams["wal_sender_timeout"] = strconv.FormatInt(f.pace.sender.Milliseconds(), 10)
	// The stream is one statement that does not end.
	for _, timeout := range []string{"statement_timeout", "idle_in_transaction_session_timeout", "idle_session_timeout"} {
		cfg.RuntimeParams[timeout] = "0"
	}
	if srv.version >= 170000 {
		cfg.RuntimeParams["transaction_timeout"] = "0"
	}
	conn, err := pgconn.ConnectConfig(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("open replication connection: %w", err)
	}
	return conn, nil
}

// server is what the feed has to know of the server it talks to.
type server struct {
	version  int    // 150018
	encoding string // of its text: UTF8
	on       instance
}

// failoverSlots reports whether standbys can have copies of a slot (17+, P6).
func (s server) failoverSlots() bool { return s.version >= 170000 }

func (f *Feed) readServer(ctx context.Context) (server, error) {
	var s server
	var standby bool
	err := f.cfg.Source.QueryRow(ctx, `
select current_setting('server_version_num')::int, current_setting('server_encoding'), pg_is_in_recovery(), `+instanceSQL).Scan(&s.version, &s.encoding, &standby, &s.on)
	if err != nil {
		return s, fmt.Errorf("read server: %w", err)
	}
	if standby {
		return s, errors.New("check_primary: the source is a standby; waiting until it is promoted, or point source.dsn at the primary")
	}
	return s, nil
}

// checkEncoding refuses a log that can't hold every character of the source: the first row that has another
// one would end every append (P19).
func (f *Feed) checkEncoding(ctx context.Context, source string) error {
	log, err := f.cfg.Log.Encoding(ctx)
	if err != nil {
		return err
	}
	if log != "UTF8" && log != source {
		return fmt.Errorf("check_encoding: the log's database is in %s, the source in %s: some rows could not be logged; let log.dsn name a database in UTF8", log, source)
	}
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

func configContent(hash uint64) string { return strconv.FormatUint(hash, 16) }

func quoteLiteral(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }
