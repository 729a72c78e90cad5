package device

import (
	"context"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nudgesync/nudge/changefeed/change"
)

// Event is one thing heard of a device.
type Event struct {
	// Acked is a cursor that the device holds, zero if it named none: the position of an ack, or a pull's since.
	// A cursor in mid-snapshot acknowledges nothing, and must not be given (A6).
	Acked change.Position
	// Pulled: the device asks for changes.
	Pulled bool
	// Served: it was sent a page that is more than "nothing new". That pauses escalation and proves nothing.
	Served bool
	// Nudge is the id that it echoed, if it did.
	Nudge string
	// Session is the id, unique among all nodes, of the session that the device was heard over, or that has Ended.
	Session string
	Ended   bool
}

const (
	flushEvery   = time.Second
	flushTimeout = 10 * time.Second
	// mostFlushed is how many devices are written in one statement: so many that another is the exception, and few
	// enough for flushTimeout. If the database was away for a while there are many.
	mostFlushed = 10_000
	// pause is how long a device that is at it is left alone.
	pause = 30 * time.Second
)

// Inbox gathers what is heard of devices, one entry a device, and writes it once a second. What a crash loses of
// it costs a push too many, never a change.
type Inbox struct {
	store *Store

	mu    sync.Mutex
	heard map[name]entry
}

type name struct{ user, device string }

// entry is what was heard of a device since the last flush.
type entry struct {
	acked  change.Position
	atIt   bool // it pulls, or was served
	refund bool // it runs by itself, not for a push: the platform's budget is whole again
	nudge  string
	// The session that it has, and one that has ended.
	session, ended string
}

// NewInbox returns an inbox of the store, one a node.
func (s *Store) NewInbox() *Inbox { return &Inbox{store: s, heard: map[name]entry{}} }

// Heard notes an event. It does not block, and keeps one entry a device.
func (b *Inbox) Heard(user, device string, e Event) {
	n := entry{acked: e.Acked, atIt: e.Pulled || e.Served}
	woken := strings.HasPrefix(e.Nudge, pushPrefix)
	n.refund = e.Pulled && !woken || e.Session != "" && !e.Ended
	if woken && validText(e.Nudge, maxName) {
		n.nudge = e.Nudge
	}
	if e.Ended {
		n.ended = e.Session
	} else {
		n.session = e.Session
	}
	at := name{user, device}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.heard[at] = b.heard[at].then(n)
}

// then is what was heard first, and next after it.
func (e entry) then(next entry) entry {
	if e.acked.IsZero() || !next.acked.IsZero() && (next.acked.Epoch != e.acked.Epoch || e.acked.Before(next.acked)) {
		e.acked = next.acked
	}
	e.atIt = e.atIt || next.atIt
	e.refund = e.refund || next.refund
	if next.nudge != "" {
		e.nudge = next.nudge
	}
	if next.ended != "" {
		e.ended = next.ended
		if e.session == next.ended {
			e.session = ""
		}
	}
	if next.session != "" {
		e.session = next.session
	}
	return e
}

