package changefeed_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/nudgesync/nudge/changefeed"
	"github.com/nudgesync/nudge/changefeed/change"
	"github.com/nudgesync/nudge/internal/devpg/pgtest"
)

// P1: what is received and not stored is not confirmed, however far the server's WAL goes meanwhile; a feed
// that ends there loses nothing.
func TestP01NothingUnstoredIsConfirmed(t *testing.T) {
	r := newRig(t)
	var armed atomic.Bool
	holding, crash := make(chan struct{}, 1), make(chan struct{})
	r.start(func(c *changefeed.Config) {
		c.Failpoint = func(s changefeed.Step) error {
			if s != changefeed.BeforeAppend || !armed.CompareAndSwap(true, false) {
				return nil
			}
			holding <- struct{}{}
			<-crash
			return errors.New("crash")
		}
	})
	before := r.settle()
	armed.Store(true)
	r.exec(`insert into items values (1, 1)`)
	<-holding
	other, err := pgx.Connect(t.Context(), pgtest.Database(t))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = other.Close(context.WithoutCancel(t.Context())) }()
	for range 20 { // more than is worth adopting
		if _, err := other.Exec(t.Context(), `select pg_logical_emit_message(false, 'bulk', repeat('x', 1000000))`); err != nil {
			t.Fatal(err)
		}
	}
	var end string
	r.scan(&end, `select pg_current_wal_flush_lsn()::text`)
	// The feed has heard of all that and answered.
	r.eventually("the server has an answer to it", func() (answered bool) {
		r.scan(&answered, `select coalesce(bool_or(sent_lsn >= $2::pg_lsn and reply_time > now() - interval '1 s'), false)
			from pg_stat_replication s join pg_replication_slots p on p.active_pid = s.pid where p.slot_name = $1`, r.slot, end)
		return answered
	})
	if at := r.confirmed(); at > before.Position {
		t.Errorf("confirmed %s, stored %s", at, before.Position)
	}
	close(crash)
	r.settle()
	r.expect(`u user:1 {"id":1}`)
}

// P3: the server would take any position for granted.
func TestP03Ackable(t *testing.T) {
	for _, c := range []struct {
		durable, reported, server change.LSN
		ok                        bool
	}{
		{10, 0, 10, true},
		{10, 10, 10, true},
		{10, 9, 20, true},
		{11, 9, 10, false}, // the server is not there
		{8, 9, 10, false},  // it would go back
	} {
		if err := changefeed.Ackable(c.durable, c.reported, c.server); (err == nil) != c.ok {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

// A3: one transaction's end is another's commit LSN. The log stands there when the feed crashes: what comes
// next is not skipped.
func TestA03EndIsTheNextCommit(t *testing.T) {
	r := newRig(t)
	stop := r.start(nil)
	r.settle()
	writer, err := pgx.Connect(t.Context(), r.dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = writer.Close(context.WithoutCancel(t.Context())) }()
	write := func(sql string, args ...any) {
		t.Helper()
		if _, err := writer.Exec(t.Context(), sql, args...); err != nil {
			t.Fatal(err)
		}
	}
	for id := 1; id < 40; id += 2 {
		stop()
		r.released()
		// Two commit records, one right behind the other, unless somebody else writes in between.
		write(`begin`)
		write(`insert into items values ($1, 1)`, id+1)
		r.exec(`insert into items values ($1, 1)`, id)
		write(`commit`)
		var stood atomic.Uint64
		stop = r.start(func(c *changefeed.Config) {
			c.MaxBatch = 1 // the second one is not even read before the first is stored
			c.Failpoint = func(s changefeed.Step) error {
				if s != changefeed.AfterAppend || stood.Load() != 0 {
					return nil
				}
				state, err := r.log.Feed(context.Background())
				if err != nil {
					return err
				}
				stood.Store(uint64(state.Position))
				return errors.New("crash")
			}
		})
		r.settle()
		r.check()
		log := r.all()
		if uint64(log[len(log)-1].Pos.LSN) == stood.Load() {
			return
		}
	}
	t.Error("no two commits stood back to back")
}
