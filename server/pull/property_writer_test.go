package pull_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// write commits random transactions.
func (w *world) write(over context.Context, random *rand.Rand) {
	t := w.rig.t
	conn, err := pgx.Connect(t.Context(), w.rig.dsn)
	if err != nil {
		t.Error(err)
		return
	}
	defer func() { _ = conn.Close(context.Background()) }()
	if _, err := conn.Exec(t.Context(), "set deadlock_timeout = '5ms'"); err != nil {
		t.Error(err)
		return
	}
	for over.Err() == nil && !t.Failed() {
		var sql []string
		focus := place(random)
		for range 1 + random.IntN(5) {
			at := place(random)
			if random.IntN(5) > 0 {
				at.table = focus.table // so that a transaction touches a row more than once
			}
			if random.IntN(3) > 0 {
				at.user, at.id = focus.user, focus.id
			}
			s := at.statement(random)
			switch random.IntN(12) {
			case 0:
				s = "savepoint s; " + s + "; rollback to s"
			case 1:
				s = "savepoint s; " + s + "; release s"
			}
			sql = append(sql, s)
		}
		end := "commit"
		if random.IntN(15) == 0 {
			end = "rollback"
		}
		if random.IntN(6) == 0 {
			end = "set local synchronous_commit = off; " + end // A5
		}
		_, err := conn.Exec(t.Context(), "begin; "+strings.Join(sql, "; ")+"; "+end)
		var pgErr *pgconn.PgError
		switch {
		case err == nil:
			w.commits.Add(1)
		case errors.As(err, &pgErr) && slices.Contains([]string{"40P01", "23505"}, pgErr.Code):
			if _, err := conn.Exec(t.Context(), "rollback"); err != nil {
				t.Errorf("rollback: %v", err)
			}
		default:
			t.Errorf("%s: %v", sql, err)
		}
	}
}

// target is where a statement writes.
type target struct {
	table    string
	user, id int
}

// place is a random one. There are few keys, so that everything meets everything.
func place(random *rand.Rand) target {
	return target{[]string{"notes", "docs", "tags"}[random.IntN(3)], 1 + random.IntN(4), random.IntN(25)}
}

// statement is one random write.
func (to target) statement(random *rand.Rand) string {
	table, user, id, n := to.table, to.user, to.id, random.IntN(1000)
	key := func(id int) string {
		if table == "tags" {
			return fmt.Sprintf("'tag %d'", id)
		}
		return fmt.Sprint(id)
	}
	body := []string{"null", "'short'", fmt.Sprintf("repeat('long %d ', 700)", n)}[random.IntN(3)]
	owner := fmt.Sprint(user)
	if table == "docs" && random.IntN(5) == 0 {
		owner = "null"
	}
	at := "id = " + key(id)
	conflict := "(id)"
	if table == "tags" {
		at += fmt.Sprintf(" and user_id = %d", user)
		conflict = "(user_id, id)"
	}
	switch random.IntN(16) {
	case 0, 1, 2, 3:
		return fmt.Sprintf("insert into %s (user_id, id, n, body) values (%s, %s, %d, %s) on conflict %s do update set n = excluded.n",
			table, map[bool]string{true: fmt.Sprint(user), false: owner}[table == "tags"], key(id), n, body, conflict)
	case 4, 5:
		return fmt.Sprintf("update %s set n = %d where %s", table, n, at)
	case 6:
		return fmt.Sprintf("update %s set body = %s where %s", table, body, at)
	case 7, 8:
		return fmt.Sprintf("update %s set id = %s, n = n + 1 where %s", table, key(random.IntN(25)), at)
	case 9, 10:
		return fmt.Sprintf("update %s set user_id = %s where %s", table, owner, at)
	case 11, 12:
		return fmt.Sprintf("delete from %s where %s", table, at)
	case 13:
		return fmt.Sprintf("update %s set n = n + 1 where user_id = %d", table, user)
	case 14:
		return fmt.Sprintf("delete from %s where user_id = %d and n %% 2 = 0", table, user)
	}
	if random.IntN(6) == 0 {
		return "truncate " + table
	}
	return fmt.Sprintf("delete from %[1]s where %[2]s; insert into %[1]s (user_id, id, n, body) values (%[3]d, %[4]s, %[5]d, %[6]s) on conflict do nothing",
		table, at, user, key(id), n, body)
}
