package changelog_test

import (
	"testing"

	"github.com/nudgesync/nudge/changefeed/change"
	"github.com/nudgesync/nudge/changefeed/changelog"
)

// I4: a reader that follows while the log grows gets every change: the head of a page never stands past
// rows that the page was read too early to have.
func TestI4PageHeadNeverPassesItsRows(t *testing.T) {
	l, _ := open(t)
	w, e := begin(t, l)
	const appends = 600
	done := make(chan error, 1)
	go func() {
		for i := range change.LSN(appends) {
			err := w.Append(t.Context(), changelog.Batch{Next: 101 + i, Changes: changes(e, 100+i, "user:1", 1)})
			if err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	at := change.Position{Epoch: e, LSN: 100}
	end := change.Position{Epoch: e, LSN: 100 + appends}
	read := 0
	for at.Before(end) {
		p, err := l.Read(t.Context(), []change.Scope{"user:1"}, at, 100, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		read += len(p.Changes)
		at = p.State.Head()
		if p.More {
			at = p.Changes[len(p.Changes)-1].Pos
		}
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if read != appends {
		t.Errorf("%d changes read of %d", read, appends)
	}
}
