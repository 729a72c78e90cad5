package auth_test

import (
	"context"
	"sync"

	"github.com/jackc/pgx/v5"
)

// counter counts what a pool's connections are asked.
type counter struct {
	mu  sync.Mutex
	sum counted
}

type counted struct{ statements, rows int64 }

func (c *counter) TraceQueryStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	return ctx
}

func (c *counter) TraceQueryEnd(_ context.Context, _ *pgx.Conn, end pgx.TraceQueryEndData) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sum.statements++
	c.sum.rows += end.CommandTag.RowsAffected()
}

func (c *counter) count() counted {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.sum
}

func (c counted) minus(d counted) counted {
	return counted{c.statements - d.statements, c.rows - d.rows}
}
