package main

import (
	"context"
	"fmt"
	"log/slog"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/nudgesync/nudge/changefeed/change"
	"github.com/nudgesync/nudge/changefeed/changelog"
	"github.com/nudgesync/nudge/internal/devpg"
	"github.com/nudgesync/nudge/migrations"
	"github.com/nudgesync/nudge/notify/device"
)

const (
	slot     = "nudge"
	database = "postgres"
)

// stock is a log and its devices, in a Postgres of their own. Commits are synchronous and fsync is on.
type stock struct {
	version string

	cluster    *devpg.Cluster
	admin      *pgx.Conn
	pool       *pgxpool.Pool
	statements *counter
	store      *device.Store
	writer     *changelog.Writer
	users      int
	lsn        change.LSN // the log's position
}

// counter counts the statements of connections.
type counter struct{ n atomic.Int64 }

func (c *counter) TraceQueryStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	c.n.Add(1)
	return ctx
}

func (c *counter) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

func (c *counter) TraceBatchStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceBatchStartData) context.Context {
	return ctx
}

func (c *counter) TraceBatchQuery(context.Context, *pgx.Conn, pgx.TraceBatchQueryData) { c.n.Add(1) }

func (c *counter) TraceBatchEnd(context.Context, *pgx.Conn, pgx.TraceBatchEndData) {}

// connections are as many as a node has for pushes.
const connections = 3

func openPool(ctx context.Context, dsn string, most int32, settings map[string]string) (*pgxpool.Pool, *counter, error) {
	cfg, err := pgxpool.ParseConfig(dsn)
	if err != nil {
		return nil, nil, err
	}
	count := &counter{}
	cfg.MaxConns, cfg.ConnConfig.Tracer = most, count
	for k, v := range settings {
		cfg.ConnConfig.RuntimeParams[k] = v
	}
	pool, err := pgxpool.NewWithConfig(ctx, cfg)
	return pool, count, err
}

func newStore(pool *pgxpool.Pool, log *slog.Logger) (*device.Store, error) {
	keys, err := device.NewKeys(make([]byte, device.KeySize))
	if err != nil {
		return nil, err
	}
	return device.NewStore(device.Config{Pool: pool, Slot: slot, Keys: keys, Grace: 8 * time.Second, Log: log}), nil
}

func openStock(ctx context.Context) (_ *stock, err error) {
	s := &stock{}
	defer func() {
		if err != nil {
			s.close(context.WithoutCancel(ctx))
		}
	}()
	s.cluster, err = devpg.Start(ctx, devpg.Options{Fsync: true, Settings: map[string]string{
		"synchronous_commit": "on", "autovacuum": "off", "max_wal_size": "8GB", "checkpoint_timeout": "1h",
	}})
	if err != nil {
		return nil, err
	}
	if _, err := migrations.Up(ctx, s.dsn()); err != nil {
		return nil, err
	}
	if s.admin, err = pgx.Connect(ctx, s.dsn()); err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	if err := s.admin.QueryRow(ctx, "show server_version").Scan(&s.version); err != nil {
		return nil, fmt.Errorf("ask the version: %w", err)
	}
	if s.pool, s.statements, err = openPool(ctx, s.dsn(), connections, nil); err != nil {
		return nil, err
	}
	if s.store, err = newStore(s.pool, slog.New(slog.DiscardHandler)); err != nil {
		return nil, err
	}
	s.lsn = 1000
	state := changelog.State{Epoch: change.Epoch(0).Next(), Position: s.lsn, SystemID: "1", Timeline: 1, Database: database, Config: []byte("{}"), Reason: "first"}
	// There is no epoch yet, which is said as an error beside the writer that begins one.
	if s.writer, err = changelog.Open(s.pool, slot).Writer(ctx, "bench", 24*time.Hour); s.writer == nil {
		return nil, err
	}
	if err := s.writer.NewEpoch(ctx, state); err != nil {
		return nil, err
	}
	_, err = s.store.NewMarker(nil).Mark(ctx) // where it begins
	return s, err
}

