package changelog_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/nudgesync/nudge/changefeed/change"
	"github.com/nudgesync/nudge/changefeed/changelog"
	"github.com/nudgesync/nudge/internal/devpg/pgtest"
)

// A9: a segment is dropped between the moment at which a reader learns where the log begins and the moment at
// which it reads rows. It must say that the log does not reach back, not return what is left as if it were all.
func TestA09SegmentDroppedUnderAReader(t *testing.T) {
	for name, read := range map[string]func(context.Context, *changelog.Log, change.Position) error{
		"read": func(ctx context.Context, l *changelog.Log, after change.Position) error {
			_, err := l.Read(ctx, []change.Scope{"user:1"}, after, 100, 1<<20)
			return err
		},
		"stretch": func(ctx context.Context, l *changelog.Log, after change.Position) error {
			upto := change.Position{Epoch: after.Epoch, LSN: 200}
			return l.Stretch(ctx, after, upto, func(change.Change) error { return nil })
		},
		"resets": func(ctx context.Context, l *changelog.Log, after change.Position) error {
			_, err := l.Resets(ctx, after, change.Position{Epoch: after.Epoch, LSN: 200})
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			l, pool := open(t)
			w, e := begin(t, l)
			appendTo(t, w, 120, changes(e, 110, "user:1", 3)...)
			if rolled, err := w.Roll(t.Context(), time.Now().Add(2*time.Hour)); err != nil || !rolled {
				t.Fatalf("rolled %v, %v", rolled, err)
			}
			appendTo(t, w, 140, changes(e, 130, "user:1", 3)...)

			// The reader's connection knows its statements, so that it waits for the rows alone.
			reader := changelog.Open(pgtest.Pool(t, pool.Config().ConnString()), "nudge")
			from := change.Position{Epoch: e, LSN: 100}
			if err := read(t.Context(), reader, from); err != nil {
				t.Fatal(err)
			}
			// Retention, up to its commit.
			tx, err := pool.Begin(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = tx.Rollback(context.WithoutCancel(t.Context())) }()
			if _, err := tx.Exec(t.Context(), `select nudge.segment_drop(min(segment)) from nudge.segments`); err != nil {
				t.Fatal(err)
			}
			if _, err := tx.Exec(t.Context(), `update nudge.feed set horizon = 120`); err != nil {
				t.Fatal(err)
			}
			done := make(chan error, 1)
			go func() { done <- read(t.Context(), reader, from) }()
			for waits := false; !waits; {
				if err := pool.QueryRow(t.Context(), `
select exists (select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock')`).Scan(&waits); err != nil {
					t.Fatal(err)
				}
			}
			if err := tx.Commit(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err := <-done; !errors.Is(err, changelog.ErrGone) {
				t.Errorf("read on: %v", err)
			}
		})
	}
}
