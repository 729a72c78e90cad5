package device

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/nudgesync/nudge/changefeed/change"
)

// Due is a device that a worker has claimed: nobody else gets it before Lease has passed.
type Due struct {
	User, Device string
	Road         string
	App          string
	Environment  string
	Target       Target
	RegisteredAt time.Time
	Hash         []byte // of the target; for Settle
	Nudge        string // the push's id, opaque: "p.…"
	Head         change.Position
	Urgency      Urgency
	Attempts     int           // in a row, this one included, since a push was last accepted
	DueFor       time.Duration // by the database's clock, which a node's own need not agree with
}

// Lease is how long a claimed device is left to the worker that has it. One that was killed has its devices
// claimed again after that.
const Lease = time.Minute

// pushPrefix begins the id of every push, and of nothing else.
const pushPrefix = "p."

// pickAppsSQL reads no other devices than those of the apps, however many others are due. It may lock
// more than it picks, until the statement ends.
const pickAppsSQL = `
with picked as materialized (
  select l.device from unnest($6::text[]) a(app) cross join lateral (
         select d.device, d.next_at from nudge.due d
          where d.road = $1 and d.app = a.app and d.environment = $5 and d.next_at <= now() and d.urgency >= $4
          order by d.next_at limit $2 for update of d skip locked) l
   order by l.next_at limit $2),`

// pickOthersSQL reads the road's devices in the order of their times, until it has enough.
const pickOthersSQL = `
with picked as materialized (
  select d.device from nudge.due d
   where d.road = $1 and ($5 = '' or d.environment = $5) and d.app <> all($6) and d.next_at <= now() and d.urgency >= $4
   order by d.next_at limit $2 for update of d skip locked),`

// claimSQL skips rows that another worker has, and so waits for nobody. Who was revoked since registering is
// found here and never claimed; the row goes, so that the next claim does not find it again. The ledger's line is
// written first, for a phone that pulls before its provider's answer is settled.
const claimSQL = `
revoked as (
  update nudge.devices v set status = 'disabled', reason = '` + ReasonRevoked + `'
    from picked p
   where v.device = p.device and exists (
         select from nudge.revocations r
          where r.user_id = v.user_id and r.device in ('', v.device) and r.jti = ''
            and r.at >= v.registered_at and (r.until is null or r.until > now()))
  returning v.device),
gone as (
  delete from nudge.due d using revoked r where d.device = r.device),
claimed as (
  update nudge.due d
     set next_at = now() + $3::interval, held_until = now() + $3::interval, attempts = d.attempts + 1,
         nudge = '` + pushPrefix + `' || replace(gen_random_uuid()::text, '-', '')
    from picked p join nudge.devices v on v.device = p.device
   where d.device = p.device and not exists (select from revoked r where r.device = p.device)
  returning d.device, d.user_id, d.road, d.app, d.environment, v.target, v.target_hash, v.registered_at, d.nudge,
            d.due_epoch, d.due_lsn, d.due_seq, d.urgency, d.attempts, d.due_since),
ledger as (
  insert into nudge.wakes (nudge, device, user_id, road, epoch, lsn, seq, status, sent_at)
  select nudge, device, user_id, road, due_epoch, due_lsn, due_seq, 'sent', now() from claimed)
select device, user_id, road, app, environment, target, target_hash, registered_at, nudge,
       due_epoch, due_lsn, due_seq, urgency, attempts, now() - due_since from claimed`

// unreadable is when a device is tried again whose target no configured key opens.
const unreadable = time.Hour

// Selection is the due devices that a sender is for. Those of other apps, roads or environments cost it nothing,
// unless it is for Others.
type Selection struct {
	Road        string
	Environment string   // "", which is for Others alone: any
	Apps        []string // devices of these apps
	Others      bool     // or, instead, of all apps but these
	Urgency     Urgency  // and only of this urgency or a higher one
}

func claimStatement(of Selection, n int) (sql string, args []any) {
	sql = pickAppsSQL
	if of.Others {
		sql = pickOthersSQL
	}
	apps := of.Apps
	if apps == nil {
		apps = []string{}
	}
	return sql + claimSQL, []any{of.Road, n, Lease, of.Urgency, of.Environment, apps}
}

// Claim takes up to n of the selected devices whose time has come, the longest overdue first.
func (s *Store) Claim(ctx context.Context, of Selection, n int) ([]Due, error) {
	sql, args := claimStatement(of, n)
	var out []Due
	var sealed [][]byte
	err := attempts(ctx, func(ctx context.Context) error {
		out, sealed = nil, nil
		rows, err := s.cfg.Pool.Query(ctx, sql, args...)
		if err != nil {
			return err
		}
		var d Due
		var target []byte
		var lsn int64
		_, err = pgx.ForEachRow(rows, []any{
			&d.Device, &d.User, &d.Road, &d.App, &d.Environment, &target, &d.Hash, &d.RegisteredAt, &d.Nudge,
			&d.Head.Epoch, &lsn, &d.Head.Seq, &d.Urgency, &d.Attempts, &d.DueFor,
		}, func() error {
			d.Head.LSN = change.LSN(lsn)
			out, sealed = append(out, d), append(sealed, target)
			d, target = Due{}, nil
			return nil
		})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("claim due devices: %w", err)
	}
	readable := out[:0]
	var lost []Result
	for i, d := range out {
		if d.Target, err = s.cfg.Keys.open(d.Device, sealed[i]); err == nil {
			readable = append(readable, d)
			continue
		}
		s.cfg.Log.Error("a device cannot be pushed to", "device", d.Device, "error", err,
			"hint", "give the key that sealed it back to push.token_key, behind the present one")
		lost = append(lost, Result{Device: d.Device, Nudge: d.Nudge, Verdict: Later, Reason: "target_unreadable", After: unreadable})
	}
	if len(lost) > 0 {
		if err := s.Settle(ctx, lost); err != nil {
			return readable, err
		}
	}
	return readable, nil
}
