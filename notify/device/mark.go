package device

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/nudgesync/nudge/changefeed/change"
)

// Pass is what one pass of the Marker did.
type Pass struct {
	Busy     bool            // another node is at it, or the log has not begun: nothing was done
	Position change.Position // every change below it has been marked
	Changes  int             // how many were read
	Marked   int             // devices that there was something new for
	More     bool            // there is more to mark already
}

// standing is where marker and log stand.
type standing struct {
	epoch, lsn      *int64 // the marker's; nil: it has not begun
	paging          bool
	now             int64 // the log's epoch
	position, start int64 // and what it has
}

// standingSQL makes the pass the only one, and reads how far it may go. That comes before the statement that reads
// the log, which may have been planned before the newest segment was there; the log does not pass into a
// segment that the planner does not know of yet by the time it has read this.
const standingSQL = `
select m.epoch, m.lsn, coalesce(m.all_after is not null, false), f.epoch, f.position, f.horizon
  from nudge.feed f left join lateral (
       select * from nudge.marking m where m.slot = f.slot for update skip locked) m on true
 where f.slot = $1 and (m.slot is not null or not exists (select from nudge.marking where slot = $1))`

// excludeRegistrations is the other side of excludeMarker.
const excludeRegistrations = `lock table nudge.marking in share row exclusive mode`

const (
	// page is how many devices a pass marks of a change for everybody.
	page = 1000
	// spread is how many of them become due a second.
	spread = 1000
)

// markSQL marks what stands in the log from the marker's position up to $3, and a page of the devices that a change
// for everybody has not been marked for. Of a user's changes, those that a device wrote itself are not counted
// for it, and only those (A17): hence a group by origin.
const markSQL = `
with m as materialized (
  select * from nudge.marking where slot = $1),
read as materialized (
  select c.scope, c.origin, max(array[c.lsn, c.seq]) as head, count(*) as changes,
         max(coalesce(u.urgency, 1)) as urgency
    from nudge.changes c
    left join unnest($4::text[], $5::smallint[]) u(tbl, urgency) on u.tbl = c.tbl
   where not $6 and c.lsn >= (select lsn from m) and c.lsn < $3
     and c.segment >= (select coalesce(max(segment) filter (where from_lsn <= (select lsn from m)), min(segment))
                         from nudge.segments where epoch = $2)
     and c.segment <= (select max(segment) from nudge.segments where epoch = $2)
   group by c.scope, c.origin),
-- Everybody: where the marker cannot go on from where it stood, all that the log has may be news.
everybody as materialized (
  select max(head) as head
    from (select head from read where scope = '*'
          union all select array[$3, 0] where $6) a
  having max(head) is not null),
paged as materialized (
  select d.device from m cross join lateral (
         select device from nudge.due where device > m.all_after order by device limit $7) d
   where not $6 and m.all_after is not null),
news as (
  select d.device, r.head, r.urgency, interval '0' as wait
    from read r join nudge.due d on d.user_id = substr(r.scope, 6)
   where r.scope like 'user:%' and r.origin is distinct from d.device
  union all
  select p.device, coalesce((select head from everybody), array[m.all_lsn, m.all_seq]), 1,
         random() * interval '1 second' * ((m.all_done + (select count(*) from paged))::float8 / $8)
    from paged p cross join m),
marks as (
  select device, max(head) as head, max(urgency) as urgency, max(wait) as wait from news group by device),
locked as materialized (
  select d.device, k.head, k.urgency, k.wait
    from marks k join nudge.due d on d.device = k.device
   where (d.acked_epoch is distinct from $2 or (d.acked_lsn, d.acked_seq) < (k.head[1], k.head[2]))
     and (d.due_epoch is distinct from $2 or (d.due_lsn, d.due_seq) < (k.head[1], k.head[2]))
   order by d.device for update of d),
marked as (
  update nudge.due d
     set due_epoch = $2, due_lsn = k.head[1], due_seq = k.head[2],
         due_since = coalesce(d.due_since, now()),
         urgency = greatest(k.urgency, case when d.due_epoch is not null then d.urgency end),
         -- A deadline stands; only one that is nearer replaces it.
         next_at = least(d.next_at,
           greatest(now() + k.wait + case when d.session is not null then $9::interval else interval '0' end,
                    d.held_until,
                    case when k.urgency = 2
                          and d.app = any($10)
                         then d.pushed_at + $11::interval else d.not_before end)
           + case when k.urgency = 0 then $12::interval else interval '0' end)
    from locked k
   where d.device = k.device
  returning d.device),
-- Another change for everybody does not turn back the pages, but sends them round once more.
pages as materialized (
  select coalesce(e.head, array[m.all_lsn, m.all_seq]) as head,
         case when not $6 and (select count(*) from paged) = $7 then (select max(device) from paged)
              when e.head is not null or m.all_again then '' end as after,
         m.all_after is not null and not $6 and (e.head is not null or m.all_again) as again
    from m left join everybody e on true),
moved as (
  update nudge.marking n
     set epoch = $2, lsn = $3, moved_at = now(), all_after = p.after,
         all_lsn = case when p.after is not null then p.head[1] end,
         all_seq = case when p.after is not null then p.head[2] end,
         all_again = p.after <> '' and p.again,
         all_done = case when p.after <> '' then n.all_done + $7 else 0 end
    from pages p
   where n.slot = $1
  returning n.all_after)
select coalesce((select sum(changes) from read), 0)::bigint, (select count(*) from marked),
       (select all_after is not null from moved)`

