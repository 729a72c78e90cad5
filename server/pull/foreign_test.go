package pull_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"testing"

	"github.com/nudgesync/nudge/changefeed/snapshot"
	"github.com/nudgesync/nudge/server/pull"
	"github.com/nudgesync/nudge/server/wire"
)

// elsewhere has its rows on a server that is no replica of the source.
type elsewhere struct{ pull.Rows }

func (elsewhere) Page(context.Context, string, string, []string, snapshot.Standing, int, int) (snapshot.Page, error) {
	return snapshot.Page{}, fmt.Errorf("%w: it is on timeline 2, not 1", snapshot.ErrForeign)
}

// A failover, during which a replica is on another timeline than the log, is not logged once a device: the reader
// has said it once.
func TestForeignReplicaIsNotLoggedByDevice(t *testing.T) {
	r := newRig(t, plain, "public.notes")
	r.settle()
	var log bytes.Buffer
	node := r.deafNode(func(c *pull.Config) {
		c.Rows, c.Logger = elsewhere{c.Rows}, slog.New(slog.NewTextHandler(&log, nil))
	})
	_, err := node.Pull(t.Context(), pull.Request{User: "1", Device: "d"})
	wantRefused(t, "a snapshot", err, wire.DatabaseAway)
	if log.Len() > 0 {
		t.Errorf("logged: %s", log.String())
	}
}
