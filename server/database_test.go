package main

import (
	"errors"
	"testing"

	"github.com/nudgesync/nudge/server/config"
)

// I11: where the cap can't be kept, the node does not start.
func TestConnectionsForEveryDSN(t *testing.T) {
	cfg := config.Default()
	cfg.Source.DSN, cfg.Source.SnapshotDSN, cfg.Log.DSN = "postgres://a/db", "postgres://b/db", "postgres://c/db"
	cfg.Source.MaxConnections = 6
	_, err := openDatabases(t.Context(), cfg)
	var invalid *config.Error
	if !errors.As(err, &invalid) || invalid.Key != "source.max_connections" || invalid.Hint == "" {
		t.Errorf("6 connections for three DSNs: %v", err)
	}
}