func (s *stock) dsn() string { return s.cluster.DSN(database) }

func (s *stock) close(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if s.pool != nil {
		s.pool.Close()
	}
	if s.admin != nil {
		_ = s.admin.Close(ctx)
	}
	if s.cluster != nil {
		_ = s.cluster.Stop(ctx) // the results do not depend on it
	}
}

func (s *stock) exec(ctx context.Context, sql string, args ...any) error {
	if _, err := s.admin.Exec(ctx, sql, args...); err != nil {
		return fmt.Errorf("%.60s: %w", sql, err)
	}
	return nil
}

// register registers devices that are up to date, three a user.
func (s *stock) register(ctx context.Context, targets []target) error {
	const registering = 8
	// That is preparation, and need not wait for a disk.
	pool, _, err := openPool(ctx, s.dsn(), registering, map[string]string{"synchronous_commit": "off"})
	if err != nil {
		return err
	}
	defer pool.Close()
	store, err := newStore(pool, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	at := change.Position{Epoch: s.writer.State().Epoch, LSN: s.lsn}
	first := s.users * roads
	_, err = share(registering, len(targets), func(i int) error {
		m, n := targets[i].message(""), first+i
		_, err := store.Register(ctx, device.Registration{
			User: strconv.Itoa(n/roads + 1), Device: "device-" + strconv.Itoa(n), Road: targets[i].Road, Target: device.Target(m.Target),
			App: app, Environment: m.Environment, Cursor: at,
		})
		return err
	})
	s.users += len(targets) / roads
	return err
}

// append logs a batch of changes, one transaction each, of users from the first one on in turn.
func (s *stock) append(ctx context.Context, first, users int) error {
	var b changelog.Batch
	for i := range batch {
		b.Changes = append(b.Changes, change.Change{
			Pos:   change.Position{Epoch: s.writer.State().Epoch, LSN: s.lsn, Seq: 1},
			Scope: change.User(strconv.Itoa((first+i%users)%s.users + 1)), Table: "public.intakes", Op: change.Upsert,
			Key: []byte(`{"id":"1"}`), Row: []byte(`{"id":"1","user_id":"1","status":"taken","note":"after breakfast"}`), CommittedAt: time.Now(),
		})
		s.lsn += 200 // bytes of WAL
	}
	b.Next = s.lsn
	return s.writer.Append(ctx, b)
}

// settle has no device be due, and the tables as after a vacuum.
func (s *stock) settle(ctx context.Context) error {
	err := s.exec(ctx, `update nudge.due set due_epoch = null, due_lsn = null, due_seq = null, due_since = null, next_at = null,
		held_until = null, not_before = null, pushed_at = null, attempts = 0, pushes = 0, nudge = null`)
	if err != nil {
		return err
	}
	return s.tidy(ctx)
}

// due has all devices be due now, and urgently, as if they had never been pushed to.
func (s *stock) due(ctx context.Context) error {
	if err := s.exec(ctx, `truncate nudge.wakes`); err != nil {
		return err
	}
	err := s.exec(ctx, `update nudge.due d set due_epoch = m.epoch, due_lsn = m.lsn, due_seq = 0, due_since = now(), urgency = 2,
		next_at = now(), held_until = null, not_before = null, pushed_at = null, attempts = 0, pushes = 0, nudge = null
		from nudge.marking m where m.slot = $1`, slot)
	if err != nil {
		return err
	}
	return s.tidy(ctx)
}

func (s *stock) tidy(ctx context.Context) error {
	for _, sql := range []string{"vacuum analyze nudge.due", "vacuum analyze nudge.devices", "analyze nudge.changes", "checkpoint"} {
		if err := s.exec(ctx, sql); err != nil {
			return err
		}
	}
	return nil
}
