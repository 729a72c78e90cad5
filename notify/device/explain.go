package device

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/nudgesync/nudge/changefeed/change"
)

// Explanation is all that is known of a device.
type Explanation struct {
	Device
	Head    change.Position // the user's newest change, zero if the log has none
	Marked  change.Position // every change below it has been marked
	Listens bool            // the device is active and has a road; what follows, bar Wakes, is zero otherwise
	Acked   change.Position // what it last acknowledged while that was of interest
	Due     change.Position // zero: it is not due
	// Times are zero where they do not apply.
	DueSince  time.Time
	NextAt    time.Time // when a worker may take it
	HeldUntil time.Time // a worker has it, or its provider wants to be left alone, until then
	NotBefore time.Time // its budget is spent until then
	PushedAt  time.Time // the last push that was accepted
	Urgency   Urgency
	Attempts  int    // in a row, since one was accepted
	Unheard   int    // pushes accepted since the device was last heard of
	Session   string // the session it was last heard over, "" if that has ended
	Wakes     []Wake // the last 20, newest first
}

// Wake is a line of the ledger: one push.
type Wake struct {
	Nudge      string
	Road       string
	Head       change.Position
	Status     string // sent, or a Verdict
	Reason     string
	ID         string // the provider's
	SentAt     time.Time
	AnsweredAt time.Time // zero: no answer yet; likewise below
	PulledAt   time.Time
	AckedAt    time.Time
}

const explainSQL = `
select ` + deviceCols + `, m.epoch, m.lsn, h.lsn, h.seq,
       d.device is not null, d.acked_epoch, d.acked_lsn, d.acked_seq, d.due_epoch, d.due_lsn, d.due_seq,
       d.due_since, d.next_at, d.held_until, d.not_before, d.pushed_at,
       coalesce(d.urgency, 0), coalesce(d.attempts, 0), coalesce(d.pushes, 0), coalesce(d.session, '')
  from nudge.devices v
  left join nudge.due d on d.device = v.device
  left join nudge.marking m on m.slot = $3
  left join lateral (
       select c.lsn, c.seq from unnest(array['user:' || v.user_id, '*']) s(scope)
        cross join lateral (
              select c.lsn, c.seq from nudge.changes c
               where c.scope = s.scope and c.segment >= (select min(segment) from nudge.segments where epoch = m.epoch)
               order by c.lsn desc, c.seq desc limit 1) c
        order by c.lsn desc, c.seq desc limit 1) h on true
 where v.user_id = $1 and ($2 = '' or v.device = $2)
 order by v.device`

const wakesSQL = `
select w.device, w.nudge, w.road, w.epoch, w.lsn, w.seq, w.status, coalesce(w.reason, ''), coalesce(w.provider_id, ''),
       w.sent_at, w.answered_at, w.pulled_at, w.acked_at
  from nudge.devices v cross join lateral (
       select * from nudge.wakes w where w.device = v.device and w.user_id = v.user_id order by sent_at desc limit 20) w
 where v.user_id = $1 and ($2 = '' or v.device = $2)
 order by w.device, w.sent_at desc`

// Explain returns all that is known of the user's devices, or of one of them; ErrUnknown if there is none.
func (s *Store) Explain(ctx context.Context, user, device string) ([]Explanation, error) {
	var out []Explanation
	var b pgx.Batch
	b.Queue(explainSQL, user, device, s.cfg.Slot).Query(func(rows pgx.Rows) error {
		for rows.Next() {
			x, err := scanExplanation(rows)
			if err != nil {
				return err
			}
			out = append(out, x)
		}
		return rows.Err()
	})
	b.Queue(wakesSQL, user, device).Query(func(rows pgx.Rows) error {
		at := 0
		for rows.Next() {
			of, w, err := scanWake(rows)
			if err != nil {
				return err
			}
			for at < len(out) && out[at].Device.Device != of {
				at++
			}
			if at == len(out) {
				return rows.Err() // it registered between the statements
			}
			out[at].Wakes = append(out[at].Wakes, w)
		}
		return rows.Err()
	})
	if err := s.cfg.Pool.SendBatch(ctx, &b).Close(); err != nil {
		return nil, fmt.Errorf("explain devices: %w", err)
	}
	if len(out) == 0 {
		return nil, ErrUnknown
	}
	return out, nil
}

func scanExplanation(row pgx.Row) (Explanation, error) {
	var x Explanation
	var marked, head, acked, due struct {
		epoch, lsn *int64
		seq        *int32
	}
	var since, next, held, before, pushed *time.Time
	err := scanDevice(row, &x.Device, &marked.epoch, &marked.lsn, &head.lsn, &head.seq,
		&x.Listens, &acked.epoch, &acked.lsn, &acked.seq, &due.epoch, &due.lsn, &due.seq,
		&since, &next, &held, &before, &pushed, &x.Urgency, &x.Attempts, &x.Unheard, &x.Session)
	x.Marked = position(marked.epoch, marked.lsn, new(int32))
	x.Head = position(marked.epoch, head.lsn, head.seq)
	x.Acked = position(acked.epoch, acked.lsn, acked.seq)
	x.Due = position(due.epoch, due.lsn, due.seq)
	x.DueSince, x.NextAt, x.HeldUntil = timeOrZero(since), timeOrZero(next), timeOrZero(held)
	x.NotBefore, x.PushedAt = timeOrZero(before), timeOrZero(pushed)
	return x, err
}

func scanWake(row pgx.Row) (device string, w Wake, err error) {
	var epoch, lsn *int64
	var seq *int32
	var answered, pulled, acked *time.Time
	err = row.Scan(&device, &w.Nudge, &w.Road, &epoch, &lsn, &seq, &w.Status, &w.Reason, &w.ID,
		&w.SentAt, &answered, &pulled, &acked)
	w.Head = position(epoch, lsn, seq)
	w.AnsweredAt, w.PulledAt, w.AckedAt = timeOrZero(answered), timeOrZero(pulled), timeOrZero(acked)
	return device, w, err
}

func timeOrZero(t *time.Time) time.Time {
	if t == nil {
		return time.Time{}
	}
	return *t
}
