package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// What a person starts with.
const (
	medicationsEach = 3
	intakesEach     = 6 // of each medication
)

// User ids are drawn from a range far above the demo's, so that runs do not meet, and below 2⁵³, so
// that they are exact in any JSON reader.
const (
	lowestUser = 1_000_000_000_000
	userRange  = 9_000_000_000_000_000 - lowestUser
)

// intake is a row that a writer may touch.
type intake struct{ id, medication string }

// person is a user of the app, with what exists of theirs in the source.
type person struct {
	id      string
	members []*member

	mu          sync.Mutex
	medications []string
	intakes     []intake
}

// populate creates the users and their rows.
func populate(ctx context.Context, pool *pgxpool.Pool, users int) ([]*person, error) {
	// Not from the seed: two runs with one seed must not share users.
	base := lowestUser + rand.Int64N(userRange-int64(users))
	people := make([]*person, users)
	byID := make(map[string]*person, users)
	for i := range people {
		people[i] = &person{id: strconv.FormatInt(base+int64(i), 10)}
		byID[people[i].id] = people[i]
	}
	last := base + int64(users) - 1
	err := pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `insert into public.users (id, name)
			select u, 'Simulated ' || u from generate_series($1::bigint, $2::bigint) u`, base, last); err != nil {
			return err
		}
		var user, medication, id string
		rows, err := tx.Query(ctx, `insert into public.medications (user_id, name, dose, color, supplied, stock)
			select u, 'Medication ' || n, n || ' mg', 'sky', 1000, 1000
			  from generate_series($1::bigint, $2::bigint) u, generate_series(1, $3::int) n
			returning user_id::text, id::text`, base, last, medicationsEach)
		if err != nil {
			return err
		}
		if _, err := pgx.ForEachRow(rows, []any{&user, &medication}, func() error {
			byID[user].medications = append(byID[user].medications, medication)
			return nil
		}); err != nil {
			return err
		}
		rows, err = tx.Query(ctx, `insert into public.intakes (user_id, medication_id, due_at)
			select m.user_id, m.id, now() + n * interval '8 hours'
			  from public.medications m, generate_series(1, $3::int) n where m.user_id between $1 and $2
			returning user_id::text, medication_id::text, id::text`, base, last, intakesEach)
		if err != nil {
			return err
		}
		_, err = pgx.ForEachRow(rows, []any{&user, &medication, &id}, func() error {
			byID[user].intakes = append(byID[user].intakes, intake{id: id, medication: medication})
			return nil
		})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("create users: %w", err)
	}
	return people, nil
}

// anyIntakes picks n intakes of one medication, or fewer if there are not so many.
func (p *person) anyIntakes(rng *rand.Rand, n int) []intake {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.intakes) == 0 {
		return nil
	}
	first := p.intakes[rng.IntN(len(p.intakes))]
	out := []intake{first}
	for _, i := range p.intakes {
		if len(out) < n && i.medication == first.medication && i != first {
			out = append(out, i)
		}
	}
	return out
}

func (p *person) anyMedication(rng *rand.Rand) string {
	return p.medications[rng.IntN(len(p.medications))] // fixed once created
}

func (p *person) added(i intake) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.intakes = append(p.intakes, i)
}

// take removes an intake that is to be deleted; none if few are left.
func (p *person) take(rng *rand.Rand) (intake, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.intakes) <= medicationsEach {
		return intake{}, false
	}
	i := rng.IntN(len(p.intakes))
	out := p.intakes[i]
	p.intakes = slices.Delete(p.intakes, i, i+1)
	return out, true
}
