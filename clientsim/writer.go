package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// writers is how many connections write; what they cannot send in time shows as latency.
const writers = 8

// attempts is how often a transaction is tried that Postgres chose as a deadlock's victim.
const attempts = 5

// write sends commits at start + i/rate until the duration is over. The intended times are fixed in
// advance and never moved, whatever the database's speed: no coordinated omission.
func (s *simulation) write(ctx context.Context, start time.Time) {
	total := int64(s.opts.rate * s.opts.duration.Seconds())
	var next atomic.Int64
	var pool sync.WaitGroup
	for range writers {
		pool.Go(func() {
			for {
				i := next.Add(1) - 1
				intended := start.Add(time.Duration(float64(i) / s.opts.rate * float64(time.Second)))
				if i >= total || waitUntil(ctx, intended) != nil {
					return
				}
				s.commit(ctx, rand.New(rand.NewPCG(s.opts.seed, uint64(i))), intended)
			}
		})
	}
	pool.Wait()
}

func waitUntil(ctx context.Context, t time.Time) error {
	timer := time.NewTimer(time.Until(t))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// commit makes one random transaction of one user's device.
func (s *simulation) commit(ctx context.Context, rng *rand.Rand, intended time.Time) {
	p := s.people[rng.IntN(len(s.people))]
	origin := p.writer(rng)
	w := p.anyWrite(rng)
	var err error
	for range attempts {
		if err = s.attempt(ctx, p, origin, w, intended); err == nil {
			break
		}
		pgErr, ok := errors.AsType[*pgconn.PgError](err)
		if !ok || pgErr.Code != "40P01" && pgErr.Code != "40001" {
			break
		}
		s.stats.retried.Add(1)
	}
	if err != nil {
		if ctx.Err() == nil {
			s.stats.fail(err)
		}
		return
	}
	s.stats.commits.Add(1)
	origin.pull() // the client's rule: after an own write was accepted
}

// attempt runs the write in a transaction that names its origin. The devices' trackers hear of it
// before the commit: a device can show it before this function returns.
func (s *simulation) attempt(ctx context.Context, p *person, origin *member, w write, intended time.Time) error {
	tx, err := s.pool.Begin(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }() // no-op after the commit
	batch := &pgx.Batch{}
	batch.Queue("select pg_logical_emit_message(true, 'nudge.origin', $1::text)", origin.id)
	if w.medication != "" {
		// One order of locks for all: the trigger that keeps the stock would lock it later.
		batch.Queue("select from public.medications where id = $1 for no key update", w.medication)
	}
	e := expected{intended: intended, deleted: w.deletes}
	wrote := false
	var id string
	batch.Queue(w.sql, w.args...).Query(func(rows pgx.Rows) error {
		for rows.Next() {
			if err := rows.Scan(&id, &e.version); err != nil {
				return err
			}
			wrote = true
		}
		return rows.Err()
	})
	if err := tx.SendBatch(ctx, batch).Close(); err != nil {
		return err
	}
	// One row stands for the transaction: a device shows all of it or nothing.
	e.row = row{table: w.table, key: idKey(id)}
	if wrote {
		for _, m := range p.members {
			e.own = m == origin
			m.tracker.expect(e)
		}
	}
	if err := tx.Commit(ctx); err != nil {
		for _, m := range p.members {
			e.own = m == origin
			m.tracker.withdraw(e)
		}
		return err
	}
	if w.inserts {
		p.added(intake{id: id, medication: w.medication})
	}
	return nil
}

// write is one statement of a transaction; it returns id and updated_at of the rows it wrote.
type write struct {
	table      string
	medication string // locked first, "" for none
	sql        string
	args       []any
	deletes    bool
	inserts    bool
}

// The tables that are written and compared.
const (
	medicationsTable = "public.medications"
	intakesTable     = "public.intakes"
)

const tickSQL = `update public.intakes set taken_at = case when taken_at is null then clock_timestamp() end,
	updated_at = clock_timestamp() where id = any ($1::uuid[]) returning id::text, updated_at`

// anyWrite draws one: of a hundred, 80 ticks, 5 inserts, 4 deletes, 5 ticks of several rows, 4 notes
// and 2 renames.
func (p *person) anyWrite(rng *rand.Rand) write {
	draw := rng.IntN(100)
	switch {
	case draw < 5:
		return p.insert(rng)
	case draw < 9:
		if i, ok := p.take(rng); ok {
			return write{
				table: intakesTable, medication: i.medication, deletes: true, args: []any{i.id},
				sql: "delete from public.intakes where id = $1 returning id::text, updated_at",
			}
		}
	case draw < 14:
		if several := p.anyIntakes(rng, 2+rng.IntN(4)); several != nil {
			ids := make([]string, len(several))
			for i := range several {
				ids[i] = several[i].id
			}
			return write{table: intakesTable, medication: several[0].medication, sql: tickSQL, args: []any{ids}}
		}
	case draw < 18:
		if one := p.anyIntakes(rng, 1); one != nil {
			return write{
				table: intakesTable, args: []any{one[0].id, note(rng)},
				sql: `update public.intakes set note = $2, updated_at = clock_timestamp()
					where id = $1 returning id::text, updated_at`,
			}
		}
	case draw < 20:
		return write{
			table: medicationsTable, args: []any{p.anyMedication(rng), fmt.Sprintf("Renamed %d", rng.IntN(1000))},
			sql: `update public.medications set name = $2, updated_at = clock_timestamp()
				where id = $1 returning id::text, updated_at`,
		}
	}
	if one := p.anyIntakes(rng, 1); one != nil {
		return write{table: intakesTable, medication: one[0].medication, sql: tickSQL, args: []any{[]string{one[0].id}}}
	}
	return p.insert(rng)
}

func (p *person) insert(rng *rand.Rand) write {
	m := p.anyMedication(rng)
	return write{
		table: intakesTable, medication: m, inserts: true, args: []any{p.id, m, note(rng)},
		sql: `insert into public.intakes (user_id, medication_id, due_at, note)
			values ($1::text::bigint, $2, now() + interval '1 day', $3) returning id::text, updated_at`,
	}
}

// note is what a person may write: nothing, a word, what JSON must escape, or a text so long that
// Postgres stores it out of line and, being incompressible, leaves it out of later updates.
func note(rng *rand.Rand) *string {
	var text string
	switch rng.IntN(5) {
	case 0:
		return nil
	case 1:
		text = "with food"
	case 2:
		text = "näch dem Frühstück, 朝食後 💊 \"quoted\" \\ \t\n <b>&amp;</b> \u2028"
	case 3:
		text = "1e999 007 9007199254740993"
	default:
		var b strings.Builder
		for range 400 {
			fmt.Fprintf(&b, "%016x ", rng.Uint64())
		}
		text = b.String()
	}
	return &text
}
