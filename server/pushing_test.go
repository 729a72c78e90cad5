package main

import (
	"log/slog"
	"testing"
	"time"

	"github.com/nudgesync/nudge/internal/devpg/pgtest"
	"github.com/nudgesync/nudge/migrations"
	"github.com/nudgesync/nudge/notify/device"
	"github.com/nudgesync/nudge/notify/push"
)

// What the dispatcher gives back unsent is no attempt: a breaker that opens must not lengthen the pauses of
// devices that had nothing to do with it, nor fill the ledger.
func TestUnsentClaimsAreNoAttempts(t *testing.T) {
	dsn := pgtest.Database(t)
	if _, err := migrations.Up(t.Context(), dsn); err != nil {
		t.Fatal(err)
	}
	keys, err := device.NewKeys(make([]byte, device.KeySize))
	if err != nil {
		t.Fatal(err)
	}
	pool := pgtest.Pool(t, dsn)
	store := device.NewStore(device.Config{Pool: pool, Slot: "nudge", Keys: keys, Log: slog.New(slog.DiscardHandler)})
	_, err = store.Register(t.Context(), device.Registration{
		User: "7", Device: "phone", Road: device.RoadFCM, Target: device.Target{Kind: "token", Value: "token"},
		App: "app", Environment: push.Production,
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := pool.Exec(t.Context(), `update nudge.due set due_epoch = 1, due_lsn = 1, due_seq = 1, due_since = now(), next_at = now()`); err != nil {
		t.Fatal(err)
	}
	lane := push.Selection{Road: push.FCM, Environment: push.Production, Apps: []string{"app"}}
	claim := func() push.Due {
		t.Helper()
		due, err := dueStore{store}.Claim(t.Context(), lane, 10)
		if err != nil || len(due) != 1 {
			t.Fatalf("%+v, %v", due, err)
		}
		return due[0]
	}
	for range 3 {
		d := claim()
		if d.Attempts != 1 {
			t.Errorf("attempt %d", d.Attempts)
		}
		if err := (dueStore{store}).Settle(t.Context(), []push.Result{{Due: d}}); err != nil {
			t.Fatal(err)
		}
	}
	attempted := push.Result{Due: claim(), Attempted: true, Outcome: push.Retry, Reason: "broken", Wait: time.Minute}
	if err := (dueStore{store}).Settle(t.Context(), []push.Result{attempted}); err != nil {
		t.Fatal(err)
	}
	x, err := store.Explain(t.Context(), "7", "phone")
	if err != nil || x[0].Attempts != 1 || len(x[0].Wakes) != 1 || x[0].Wakes[0].Reason != "broken" {
		t.Errorf("%+v, %v", x, err)
	}
}
