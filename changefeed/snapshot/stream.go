package snapshot

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
)

// stream runs a query whose rows come a few at a time, so that what the page has no room for is never sent:
// a portal of the extended protocol, executed for some rows and then for more. It reports whether g has been
// given all rows there are. Parameters and results are text.
//
// It speaks below pgconn, which asks for all rows at once. After an error of the server's the connection is
// as good as before; after any other it is closed.
func stream(ctx context.Context, conn *pgconn.PgConn, sql string, params [][]byte, g *gathering) (all bool, err error) {
	working := context.AfterFunc(ctx, func() { _ = conn.Conn().SetDeadline(time.Unix(1, 0)) })
	fe := conn.Frontend()
	fe.SendParse(&pgproto3.Parse{Query: sql})
	fe.SendBind(&pgproto3.Bind{Parameters: params})
	fe.SendDescribe(&pgproto3.Describe{ObjectType: 'P'})
	all, err = execute(fe, g)
	failed := err
	var pgErr *pgconn.PgError
	if failed == nil || errors.As(failed, &pgErr) {
		failed = finish(fe)
	}
	err = errors.Join(err, failed)
	if !working() {
		failed = fmt.Errorf("read rows: %w", ctx.Err())
		err = failed
	}
	if failed != nil {
		abandon(ctx, conn)
	}
	return all, err
}

// execute gives g the portal's rows.
func execute(fe *pgproto3.Frontend, g *gathering) (all bool, err error) {
	for {
		n := g.next()
		if n == 0 {
			return false, nil
		}
		fe.SendExecute(&pgproto3.Execute{MaxRows: uint32(n)})
		fe.Send(&pgproto3.Flush{})
		if err := fe.Flush(); err != nil {
			return false, err
		}
		for more := false; !more; {
			message, err := fe.Receive()
			if err != nil {
				return false, err
			}
			switch m := message.(type) {
			case *pgproto3.RowDescription:
				g.columns(m.Fields)
			case *pgproto3.DataRow:
				g.add(m.Values)
			case *pgproto3.PortalSuspended:
				more = true
			case *pgproto3.CommandComplete:
				return true, nil
			case *pgproto3.ErrorResponse:
				return false, pgconn.ErrorResponseToPgError(m)
			}
		}
	}
}

// finish ends the portal and its transaction.
func finish(fe *pgproto3.Frontend) error {
	fe.SendSync(&pgproto3.Sync{})
	if err := fe.Flush(); err != nil {
		return err
	}
	for {
		message, err := fe.Receive()
		if err != nil {
			return err
		}
		switch m := message.(type) {
		case *pgproto3.ReadyForQuery:
			return nil
		case *pgproto3.ErrorResponse:
			return pgconn.ErrorResponseToPgError(m)
		}
	}
}

// abandon closes a connection in the middle of a query, which the server need not go on with.
func abandon(ctx context.Context, conn *pgconn.PgConn) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	_ = conn.CancelRequest(ctx) // it notices by itself, later
	_ = conn.Close(ctx)
}
