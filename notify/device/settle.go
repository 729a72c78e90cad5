package device

import (
	"context"
	"fmt"
	"time"
)

// Verdict is what a push's answer means for the device.
type Verdict string

// The verdicts.
const (
	Accepted   Verdict = "accepted"   // the provider has it: wait for the pull, repeat if none comes
	Later      Verdict = "later"      // the device stays due, After from now
	Unsent     Verdict = "unsent"     // likewise, and nothing was sent: as if it had not been claimed
	Disable    Verdict = "disable"    // the target is gone
	Quarantine Verdict = "quarantine" // the target does not fit
)

// Result is what became of one claimed device.
type Result struct {
	Device       string
	Nudge        string    // Due's: a result of a claim that is over changes nothing but the ledger
	Hash         []byte    // Due's: Disable and Quarantine hit the registration that was pushed to and no later one
	RegisteredAt time.Time // Due's, likewise
	Verdict      Verdict
	Reason       string        // as the provider put it
	ID           string        // the provider's own id of the push, if it has one
	After        time.Duration // of Later and Unsent; a Disable that does not apply is tried again after that, or a minute
	// Gone, if not zero, is since when the provider knows the target to be gone (APNs 410): a device that
	// registered after that is not disabled.
	Gone time.Time
}

// Interval is the least time between two pushes to a device: what Apple lets through of background pushes,
// and the rate at which FCM refills a device's collapsible messages. Web Push has FCM's.
func Interval(road string) time.Duration {
	if road == RoadAPNs {
		return 20 * time.Minute
	}
	return 3 * time.Minute
}

// interval is Interval, or what the store was told.
func (s *Store) interval(road string) time.Duration {
	if own, ok := s.cfg.Intervals[road]; ok {
		return own
	}
	return Interval(road)
}

const (
	longestRepeat = 24 * time.Hour
	// alertAgain is how long after a push a device may be shown an alert, whatever its budget.
	alertAgain = time.Minute
)

// settleSQL settles claims that are still held: the nudge's id is the claim. One that was given back unsent is
// undone, its line in the ledger too. A push that was accepted spends the budget. Then a head that moved while the
// push was on its way is announced by the next one; one that is not acknowledged is announced again, at intervals that
// double.
const settleSQL = `
with r as materialized (
  select * from unnest($1::text[], $2::text[], $3::bytea[], $4::timestamptz[], $5::text[], $6::text[], $7::text[],
                       $8::interval[], $9::timestamptz[])
      as r(device, nudge, hash, registered_at, verdict, reason, id, after, gone)),
targets as (
  select v.device, case r.verdict when 'disable' then 'disabled' else 'quarantined' end as status, r.reason
    from nudge.devices v join r on r.device = v.device
   where r.verdict in ('disable', 'quarantine') and v.status = 'active' and v.target_hash = r.hash
     and v.registered_at = r.registered_at and (r.gone is null or r.gone > v.registered_at)
   order by v.device for update of v),
silenced as (
  update nudge.devices v set status = t.status, reason = t.reason from targets t where v.device = t.device),
held as (
  select d.device from nudge.due d join r on r.device = d.device where d.nudge = r.nudge
      or d.device in (select device from targets)
   order by d.device for update of d),
gone as (
  delete from nudge.due d using held h, targets t where d.device = h.device and d.device = t.device),
unsent as (
  delete from nudge.wakes w using r where r.verdict = 'unsent' and w.nudge = r.nudge and w.answered_at is null),
ledger as (
  update nudge.wakes w
     set status = r.verdict, reason = r.reason, provider_id = r.id, answered_at = now()
    from r where w.nudge = r.nudge and w.answered_at is null and r.verdict <> 'unsent')
update nudge.due d
   set (pushed_at, not_before, held_until, attempts, pushes, urgency, next_at, nudge)
     = (select case when accepted then now() else d.pushed_at end,
               case when accepted then now() + every else d.not_before end,
               case when not accepted then now() + pause end,
               case when accepted then 0 else greatest(0, d.attempts - unsent::int) end,
               d.pushes + accepted::int,
               -- Who was shown an alert is not shown it again for having slept through it.
               case when accepted and not moved then least(d.urgency, 1) else d.urgency end,
               case when d.due_epoch is null then null
                    when not accepted then now() + pause
                    when not moved then now() + least(every * 2 ^ least(d.pushes, 16), $10::interval)
                    when d.urgency = 2 and d.app = any($11) then now() + $12::interval
                    else now() + every end,
               null
          from (select r.verdict = 'accepted' as accepted, r.verdict = 'unsent' as unsent,
                       case d.road when 'apns' then $13::interval when 'fcm' then $14::interval else $15::interval end as every,
                       greatest(r.after, case when r.verdict in ('later', 'unsent') then interval '0' else interval '1 minute' end) as pause,
                       (d.due_epoch, d.due_lsn, d.due_seq) > (w.epoch, w.lsn, w.seq) as moved) x)
  from r
  join held h on h.device = r.device
  join nudge.wakes w on w.nudge = r.nudge
 where d.device = r.device and d.nudge = r.nudge and not exists (select from targets t where t.device = r.device)`

// Settle writes what became of claimed devices, in one statement.
func (s *Store) Settle(ctx context.Context, results []Result) error {
	n := len(results)
	if n == 0 {
		return nil
	}
	device, nudge, hash, registered := make([]string, n), make([]string, n), make([][]byte, n), make([]time.Time, n)
	verdict, reason, id := make([]string, n), make([]*string, n), make([]*string, n)
	after, gone := make([]time.Duration, n), make([]*time.Time, n)
	for i := range results {
		r := &results[i]
		device[i], nudge[i], hash[i], registered[i] = r.Device, r.Nudge, r.Hash, r.RegisteredAt
		verdict[i], reason[i], id[i], after[i] = string(r.Verdict), orNull(printable(r.Reason)), orNull(printable(r.ID)), r.After
		if !r.Gone.IsZero() {
			gone[i] = &r.Gone
		}
	}
	err := attempts(ctx, func(ctx context.Context) error {
		_, err := s.cfg.Pool.Exec(ctx, settleSQL, device, nudge, hash, registered, verdict, reason, id, after, gone,
			longestRepeat, s.cfg.Alerts, alertAgain, s.interval(RoadAPNs), s.interval(RoadFCM), s.interval(RoadWebPush))
		return err
	})
	if err != nil {
		return fmt.Errorf("settle pushes: %w", err)
	}
	return nil
}
