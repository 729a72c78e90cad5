package changefeed

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/nudgesync/nudge/changefeed/change"
	"github.com/nudgesync/nudge/changefeed/changelog"
)

// lookEvery is how often a slot's creation that has to wait looks what for.
const lookEvery = time.Second

// slot is what the server says of our slot.
type slot struct {
	exists    bool
	on        instance // where it was looked for
	plugin    string
	database  string
	elsewhere bool // it is of another database
	active    bool
	pid       int32 // who has it; 0: nobody
	confirmed change.LSN
	walStatus string
	invalid   string // invalidation_reason, from 17 on
}

// lost says why the slot can't be streamed any more; "" if it can. It reads codes, never error texts (P9).
func (s *slot) lost() string {
	switch {
	case s.invalid == "idle_timeout": // idle_replication_slot_timeout, from 18 on
		return "the slot was idle for too long"
	case s.invalid == "wal_removed", s.invalid == "" && s.walStatus == "lost": // max_slot_wal_keep_size
		return "the slot has lost WAL"
	case s.invalid != "", s.walStatus == "lost":
		return "the slot was invalidated"
	}
	return ""
}

func (f *Feed) readSlot(ctx context.Context) (slot, error) {
	var s slot
	var confirmed string
	// invalidation_reason is of Postgres 17.
	err := f.cfg.Source.QueryRow(ctx, `
select s.slot_name is not null, `+instanceSQL+`, coalesce(plugin::text, ''), coalesce(database::text, ''), database is distinct from current_database(), coalesce(active, false), coalesce(active_pid, 0), coalesce(confirmed_flush_lsn, '0/0')::text,
       coalesce(wal_status, ''), coalesce(to_jsonb(s) ->> 'invalidation_reason', '')
  from (select) here left join pg_replication_slots s on s.slot_name = $1`, f.cfg.Slot).
		Scan(&s.exists, &s.on, &s.plugin, &s.database, &s.elsewhere, &s.active, &s.pid, &confirmed, &s.walStatus, &s.invalid)
	if err != nil {
		return s, fmt.Errorf("read slot: %w", err)
	}
	s.confirmed, err = change.ParseLSN(confirmed)
	return s, err
}

// createSlot makes the slot and returns where it begins. The server waits for every transaction that is open
// now; Waiting names them meanwhile (P9).
func (f *Feed) createSlot(ctx context.Context, srv server) (change.LSN, error) {
	conn, err := f.cfg.Source.Acquire(ctx)
	if err != nil {
		return 0, fmt.Errorf("create slot: %w", err)
	}
	defer conn.Release()
	sql := `select lsn::text from pg_create_logical_replication_slot($1, 'pgoutput')`
	if srv.failoverSlots() { // standbys that synchronize slots get a copy of it (P6)
		sql = `select lsn::text from pg_create_logical_replication_slot($1, 'pgoutput', failover => true)`
	}
	pid := conn.Conn().PgConn().PID()
	looking, enough := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		f.lookWhatFor(looking, pid)
	}()
	var at string
	err = pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		// As long as it takes: who gives up and begins again has new writers to wait for.
		if _, err := tx.Exec(ctx, `set local lock_timeout = 0; `+changelog.Unhurried); err != nil {
			return err
		}
		return tx.QueryRow(ctx, sql, f.cfg.Slot).Scan(&at)
	})
	enough()
	<-done
	f.waiting.Store(nil)
	if err != nil {
		return 0, fmt.Errorf("create slot: %w", err)
	}
	return change.ParseLSN(at)
}

// lookWhatFor keeps Waiting's answer: what the backend waits for.
func (f *Feed) lookWhatFor(ctx context.Context, pid uint32) {
	since := time.Now()
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		var pids []int32
		if err := f.cfg.Source.QueryRow(ctx, `select pg_blocking_pids($1)`, int32(pid)).Scan(&pids); err != nil || len(pids) == 0 {
			continue // it may wait for something else, such as the disk
		}
		if f.waiting.Swap(&waiting{what: "slot: waiting", pids: pids, since: since}) == nil {
			f.cfg.Logger.Warn("the slot can't be made while transactions are open that were open before: waiting for them",
				"slot", f.cfg.Slot, "pids", pids, "hint", "select pid, xact_start, query from pg_stat_activity where pid in (…); 0 is a prepared transaction")
		}
	}
}

// holder is who has the slot while this feed waits for it.
type holder struct {
	pid           int32
	since, looked time.Time
}

// lookAtHolder tells one that can't go on from a feed that streams. A feed that was killed while its slot was made
// leaves a backend that holds the slot as long as a transaction is open that was open before (P9); and a slot that
// somebody else reads is never free.
func (f *Feed) lookAtHolder(ctx context.Context, pid int32) {
	now := time.Now()
	if f.holder.pid != pid {
		f.holder = holder{pid: pid, since: now}
		f.waiting.Store(nil)
	}
	if now.Sub(f.holder.looked) < lookEvery {
		return
	}
	f.holder.looked = now
	var pids []int32
	var streams bool
	err := f.cfg.Source.QueryRow(ctx, `
select pg_blocking_pids($1), exists (select from pg_stat_activity where pid = $1 and application_name = $2)`, pid, streamName).Scan(&pids, &streams)
	if err != nil {
		return // it is asked again
	}
	if len(pids) == 0 && (streams || now.Sub(f.holder.since) < f.pace.holder) {
		f.waiting.Store(nil)
		return
	}
	w := &waiting{what: fmt.Sprintf("slot: held by process %d, which is not a feed that streams", pid), pids: pids, since: f.holder.since}
	if len(pids) > 0 {
		w.what = fmt.Sprintf("slot: held by process %d, which waits", pid)
	}
	if f.waiting.Swap(w) == nil {
		f.cfg.Logger.Warn("the slot is held by a process that does not stream it: waiting for that", "slot", f.cfg.Slot, "pid", pid, "waits_for", pids,
			"hint", "select * from pg_stat_activity where pid in (…); 0 is a prepared transaction. End what it waits for, or the process: select pg_terminate_backend(pid)")
	}
}

// waiting is what stands in the way, and of what.
type waiting struct {
	what     string
	pids     []int32  // of open transactions; 0: of one that is prepared
	prepared []string // names of prepared transactions
	since    time.Time
}

// Waiting names what has to end before the feed, or what depends on it, can go on, and for how long it has waited;
// nil if there is nothing. It is safe for concurrent use.
func (f *Feed) Waiting() error {
	w := f.waiting.Load()
	if w == nil {
		return nil
	}
	names := make([]string, 0, len(w.pids)+len(w.prepared))
	for _, pid := range w.pids {
		if pid == 0 {
			names = append(names, "that is prepared") // pg_blocking_pids has no other name for it
		} else {
			names = append(names, "of process "+strconv.Itoa(int(pid)))
		}
	}
	for range w.prepared { // their names are the app's, and for the log alone
		names = append(names, "that is prepared")
	}
	what := w.what
	if len(names) > 0 {
		what += " for an open transaction " + strings.Join(names, " and ")
	}
	return fmt.Errorf("%s, for %s now", what, time.Since(w.since).Round(time.Second))
}
