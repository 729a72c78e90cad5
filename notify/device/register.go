package device

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/nudgesync/nudge/changefeed/change"
)

// excludeMarker lets the transaction see every mark of the passes before it, and every later pass see the
// transaction. A lock of the table, since that is handed out in the order of asking: where devices never cease to
// register, a marker still gets its turn.
const excludeMarker = `lock table nudge.marking in row exclusive mode`

// takeTargetSQL has other device ids lose the target that is registered.
const takeTargetSQL = `
with old as (
  select device from nudge.devices where target_hash = any($2) and device <> $1 order by device for update),
gone as (
  delete from nudge.due using old where due.device = old.device)
update nudge.devices v
   set road = 'none', target = null, target_hash = null, status = 'disabled', reason = '` + ReasonMoved + `'
  from old where v.device = old.device`

// registerSQL writes the registration, unless the device is another user's that may not be taken. A row that
// is as before keeps its time. Both rows are compared as they are when the statement has locked them.
const registerSQL = `
insert into nudge.devices as v (device, user_id, road, target, target_hash, app, environment, app_version, registered_at)
values ($1, $2, $3, $4, $5, $6, $7, $8, now())
on conflict (device) do update
   set (user_id, road, target, target_hash, app, environment, app_version, status, reason, registered_at)
     = (excluded.user_id, excluded.road, excluded.target, excluded.target_hash, excluded.app, excluded.environment,
        excluded.app_version, 'active', null,
        case when v.status = 'active' and (v.user_id, v.road, v.app, v.environment)
                                        = (excluded.user_id, excluded.road, excluded.app, excluded.environment)
                  and (v.target_hash = any($9) or v.road = 'none')
             then v.registered_at else excluded.registered_at end)
 where v.user_id = excluded.user_id or $10
returning ` + deviceCols

// deviceCols are a Device's, in scanDevice's order.
const deviceCols = `v.device, v.user_id, v.road, v.app, v.environment, v.app_version, v.registered_at, v.status, coalesce(v.reason, '')`

func scanDevice(row pgx.Row, d *Device, more ...any) error {
	return row.Scan(append([]any{
		&d.Device, &d.User, &d.Road, &d.App, &d.Environment, &d.AppVersion, &d.RegisteredAt, &d.Status, &d.Reason,
	}, more...)...)
}

// mostDevices is how many registrations a user may have. Where tokens name no device, a user may make up any number of
// them, each of which is marked and pushed to.
const mostDevices = 100

// crowdSQL has the user's other devices make room: first those that no push reaches, then the ones that registered
// longest ago. Whoever registers has the app in the hand. One that had to go and is used yet registers again when its app
// starts.
const crowdSQL = `
delete from nudge.devices where device in (
  select device from nudge.devices where user_id = $1 and device <> $2
   order by status = 'active' and road <> 'none' desc, registered_at desc, device offset $3)`

// enlistSQL gives the device its row of nudge.due, or takes it away from one without a road. A row of this very
// registration stays as it is. Another is due if the marker has passed a change that the device's cursor does not
// cover: one of its user's by another device, or one for everybody. How far the marker is to be looked up only
// here, in a statement after the one that waited for it. Without a cursor of this epoch that the log
// reaches back to, everything is such a change.
const enlistSQL = `
with reg as (
  select v.*, v.registered_at = now() as renewed from nudge.devices v where device = $1),
gone as (
  delete from nudge.due using reg where due.device = reg.device and reg.road = 'none'),
m as (
  select m.epoch, m.lsn, $3::bigint is not distinct from m.epoch and ($4, $5) >= (f.horizon, 0) as follows
    from nudge.marking m join nudge.feed f on f.slot = m.slot and f.epoch = m.epoch where m.slot = $2),
head as (
  select m.epoch, h.lsn, h.seq
    from m cross join reg cross join unnest(array['user:' || reg.user_id, '*']) s(scope)
   cross join lateral (
         select c.lsn, c.seq from nudge.changes c
          where c.scope = s.scope and (c.lsn, c.seq) > ($4, $5) and c.lsn < m.lsn
            and c.origin is distinct from reg.device
            and c.segment >= (select coalesce(max(segment) filter (where from_lsn <= $4), min(segment))
                                from nudge.segments where epoch = m.epoch)
          order by c.lsn desc, c.seq desc limit 1) h
   where m.follows
  union all
  select m.epoch, m.lsn, 0 from m where not m.follows
   order by lsn desc, seq desc limit 1)
insert into nudge.due as d (device, user_id, road, app, environment, acked_epoch, acked_lsn, acked_seq,
       due_epoch, due_lsn, due_seq, due_since, urgency, session, next_at)
select reg.device, reg.user_id, reg.road, reg.app, reg.environment, $3, $4, $5,
       head.epoch, head.lsn, head.seq, case when head.epoch is not null then now() end, 1, $7::text,
       case when head.epoch is not null then now() + $6::interval end
  from reg left join head on true where reg.road <> 'none'
on conflict (device) do update
   set (user_id, road, app, environment, acked_epoch, acked_lsn, acked_seq, due_epoch, due_lsn, due_seq, due_since,
        urgency, session, next_at, held_until, attempts, pushes, nudge)
     = (excluded.user_id, excluded.road, excluded.app, excluded.environment, excluded.acked_epoch, excluded.acked_lsn,
        excluded.acked_seq, excluded.due_epoch, excluded.due_lsn, excluded.due_seq, excluded.due_since,
        excluded.urgency, coalesce(excluded.session, d.session),
        case when excluded.next_at is not null then greatest(excluded.next_at, d.not_before) end, null, 0, 0, null)
 where (select renewed from reg)`

