package dev_test

import (
	"errors"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/nudgesync/nudge/internal/devpg/pgtest"
	"github.com/nudgesync/nudge/server/dev"
)

// wrongStock counts the medications that break the demo's invariant.
const wrongStock = `select count(*) from medications m
	where stock <> supplied - (select count(*) from intakes i where i.medication_id = m.id and taken_at is not null)`

func TestPrepareSeedsOnce(t *testing.T) {
	_, conn := prepared(t)
	if n := one[int](t, conn, `select count(*) from users`); n != 7 {
		t.Errorf("%d users, want 7", n)
	}
	if n := one[int](t, conn, `select count(*) from users u where (select count(*) from medications where user_id = u.id) not between 3 and 4`); n != 0 {
		t.Errorf("%d users have not 3 or 4 medications", n)
	}
	planned := one[int](t, conn, `select count(*) from intakes where due_at::date = $1`, noon)
	if planned < 7*3 {
		t.Errorf("%d intakes planned for the day", planned)
	}
	if n := one[int](t, conn, `select count(*) from intakes where user_id = 7 and taken_at is null`); n == 0 {
		t.Error("the demo user has nothing left to tick off")
	}
	if n := one[int](t, conn, wrongStock); n != 0 {
		t.Errorf("the seed leaves %d medications with a wrong stock", n)
	}

	if err := dev.Prepare(t.Context(), conn, noon.Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	if n := one[int](t, conn, `select count(*) from intakes`); n != planned {
		t.Errorf("a second run the same day: %d intakes, want still %d", n, planned)
	}
	if err := dev.Prepare(t.Context(), conn, noon.AddDate(0, 0, 1)); err != nil {
		t.Fatal(err)
	}
	if n := one[int](t, conn, `select count(*) from intakes where due_at::date = $1`, noon.AddDate(0, 0, 1)); n != planned {
		t.Errorf("the next day has %d intakes, want %d", n, planned)
	}
}

func TestPrepareAtTheSameTime(t *testing.T) {
	dsn := pgtest.Database(t)
	var group errgroup.Group
	for range 3 {
		conn := connect(t, dsn)
		group.Go(func() error { return dev.Prepare(t.Context(), conn, noon) })
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	if n := one[int](t, connect(t, dsn), `select count(*) from users`); n != 7 {
		t.Errorf("%d users, want 7", n)
	}
}

func TestPrepareLeavesForeignTablesAlone(t *testing.T) {
	for name, ddl := range map[string]string{
		"another app's users":   `create table users (id uuid primary key, email text)`,
		"one of the demo's own": `create table users (id bigint primary key, name text not null, created_at timestamptz not null)`,
	} {
		t.Run(name, func(t *testing.T) {
			conn := connect(t, pgtest.Database(t))
			exec(t, conn, ddl)
			if err := dev.Prepare(t.Context(), conn, noon); !errors.Is(err, dev.ErrForeignTables) {
				t.Errorf("got %v, want ErrForeignTables", err)
			}
			if n := one[int](t, conn, `select count(*) from pg_class where relname in ('users', 'medications', 'intakes')`); n != 1 {
				t.Errorf("%d of the demo's tables exist, want only the app's own", n)
			}
		})
	}
}

func TestStockFollowsIntakes(t *testing.T) {
	_, conn := prepared(t)
	const someMedication = `(select id from medications where user_id = 7 order by name limit 1)`
	const otherMedication = `(select id from medications where user_id = 7 order by name desc limit 1)`
	for name, statement := range map[string]string{
		"tick off":              `update intakes set taken_at = now() where user_id = 7`,
		"take back":             `update intakes set taken_at = null where user_id = 7`,
		"move the time":         `update intakes set taken_at = taken_at + interval '1 min' where user_id = 7`,
		"move to another":       `update intakes set medication_id = ` + otherMedication + ` where user_id = 7`,
		"move and tick off":     `update intakes set medication_id = ` + otherMedication + `, taken_at = now() where user_id = 7`,
		"insert a taken one":    `insert into intakes (user_id, medication_id, due_at, taken_at) values (7, ` + someMedication + `, now(), now())`,
		"insert an open one":    `insert into intakes (user_id, medication_id, due_at) values (7, ` + someMedication + `, now())`,
		"delete all":            `delete from intakes where user_id = 7`,
		"delete a medication":   `delete from medications where id = ` + someMedication,
		"delete the user":       `delete from users where id = 7`,
		"refill at the side":    `update medications set supplied = supplied + 30, stock = stock + 30 where user_id = 7`,
		"write a note, no tick": `update intakes set note = 'with water' where user_id = 7`,
	} {
		t.Run(name, func(t *testing.T) {
			exec(t, conn, `begin`)
			defer exec(t, conn, `rollback`)
			exec(t, conn, `update intakes set taken_at = now() where id in (select id from intakes where user_id = 7 order by id limit 3)`)
			exec(t, conn, statement)
			if n := one[int](t, conn, wrongStock); n != 0 {
				t.Errorf("%d medications have a wrong stock", n)
			}
		})
	}
}

// Two transactions that tick off the same medication at once each see only their own intake.
func TestStockFollowsConcurrentIntakes(t *testing.T) {
	dsn, conn := prepared(t)
	rows, err := conn.Query(t.Context(), `select i.id from intakes i join medications m on m.id = medication_id
		where m.user_id = 7 and m.name = 'Metformin' and taken_at is null`)
	if err != nil {
		t.Fatal(err)
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil || len(ids) != 2 {
		t.Fatalf("%d open intakes of one medication, want 2 (%v)", len(ids), err)
	}
	first, second := connect(t, dsn), connect(t, dsn)
	exec(t, first, `begin; update intakes set taken_at = now() where id = '`+ids[0]+`'`)
	exec(t, second, `begin`)
	var group errgroup.Group
	group.Go(func() error { // waits for the first at the medication's row
		_, err := second.Exec(t.Context(), `update intakes set taken_at = now() where id = '`+ids[1]+`'; commit`)
		return err
	})
	for one[int](t, conn, `select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`) == 0 {
		continue // until the second one waits
	}
	exec(t, first, `commit`)
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	if n := one[int](t, conn, wrongStock); n != 0 {
		t.Errorf("%d medications have a wrong stock", n)
	}
}

func TestUpdatesTouchTheirTime(t *testing.T) {
	_, conn := prepared(t)
	for _, table := range []string{"medications", "intakes"} {
		before := one[time.Time](t, conn, `select max(updated_at) from `+table)
		exec(t, conn, `update `+table+` set user_id = user_id, updated_at = 'epoch'`)
		if n := one[int](t, conn, `select count(*) from `+table+` where updated_at <= $1`, before); n != 0 {
			t.Errorf("%s: %d rows kept their time", table, n)
		}
	}
}
