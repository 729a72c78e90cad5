package changefeed

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"os"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/nudgesync/nudge/changefeed/change"
	"github.com/nudgesync/nudge/changefeed/changelog"
	"github.com/nudgesync/nudge/changefeed/pgoutput"
	"github.com/nudgesync/nudge/changefeed/route"
	"github.com/nudgesync/nudge/changefeed/value"
)

// tick is how often the session looks up from reading.
const tick = 200 * time.Millisecond

// session owns the replication connection: it reads, decodes, routes, and reports what is durable.
type session struct {
	feed    *Feed
	conn    *replConn
	batches *batches
	durable *atomic.Uint64

	// Owned by the goroutine of run.
	decoder   pgoutput.Decoder
	routing   *route.Config
	types     *value.Types
	relations map[string]string // signatures as last stored or put
	streamed  map[uint32]*relation
	position  change.LSN // everything below it was put, or was stored before
	epoch     change.Epoch
	open      bool // between Begin and Commit
	skip      bool // the open transaction is in the log already
	xid       uint32
	commit    change.LSN
	tx        route.Tx
	origin    string
	origins   int // different devices named in this transaction
	force     bool
	switching bool
	changed   map[string]string // relations streamed anew in this transaction
	serverEnd change.LSN
	heardAt   time.Time
	statusAt  time.Time
	adoptedAt time.Time
	reported  change.LSN
}

// relation is a table as it was last streamed. table is nil if it is not configured, or, with a name,
// if it can't be routed any more.
type relation struct {
	rel   *pgoutput.Rel
	name  string
	table *route.Table
}

func (s *session) run(ctx context.Context) error {
	now := time.Now()
	s.heardAt, s.statusAt, s.adoptedAt = now, now, now
	s.streamed = make(map[uint32]*relation)
	s.relations = maps.Clone(s.relations)
	s.types = value.Builtin()
	s.tx.Disk = route.Disk{Bytes: s.feed.cfg.SpillBytes, Create: s.feed.createSpill}
	defer s.tx.Discard()
	stop := context.AfterFunc(ctx, s.conn.close) // unblocks a read
	defer stop()
	for ctx.Err() == nil {
		if err := s.conn.net.SetReadDeadline(time.Now().Add(tick)); err != nil {
			return fmt.Errorf("replication connection: %w", err)
		}
		if err := s.readUntilTick(ctx); err != nil {
			return err
		}
		if err := s.housekeep(); err != nil {
			return err
		}
	}
	return context.Cause(ctx)
}

// readUntilTick reads messages until the read deadline or until the appender must catch up.
func (s *session) readUntilTick(ctx context.Context) error {
	for {
		full, err := s.batches.full()
		if err != nil {
			return err
		}
		if full {
			select { // backpressure: the server keeps the rest
			case <-ctx.Done():
				return context.Cause(ctx)
			case <-s.batches.less:
			case <-time.After(tick):
			}
			s.heardAt = time.Now() // it is we who do not listen
			return nil
		}
		msg, err := s.conn.frontend.Receive()
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("replication connection: %w", err)
		}
		switch msg := msg.(type) {
		case *pgproto3.CopyData:
			s.heardAt = time.Now()
			if err := s.copyData(ctx, msg.Data); err != nil {
				return err
			}
		case *pgproto3.ErrorResponse:
			return fmt.Errorf("replication: %w", pgconn.ErrorResponseToPgError(msg))
		case *pgproto3.CopyDone, *pgproto3.CommandComplete:
			return errors.New("replication: the server ended the stream")
		}
	}
}

func (s *session) copyData(ctx context.Context, data []byte) error {
	switch {
	case len(data) >= 18 && data[0] == 'k':
		return s.keepalive(change.LSN(binary.BigEndian.Uint64(data[1:])), data[17] != 0)
	case len(data) >= 25 && data[0] == 'w':
		m, err := s.decoder.Decode(data[25:])
		if err != nil {
			return err
		}
		return s.message(ctx, m)
	}
	return fmt.Errorf("replication: unexpected copy data of %d bytes", len(data))
}

func (s *session) message(ctx context.Context, m *pgoutput.Message) error {
	switch m.Kind {
	case pgoutput.Begin:
		if err := s.feed.cfg.Failpoint(BeforeDecode); err != nil {
			return err
		}
		s.begin(m)
	case pgoutput.Commit:
		if err := s.end(ctx, m); err != nil {
			return err
		}
		return s.feed.cfg.Failpoint(AfterDecode)
	case pgoutput.Relation:
		return s.relation(ctx, m.Rel)
	case pgoutput.Insert, pgoutput.Update, pgoutput.Delete:
		if !s.skip {
			s.row(m)
			return s.tx.Err()
		}
	case pgoutput.Truncate:
		if !s.skip {
			for _, id := range m.RelationIDs {
				if r := s.streamed[id]; r != nil && r.name != "" {
					s.tx.Reset(r.name, change.ReasonTruncate)
				}
			}
		}
	case pgoutput.Logical:
		if s.open && m.Transactional && !s.skip {
			s.logical(m.Prefix, m.Content)
		}
	case pgoutput.Origin, pgoutput.Type:
	}
	return nil
}