// Register puts a device, and has it due if the log has something for it that its cursor lacks. A target that
// another device id had is taken from it, which is then Disabled, "moved". Another user, target, road, app or
// environment, or not having been Active, renews RegisteredAt; a repetition changes nothing, and what its cursor
// proves is for the Inbox. Beyond a hundred devices of a user, others go. ErrInvalid, ErrForeign.
func (s *Store) Register(ctx context.Context, r Registration) (Device, error) {
	var d Device
	if err := r.validate(); err != nil {
		return d, err
	}
	var sealed, hash []byte
	hashes := s.cfg.Keys.hashes(&r)
	if r.Road != RoadNone {
		var err error
		if sealed, err = s.cfg.Keys.seal(r.Device, r.Target); err != nil {
			return d, fmt.Errorf("seal the device's target: %w", err)
		}
		hash = hashes[0]
	}
	err := attempts(ctx, func(ctx context.Context) error {
		return pgx.BeginFunc(ctx, s.cfg.Pool, func(tx pgx.Tx) error {
			if _, err := tx.Exec(ctx, excludeMarker); err != nil {
				return err
			}
			var b pgx.Batch
			b.Queue(takeTargetSQL, r.Device, hashes)
			b.Queue(registerSQL, r.Device, r.User, r.Road, sealed, hash, r.App, r.Environment, r.AppVersion, hashes, r.Take).
				QueryRow(func(row pgx.Row) error { return scanDevice(row, &d) })
			b.Queue(crowdSQL, r.User, r.Device, mostDevices-1)
			epoch, lsn, seq := nullable(r.Cursor)
			b.Queue(enlistSQL, r.Device, s.cfg.Slot, epoch, lsn, seq, s.cfg.Grace, orNull(r.Session))
			return tx.SendBatch(ctx, &b).Close()
		})
	})
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return Device{}, ErrForeign
	case err != nil:
		return Device{}, fmt.Errorf("register the device: %w", err)
	}
	return d, nil
}

// Get returns the user's device; ErrUnknown.
func (s *Store) Get(ctx context.Context, user, device string) (Device, error) {
	var d Device
	err := scanDevice(s.cfg.Pool.QueryRow(ctx,
		`select `+deviceCols+` from nudge.devices v where v.device = $1 and v.user_id = $2`, device, user), &d)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return d, ErrUnknown
	case err != nil:
		return d, fmt.Errorf("read the device: %w", err)
	}
	return d, nil
}

// Remove forgets the user's device; ErrUnknown.
func (s *Store) Remove(ctx context.Context, user, device string) error {
	tag, err := s.cfg.Pool.Exec(ctx, `delete from nudge.devices where device = $1 and user_id = $2`, device, user)
	switch {
	case err != nil:
		return fmt.Errorf("remove the device: %w", err)
	case tag.RowsAffected() == 0:
		return ErrUnknown
	}
	return nil
}

// nullable are a position's columns.
func nullable(p change.Position) (epoch, lsn *int64, seq *int32) {
	if p.IsZero() {
		return nil, nil, nil
	}
	e, l, n := int64(p.Epoch), int64(p.LSN), int32(p.Seq)
	return &e, &l, &n
}

// position is the inverse of nullable.
func position(epoch, lsn *int64, seq *int32) change.Position {
	if epoch == nil || lsn == nil || seq == nil {
		return change.Position{}
	}
	return change.Position{Epoch: change.Epoch(*epoch), LSN: change.LSN(*lsn), Seq: uint32(*seq)}
}

func orNull(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}