// flushSQL clears what was acknowledged, and pauses what is on its way. Rows are written only where there is
// something to write: a device that is up to date and stays so costs a look at its row. What acknowledges more than
// has been marked is written down as well, for the marks that are not there yet.
const flushSQL = `
with h as materialized (
  select * from unnest($2::text[], $3::text[], $4::bigint[], $5::bigint[], $6::int[], $7::boolean[], $8::boolean[],
                       $9::text[], $10::text[], $11::text[])
      as h(device, user_id, epoch, lsn, seq, at_it, refund, nudge, session, ended)),
m as materialized (
  select epoch, least(lsn, all_lsn) as lsn from nudge.marking where slot = $1),
locked as materialized (
  select d.device, d.user_id from nudge.due d join h on h.device = d.device and h.user_id = d.user_id left join m on true
   where d.due_epoch is not null and h.at_it
      or (d.due_epoch = h.epoch
          or d.due_epoch is null and (m.epoch is null or (h.epoch, h.lsn, h.seq) > (m.epoch, m.lsn, 0)))
         and (d.acked_epoch is distinct from h.epoch or (d.acked_lsn, d.acked_seq) < (h.lsn, h.seq))
      or h.refund and (d.not_before is not null or d.pushes > 0)
      or h.session is not null and d.session is distinct from h.session
      or d.session = h.ended
   order by d.device for update of d),
pulled as (
  update nudge.wakes w
     set pulled_at = now(), -- and here the acknowledgement too: a statement writes a row once
         acked_at = coalesce(w.acked_at, case when k.device is not null and w.epoch = h.epoch
                                               and (w.lsn, w.seq) <= (h.lsn, h.seq) then now() end)
    from h left join locked k on k.device = h.device
   where w.nudge = h.nudge and w.device = h.device and w.user_id = h.user_id and w.pulled_at is null
  returning w.road, now() - coalesce(w.answered_at, w.sent_at) as after),
acked as (
  update nudge.wakes w set acked_at = now() from h join locked k on k.device = h.device
   where w.device = h.device and w.user_id = h.user_id and w.acked_at is null
     and (w.nudge is distinct from h.nudge or w.pulled_at is not null)
     and w.epoch = h.epoch and (w.lsn, w.seq) <= (h.lsn, h.seq)),
heard as (
  update nudge.due d
     set (acked_epoch, acked_lsn, acked_seq, due_epoch, due_lsn, due_seq, due_since, next_at, not_before, attempts,
          pushes, session)
       = (select case when newer then h.epoch else d.acked_epoch end,
                 case when newer then h.lsn else d.acked_lsn end,
                 case when newer then h.seq else d.acked_seq end,
                 case when not covered then d.due_epoch end,
                 case when not covered then d.due_lsn end,
                 case when not covered then d.due_seq end,
                 case when not covered then d.due_since end,
                 case when covered or d.due_epoch is null then null
                      -- What waited for the budget need not any more.
                      when refunded and d.urgency > 0 and d.next_at >= d.not_before
                      then greatest(now() + $12::interval, d.held_until)
                      when h.at_it then greatest(d.next_at, now() + $12::interval)
                      when h.session is distinct from d.session and h.session is not null
                      then greatest(d.next_at, now() + $13::interval)
                      else d.next_at end,
                 case when not refunded then d.not_before end,
                 case when not covered then d.attempts else 0 end,
                 case when not (covered or h.at_it or h.refund) then d.pushes else 0 end,
                 coalesce(h.session, case when d.session is distinct from h.ended then d.session end)
            from (select h.epoch is not null and (d.acked_epoch is distinct from h.epoch
                           or (d.acked_lsn, d.acked_seq) < (h.lsn, h.seq)) as newer,
                         coalesce(d.due_epoch = h.epoch and (d.due_lsn, d.due_seq) <= (h.lsn, h.seq), false) as covered,
                         -- A device that was just pushed to runs because of that.
                         h.refund and coalesce(d.pushed_at < now() - $12::interval, true) as refunded) x)
    from h join locked k on k.device = h.device and k.user_id = h.user_id
   where d.device = h.device)
select array_agg(road), array_agg(after) from pulled`

// Flush writes what was heard so far, in one statement, or in several of mostFlushed devices. What could not be written
// is kept.
func (b *Inbox) Flush(ctx context.Context) error {
	b.mu.Lock()
	heard := b.heard
	b.heard = map[name]entry{}
	b.mu.Unlock()
	var err error
	for of := range slices.Chunk(slices.Collect(maps.Keys(heard)), mostFlushed) {
		if err == nil {
			attempt, cancel := context.WithTimeout(ctx, flushTimeout)
			err = b.store.flush(attempt, of, heard)
			cancel()
		}
		if err != nil {
			b.keep(of, heard)
		}
	}
	return err
}

// keep puts back what was not written.
func (b *Inbox) keep(of []name, heard map[name]entry) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, at := range of {
		b.heard[at] = heard[at].then(b.heard[at])
	}
}

// Run flushes once a second, and once more after ctx has ended. It is called once; its error is always nil.
func (b *Inbox) Run(ctx context.Context) error {
	tick := time.NewTicker(flushEvery)
	defer tick.Stop()
	failing := false
	for {
		select {
		case <-ctx.Done():
			if err := b.Flush(context.WithoutCancel(ctx)); err != nil {
				b.store.cfg.Log.Warn("the last acknowledgements were not written; their devices may be pushed to once more", "error", err)
			}
			return nil
		case <-tick.C:
		}
		err := b.Flush(ctx)
		switch {
		case ctx.Err() != nil:
		case err != nil && !failing:
			b.store.cfg.Log.Warn("acknowledgements are not written; trying again every second", "error", err)
		case err == nil && failing:
			b.store.cfg.Log.Info("acknowledgements are written again")
		}
		failing = err != nil
	}
}
