package changefeed_test

import (
	"context"
	"testing"
	"time"

	"github.com/nudgesync/nudge/changefeed"
)

// A9: a segment that can't be opened now is opened later; the stream goes on.
func TestA09LockedLogPutsOffItsSegment(t *testing.T) {
	r := newRig(t)
	var o told
	r.start(func(c *changefeed.Config) {
		o.to(c)
		c.SegmentAge = time.Millisecond
	})
	r.settle()
	tx, err := r.db.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(t.Context())) }()
	if _, err := tx.Exec(t.Context(), `lock table only nudge.changes in share update exclusive mode`); err != nil {
		t.Fatal(err)
	}
	r.eventually("the segment is put off", func() bool { return o.count("no new segment") > 0 || o.count("feed stopped") > 0 })
	r.exec(`insert into items values (1, 1)`)
	r.settle()
	r.expect(`u user:1 {"id":1}`)
	if n := o.metric(t, "nudge_feed_failures_total", ""); n != 0 {
		t.Errorf("%v failures", n)
	}
}
