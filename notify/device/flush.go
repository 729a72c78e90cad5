package device

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// flush writes what was heard of some of the devices.
func (s *Store) flush(ctx context.Context, of []name, heard map[name]entry) error {
	n := len(of)
	device, user := make([]string, 0, n), make([]string, 0, n)
	epoch, lsn, seq := make([]*int64, 0, n), make([]*int64, 0, n), make([]*int32, 0, n)
	atIt, refund := make([]bool, 0, n), make([]bool, 0, n)
	nudge, session, ended := make([]*string, 0, n), make([]*string, 0, n), make([]*string, 0, n)
	for _, at := range of {
		e := heard[at]
		device, user = append(device, at.device), append(user, at.user)
		p, l, q := nullable(e.acked)
		epoch, lsn, seq = append(epoch, p), append(lsn, l), append(seq, q)
		atIt, refund = append(atIt, e.atIt), append(refund, e.refund)
		nudge, session, ended = append(nudge, orNull(e.nudge)), append(session, orNull(e.session)), append(ended, orNull(e.ended))
	}
	var roads []string
	var after []time.Duration
	err := attempts(ctx, func(ctx context.Context) error {
		// Planned anew each time: a plan that does not know how many devices there are compares each with each.
		return s.cfg.Pool.QueryRow(ctx, flushSQL, pgx.QueryExecModeCacheDescribe, s.cfg.Slot, device, user, epoch, lsn, seq, atIt, refund, nudge,
			session, ended, pause, s.cfg.Grace).Scan(&roads, &after)
	})
	if err != nil {
		return fmt.Errorf("write acknowledgements: %w", err)
	}
	if s.cfg.Pulled != nil {
		for i, road := range roads {
			s.cfg.Pulled(road, after[i])
		}
	}
	return nil
}
