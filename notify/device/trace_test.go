package device_test

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/nudgesync/nudge/notify/device"
)

// step is a moment on the way to a durable state.
type step int

const (
	beforeStatement step = iota // one that is none of the following
	beforeMark                  // the batch that marks
	beforeCommit                // everything is written
)

// tracer tells a test of every step, and counts statements other than begin, commit and rollback.
type tracer struct {
	at         func(context.Context, *pgx.Conn, step)
	statements atomic.Int64
}

func (tr *tracer) TraceQueryStart(ctx context.Context, conn *pgx.Conn, data pgx.TraceQueryStartData) context.Context {
	switch data.SQL {
	case "commit":
		tr.at(ctx, conn, beforeCommit)
	case "begin", "rollback":
	default:
		tr.statements.Add(1)
		tr.at(ctx, conn, beforeStatement)
	}
	return ctx
}

func (*tracer) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

func (tr *tracer) TraceBatchStart(ctx context.Context, conn *pgx.Conn, data pgx.TraceBatchStartData) context.Context {
	s := beforeStatement
	for _, q := range data.Batch.QueuedQueries {
		if strings.Contains(q.SQL, "update nudge.marking") {
			s = beforeMark
		}
	}
	tr.statements.Add(int64(len(data.Batch.QueuedQueries)))
	tr.at(ctx, conn, s)
	return ctx
}

func (*tracer) TraceBatchQuery(context.Context, *pgx.Conn, pgx.TraceBatchQueryData) {}

func (*tracer) TraceBatchEnd(context.Context, *pgx.Conn, pgx.TraceBatchEndData) {}

// traced is a store over connections that tell of their steps.
func (r *rig) traced(t *testing.T, at func(context.Context, *pgx.Conn, step)) (*device.Store, *tracer) {
	t.Helper()
	pool, err := pgxpool.ParseConfig(r.dsn)
	if err != nil {
		t.Fatal(err)
	}
	tr := &tracer{at: at}
	pool.ConnConfig.Tracer = tr
	cfg := r.cfg
	if cfg.Pool, err = pgxpool.NewWithConfig(t.Context(), pool); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cfg.Pool.Close)
	return device.NewStore(cfg), tr
}

// killedAt is a store whose connection is ended, by the server, whenever it comes to the step.
func (r *rig) killedAt(t *testing.T, when step) *device.Store {
	t.Helper()
	s, _ := r.traced(t, func(ctx context.Context, conn *pgx.Conn, at step) {
		if at != when {
			return
		}
		var gone bool
		err := r.pool.QueryRow(ctx, `select pg_terminate_backend($1, 60000)`, int32(conn.PgConn().PID())).Scan(&gone)
		if err != nil || !gone {
			t.Errorf("end the connection: %v, %v", gone, err)
		}
	})
	return s
}

// stoppedAt is a store that stops at the step, once, tells of it, and waits to be resumed.
func (r *rig) stoppedAt(t *testing.T, when step) (s *device.Store, stopped <-chan struct{}, resume chan<- struct{}) {
	t.Helper()
	is, on := make(chan struct{}), make(chan struct{})
	var once atomic.Bool
	s, _ = r.traced(t, func(_ context.Context, _ *pgx.Conn, at step) {
		if at == when && once.CompareAndSwap(false, true) {
			close(is)
			<-on
		}
	})
	return s, is, on
}
