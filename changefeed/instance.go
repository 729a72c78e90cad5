package changefeed

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/jackc/pgx/v5/pgconn"
)

// instance is one run of one server: when that began, in microseconds since 1970. A name that leads to another
// server after a failover has the pool and the replication connection reach different ones for a while, also
// if the old one lives on. What is read on one must not be compared with the other, nor a commit of one be
// looked for on the other (P5, I6); so what is read says where.
type instance int64

const instanceSQL = `(extract(epoch from pg_postmaster_start_time()) * 1000000)::bigint`

var errTwoServers = errors.New("check_source: source.dsn leads to different servers at the same time; starting over on the newer connections")

// same fails if something was read elsewhere.
func (i instance) same(other instance) error {
	if i != other {
		return errTwoServers
	}
	return nil
}

// meet has the pool reach the server of the replication connection, and fails if what was read before was read
// elsewhere.
func (f *Feed) meet(ctx context.Context, conn *pgconn.PgConn, read ...instance) error {
	results, err := conn.Exec(ctx, "select "+instanceSQL).ReadAll()
	if err != nil {
		return fmt.Errorf("read server: %w", err)
	}
	n, err := strconv.ParseInt(string(results[0].Rows[0][0]), 10, 64)
	if err != nil {
		return fmt.Errorf("read server: %w", err)
	}
	here := instance(n)
	for _, on := range read {
		if err = errors.Join(err, here.same(on)); err != nil {
			break
		}
	}
	if f.server != here || err != nil {
		f.cfg.Source.Reset() // it may have kept connections to the one before
	}
	f.server = here
	return err
}
