package main

import (
	"strings"
	"testing"
	"time"

	"github.com/nudgesync/nudge/changefeed"
	"github.com/nudgesync/nudge/changefeed/change"
	"github.com/nudgesync/nudge/changefeed/changelog"
	"github.com/nudgesync/nudge/internal/devpg/pgtest"
	"github.com/nudgesync/nudge/migrations"
)

// A2: an operator ends the epoch, with no node there.
func TestA02EpochCommand(t *testing.T) {
	dsn := pgtest.Database(t)
	if _, err := migrations.Up(t.Context(), dsn); err != nil {
		t.Fatal(err)
	}
	path := writeFile(t, t.TempDir(), "nudge.yaml", "tables: {public.intakes: {owner: user_id}}\n")
	env := []string{"NUDGE_SOURCE_DSN=" + dsn}
	for _, args := range [][]string{{"epoch"}, {"epoch", "new"}} {
		if r := nudge(t, env, append(args, "--config", path)...); r.status != exitFailed || !strings.Contains(r.stderr, "no_epoch") || !strings.Contains(r.stderr, "hint: ") {
			t.Errorf("before the first epoch: %+v", r)
		}
	}

	log := changelog.Open(pgtest.Pool(t, dsn), "nudge")
	w, _ := log.Writer(t.Context(), "node/1", time.Hour)
	epoch := change.Epoch(0).Next()
	err := w.NewEpoch(t.Context(), changelog.State{Epoch: epoch, Position: 100, Config: []byte("{}"), Reason: "first start"})
	if err != nil {
		t.Fatal(err)
	}
	if r := nudge(t, env, "epoch", "--config", path); r.status != exitOK || !strings.Contains(r.stdout, "epoch "+epoch.String()+" since ") || !strings.Contains(r.stdout, "first start") {
		t.Errorf("shown: %+v", r)
	}
	if r := nudge(t, env, "epoch", "new", "--config", path); r.status != exitOK || !strings.Contains(r.stdout, "epoch "+epoch.String()+" ends at 0/64") {
		t.Errorf("ended: %+v", r)
	}
	s, err := log.Feed(t.Context())
	if err != nil || s.Epoch != epoch || s.Doubt != changefeed.ReasonOperator {
		t.Errorf("state %+v, %v", s, err)
	}
	if err := w.Append(t.Context(), changelog.Batch{Next: 200}); err == nil {
		t.Error("the epoch that ended grows")
	}
	if r := nudge(t, env, "epoch", "--config", path); !strings.Contains(r.stdout, "it ends when the feed connects next: "+changefeed.ReasonOperator) {
		t.Errorf("shown: %+v", r)
	}
	if r := nudge(t, env, "epoch", "old", "--config", path); r.status != exitUsage {
		t.Errorf("epoch old: %+v", r)
	}
}