// mark makes one pass, over at most so many bytes of WAL.
func (s *Store) mark(ctx context.Context, span int64) (Pass, error) {
	var p Pass
	err := attempts(ctx, func(ctx context.Context) error {
		return pgx.BeginFunc(ctx, s.cfg.Pool, func(tx pgx.Tx) error {
			var err error
			p, err = s.markTx(ctx, tx, span)
			return err
		})
	})
	if err != nil {
		return Pass{}, fmt.Errorf("mark due devices: %w", err)
	}
	return p, nil
}

func (s *Store) markTx(ctx context.Context, tx pgx.Tx, span int64) (Pass, error) {
	var at standing
	err := tx.QueryRow(ctx, standingSQL, s.cfg.Slot).Scan(&at.epoch, &at.lsn, &at.paging, &at.now, &at.position, &at.start)
	if errors.Is(err, pgx.ErrNoRows) {
		return Pass{Busy: true}, nil
	}
	if err != nil {
		return Pass{}, err
	}
	to := func(lsn int64) change.Position {
		return change.Position{Epoch: change.Epoch(at.now), LSN: change.LSN(lsn)}
	}
	anew := at.epoch == nil || *at.epoch != at.now || *at.lsn < at.start
	upto := at.position
	switch {
	case anew:
	case *at.lsn >= at.position && !at.paging:
		return Pass{Position: to(*at.lsn)}, nil
	case upto-*at.lsn > span:
		upto = *at.lsn + span
	}
	p := Pass{Position: to(upto)}
	var b pgx.Batch
	b.Queue(excludeRegistrations)
	if at.epoch == nil {
		b.Queue(`insert into nudge.marking (slot, epoch, lsn) values ($1, $2, $3)`, s.cfg.Slot, at.now, upto)
	}
	b.Queue(markSQL, s.markArgs(at.now, upto, anew)...).QueryRow(func(row pgx.Row) error {
		return row.Scan(&p.Changes, &p.Marked, &p.More)
	})
	if err := tx.SendBatch(ctx, &b).Close(); err != nil {
		return Pass{}, err
	}
	p.More = p.More || upto < at.position
	return p, nil
}

func (s *Store) markArgs(epoch, upto int64, anew bool) []any {
	return []any{s.cfg.Slot, epoch, upto, s.tables, s.urgencies, anew, page, spread, s.cfg.Grace, s.cfg.Alerts, alertAgain, lazyWait}
}
