package changefeed

import (
	"encoding/binary"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/nudgesync/nudge/changefeed/change"
)

const (
	// statusEvery is the longest time between two status updates.
	statusEvery = time.Second
	// silence is how long the server may say nothing, though it was asked, before it is given up (P8).
	silence = 2 * walSenderTimeout
	// adoptFrom is the WAL, in bytes, that must have passed without anything for us before the position
	// is stored for its own sake (A10).
	adoptFrom = 8 << 20
)

// housekeep reports to the server when it is due, and gives up a silent one.
func (s *session) housekeep() error {
	now := time.Now()
	if now.Sub(s.heardAt) > silence {
		return fmt.Errorf("replication: nothing heard for %s", silence)
	}
	durable := change.LSN(s.durable.Load())
	if s.serverEnd > durable {
		s.feed.cfg.Metrics.unstored.Set(float64(s.serverEnd - durable))
	} else {
		s.feed.cfg.Metrics.unstored.Set(0)
	}
	if durable == s.reported && now.Sub(s.statusAt) < statusEvery {
		return nil
	}
	return s.report(now)
}

// report tells the server what is durable: the one position for write, flush and apply (P1).
func (s *session) report(now time.Time) error {
	if err := s.feed.cfg.Failpoint(BeforeAck); err != nil {
		return err
	}
	durable := change.LSN(s.durable.Load())
	if err := ackable(durable, s.reported, s.serverEnd); err != nil {
		return err
	}
	b := make([]byte, 0, 34)
	b = append(b, 'r')
	for range 3 {
		b = binary.BigEndian.AppendUint64(b, uint64(durable))
	}
	b = binary.BigEndian.AppendUint64(b, uint64(now.Sub(postgresEpoch).Microseconds()))
	b = append(b, boolByte(now.Sub(s.heardAt) > silence/4)) // ask for a reply if it has been quiet
	if err := s.conn.net.SetWriteDeadline(now.Add(walSenderTimeout / 2)); err != nil {
		return fmt.Errorf("replication connection: %w", err)
	}
	s.conn.frontend.Send(&pgproto3.CopyData{Data: b})
	if err := s.conn.frontend.Flush(); err != nil {
		return fmt.Errorf("report position: %w", err)
	}
	s.statusAt, s.reported = now, durable
	return s.feed.cfg.Failpoint(AfterAck)
}

// ackable refuses to confirm what the server has neither sent nor mentioned, and to take a confirmation back.
// The server takes the first for granted, and later commits vanish (P3).
func ackable(durable, reported, serverEnd change.LSN) error {
	if durable > serverEnd || durable < reported {
		return fmt.Errorf("refusing to confirm %s: %s was confirmed before, and the server is at %s", durable, reported, serverEnd)
	}
	return nil
}

var postgresEpoch = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

func boolByte(b bool) byte {
	if b {
		return 1
	}
	return 0
}

// keepalive notes how far the server's WAL goes. asked: the server wants an answer now; it also asks
// when it shuts down, and then waits until everything it sent is confirmed (P7).
func (s *session) keepalive(end change.LSN, asked bool) error {
	s.serverEnd = max(s.serverEnd, end)
	s.adopt(end, asked)
	now := time.Now()
	if asked && (change.LSN(s.durable.Load()) != s.reported || now.Sub(s.statusAt) > tick/4) {
		return s.report(now)
	}
	return nil
}

// adopt moves the position over WAL that held nothing for us, if that is worth a commit (A10).
func (s *session) adopt(end change.LSN, asked bool) {
	now := time.Now()
	if s.open || end <= s.position || !s.batches.idle() {
		return
	}
	if end-s.position < adoptFrom && (!asked || now.Sub(s.adoptedAt) < time.Second) {
		return
	}
	s.adoptedAt, s.position = now, end
	s.batches.adoptable(end)
}