func (s *session) begin(m *pgoutput.Message) {
	s.open, s.xid, s.commit = true, m.XID, m.CommitLSN
	// Only commits strictly below the position are in the log: one may stand at it exactly (A3).
	s.skip = m.CommitLSN < s.position
	s.origin, s.origins, s.force, s.switching, s.changed = "", 0, false, false, nil
}

func (s *session) end(ctx context.Context, m *pgoutput.Message) error {
	s.open = false
	s.serverEnd = max(s.serverEnd, m.EndLSN)
	s.feed.cfg.Metrics.transactions.Inc()
	if s.skip {
		return nil
	}
	if s.origins != 1 {
		s.origin = "" // nobody, or several: nobody's nudge is held back
	}
	if s.switching {
		if err := s.reroute(ctx); err != nil {
			return err
		}
	}
	if s.tx.Malformed > 0 {
		s.feed.cfg.Metrics.malformed.Add(float64(s.tx.Malformed))
		s.tx.Malformed = 0
	}
	if err := s.tx.Err(); err != nil {
		return err
	}
	t := transaction{xid: s.xid, end: m.EndLSN, relations: s.changed, config: s.switching, size: s.tx.Bytes() + 1}
	t.changes, t.spilled = s.tx.Commit(s.epoch, s.commit, m.Time, s.origin)
	if t.spilled != nil {
		t.size = t.spilled.Bytes()
	}
	if !t.routed() && !s.force && !t.config && len(t.relations) == 0 {
		s.adopt(t.end, false)
		return nil
	}
	s.position = t.end
	s.batches.put(t)
	return nil
}

func (s *session) row(m *pgoutput.Message) {
	r := s.streamed[m.RelationID]
	if r == nil || r.name == "" {
		return
	}
	if r.table == nil {
		s.tx.Reset(r.name, change.ReasonRepair)
		return
	}
	switch m.Kind {
	case pgoutput.Insert:
		r.table.Insert(&s.tx, m.New)
	case pgoutput.Update:
		r.table.Update(&s.tx, m.Old, m.New)
	case pgoutput.Delete:
		r.table.Delete(&s.tx, m.Old)
	}
}

func (s *session) logical(prefix string, content []byte) {
	switch prefix {
	case originPrefix:
		s.named(content)
	case changelog.HeartbeatPrefix:
		s.force = true
	case configPrefix:
		// Only the configuration that this process was started with, so that nobody can make one up.
		if string(content) == configContent(s.feed.hash) && s.routing.Hash() != s.feed.hash {
			s.switching = true
		}
	}
}

// relation takes up a table's shape. Other columns than last time are a reset of the table (P14).
func (s *session) relation(ctx context.Context, rel *pgoutput.Rel) error {
	r := &relation{rel: rel}
	s.streamed[rel.ID] = r
	if err := s.compile(ctx, r); err != nil {
		return err
	}
	if r.name == "" || s.skip {
		return nil
	}
	signature := route.Signature(rel)
	before, known := s.relations[r.name]
	if before == signature {
		return nil
	}
	if known {
		s.tx.Reset(r.name, change.ReasonSchema)
	}
	s.note(r.name, signature)
	return nil
}

// note keeps a table's signature, and has it stored with this transaction.
func (s *session) note(table, signature string) {
	s.relations[table] = signature
	if s.changed == nil {
		s.changed = make(map[string]string)
	}
	s.changed[table] = signature
}

// compile makes the router of a relation under the configuration in force.
func (s *session) compile(ctx context.Context, r *relation) error {
	name := r.rel.Schema + "." + r.rel.Name
	rule, configured := s.routing.Tables[name]
	if !configured {
		return nil
	}
	r.name = name
	oids := make([]uint32, len(r.rel.Columns))
	unknown := false
	for i, c := range r.rel.Columns {
		oids[i] = c.Type
		unknown = unknown || !s.types.Known(c.Type)
	}
	types := s.types
	if unknown {
		var err error
		if types, err = value.Load(ctx, s.feed.cfg.Source, oids); err != nil {
			return err
		}
	}
	var err error
	r.table, err = route.NewTable(r.rel, rule, types, value.Options{WideNumbersAsStrings: s.routing.WideNumbersAsStrings})
	if err != nil {
		s.feed.cfg.Metrics.malformed.Inc()
		s.feed.cfg.Logger.Error("a table can't be routed; its changes become resets until it is mended",
			"table", name, "error", err, "hint", "run nudge check")
	}
	return nil
}

// reroute puts the wanted configuration in force, at this place of the WAL, and resets everybody. The
// server does not describe again the tables it has described, so they are compiled anew.
func (s *session) reroute(ctx context.Context) error {
	s.routing = s.feed.cfg.Routing
	for _, r := range s.streamed {
		r.table, r.name = nil, ""
		if err := s.compile(ctx, r); err != nil {
			return err
		}
	}
	s.tx.ResetAll(change.ReasonSchema)
	// Tables that are new in it: another shape in the stream than snapshots see from now on is a reset (P14).
	catalog, err := route.Catalog(ctx, s.feed.cfg.Source, s.routing.Names())
	if err != nil {
		return err
	}
	for name, t := range catalog {
		if _, known := s.relations[name]; !known {
			s.note(name, t.Signature())
		}
	}
	return nil
}
