package changefeed

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/nudgesync/nudge/changefeed/change"
	"github.com/nudgesync/nudge/changefeed/changelog"
	"github.com/nudgesync/nudge/changefeed/pgoutput"
	"github.com/nudgesync/nudge/changefeed/route"
)

// errPartitions: Postgres 14 must be asked anew to stream partitions as what they are (P12).
var errPartitions = errors.New("partitions came or went: streaming anew from here")

// tick is how often the session looks up from reading.
const tick = 200 * time.Millisecond

// session owns the replication connection: it reads, decodes, routes, and reports what is durable.
type session struct {
	feed    *Feed
	conn    *replConn
	batches *batches
	durable *atomic.Uint64
	release chan<- struct{} // capacity 1: much WAL passed that held nothing for us

	// Owned by the goroutine of run.
	decoder   pgoutput.Decoder
	resting   *time.Timer
	routing   *route.Config
	key       []byte                 // that messages about the schema are signed with
	forgetful bool                   // the server is one that does not notice ATTACH and DETACH
	shapes    map[string]route.Shape // by table, as last stored or put
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
	learned   []route.Sight     // told in this transaction
	changed   map[string]string // shapes that are new with this transaction, encoded
	fence     bool              // a table joined the publication
	outdated  bool              // the server streams partitions as what they were before this transaction
	until     change.LSN        // not 0: nothing is read on, and the stream ends once it is stored up to here
	serverEnd change.LSN
	heardAt   time.Time
	statusAt  time.Time
	adoptedAt time.Time
	reported  change.LSN
	released  change.LSN // where release was last asked for
}

// relation is a table as it was last streamed. table is nil if it is not configured, or, with a name,
// if it can't be routed any more.
type relation struct {
	rel   *pgoutput.Rel
	name  string
	table *route.Table
	// known are the configured tables that it was, as far as the log knows, and whose name it does not have now.
	known []string
}

func (s *session) run(ctx context.Context) error {
	now := time.Now()
	s.heardAt, s.statusAt, s.adoptedAt = now, now, now
	s.streamed = make(map[uint32]*relation)
	s.resting = time.NewTimer(gather)
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
		if s.until != 0 && s.durable.Load() >= uint64(s.until) {
			return errPartitions
		}
		if full || s.until != 0 {
			select { // backpressure: the server keeps the rest
			case <-ctx.Done():
				return context.Cause(ctx)
			case <-s.batches.less:
			case <-time.After(tick):
			}
			s.heardAt = time.Now() // it is we who do not listen
			return nil
		}
		if err := s.rest(); err != nil {
			return err
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
			if err := s.copyData(msg.Data); err != nil {
				return err
			}
		case *pgproto3.ErrorResponse:
			return fmt.Errorf("replication: %w", pgconn.ErrorResponseToPgError(msg))
		case *pgproto3.CopyDone, *pgproto3.CommandComplete:
			return errors.New("replication: the server ended the stream")
		}
	}
}

func (s *session) copyData(data []byte) error {
	switch {
	case len(data) >= 18 && data[0] == 'k':
		return s.keepalive(change.LSN(binary.BigEndian.Uint64(data[1:])), data[17] != 0)
	case len(data) >= 25 && data[0] == 'w':
		m, err := s.decoder.Decode(data[25:])
		if err != nil {
			return err
		}
		return s.message(m)
	}
	return fmt.Errorf("replication: unexpected copy data of %d bytes", len(data))
}

func (s *session) message(m *pgoutput.Message) error {
	switch m.Kind {
	case pgoutput.Begin:
		if err := s.feed.cfg.Failpoint(BeforeDecode); err != nil {
			return err
		}
		s.begin(m)
	case pgoutput.Commit:
		if err := s.end(m); err != nil {
			return err
		}
		return s.feed.cfg.Failpoint(AfterDecode)
	case pgoutput.Relation:
		s.relation(m.Rel)
	case pgoutput.Insert, pgoutput.Update, pgoutput.Delete:
		if !s.skip {
			s.row(m)
			return s.tx.Err()
		}
	case pgoutput.Truncate:
		if !s.skip {
			for _, id := range m.RelationIDs {
				r := s.streamed[id]
				if r == nil {
					continue
				}
				s.renamed(r)
				if r.name != "" {
					s.tx.Reset(r.name, change.ReasonTruncate)
					s.truncated(r.name)
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
	s.origin, s.origins, s.force, s.switching = "", 0, false, false
	s.learned, s.changed, s.fence, s.outdated = nil, nil, false, false
}

func (s *session) end(m *pgoutput.Message) error {
	s.open = false
	s.serverEnd = max(s.serverEnd, m.EndLSN)
	s.feed.cfg.Metrics.transactions.Inc()
	if s.skip {
		return nil
	}
	if s.origins != 1 {
		s.origin = "" // nobody, or several: nobody's nudge is held back
	}
	s.takeUp()
	if s.tx.Malformed > 0 {
		s.feed.cfg.Metrics.malformed.Add(float64(s.tx.Malformed))
		s.tx.Malformed = 0
	}
	if err := s.tx.Err(); err != nil {
		return err
	}
	t := transaction{xid: s.xid, end: m.EndLSN, relations: s.changed, config: s.switching, fence: s.fence, size: s.tx.Bytes() + 1}
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
	if s.outdated {
		s.until = t.end
	}
	return nil
}

func (s *session) row(m *pgoutput.Message) {
	r := s.streamed[m.RelationID]
	if r == nil {
		return
	}
	s.renamed(r)
	if r.name == "" {
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
	case schemaPrefix:
		if sight, ok := openSight(s.key, s.xid, content); ok {
			s.learned = append(s.learned, sight)
			s.force = true // the watcher waits until the log has passed it, news or none
		}
	}
}
