package main

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/nudgesync/nudge/internal/devpg/pgtest"
	"github.com/nudgesync/nudge/migrations"
	"github.com/nudgesync/nudge/notify/hub"
	"github.com/nudgesync/nudge/server/api"
	"github.com/nudgesync/nudge/server/auth"
	"github.com/nudgesync/nudge/server/config"
)

// I11: where the cap can't be kept, the node does not start.
func TestConnectionsForEveryDSN(t *testing.T) {
	cfg := config.Default()
	cfg.Source.DSN, cfg.Source.SnapshotDSN, cfg.Log.DSN = "postgres://a/db", "postgres://b/db", "postgres://c/db"
	cfg.Source.MaxConnections = 7
	_, err := openDatabases(t.Context(), cfg)
	var invalid *config.Error
	if !errors.As(err, &invalid) || invalid.Key != "source.max_connections" || invalid.Hint == "" {
		t.Errorf("7 connections for three DSNs: %v", err)
	}
}

// While pulls hold every connection that they can get, a revocation is written and followed. With it, all
// connections are one below the cap (I11).
func TestRevocationsHaveTheirOwnConnection(t *testing.T) {
	dsn := pgtest.Database(t)
	if _, err := migrations.Up(t.Context(), dsn); err != nil {
		t.Fatal(err)
	}
	cfg := config.Default()
	cfg.Source.DSN, cfg.Source.MaxConnections = config.Secret(dsn), 6
	cfg.Auth.Keys = []config.AuthKey{{Algorithm: auth.HS256, Secret: config.Secret(strings.Repeat("k", 32))}}
	db, err := openDatabases(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(db.close)
	held := 0
	for _, pool := range db.all {
		held += int(pool.Config().MaxConns)
	}
	if held != cfg.Source.MaxConnections-1 {
		t.Errorf("%d connections in pools, of %d", held, cfg.Source.MaxConnections)
	}
	for range db.log.Config().MaxConns {
		c, err := db.log.Acquire(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(c.Release)
	}

	n := &node{cfg: cfg, log: slog.New(slog.DiscardHandler), db: db, metrics: prometheus.NewRegistry()}
	if err := n.authenticate(); err != nil {
		t.Fatal(err)
	}
	n.api, err = api.New(api.Config{Engine: struct{ api.Engine }{}, Verifier: n.verifier, Hub: hub.New(), Log: n.log})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	stop := start(ctx, make(chan error, 1), n.runAuth)
	defer stop()
	if _, err := n.revoke(ctx, auth.Revocation{User: "7"}); err != nil {
		t.Fatal(err)
	}
	if err := n.revocations.Check(auth.Identity{User: "7"}); err == nil {
		t.Error("user 7 is not locked out")
	}
}
