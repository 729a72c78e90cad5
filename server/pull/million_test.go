package pull_test

import (
	"fmt"
	"math"
	"os"
	"runtime"
	"testing"

	"github.com/nudgesync/nudge/server/pull"
)

// A user's rows are read page by page, also a million of them: this process holds one page, however many there are.
func TestPropertyMillionRows(t *testing.T) {
	rows := 30_000
	if os.Getenv("NUDGE_LONG") != "" {
		rows = 1_000_000
	}
	r := newRig(t, schema+fmt.Sprintf(`
insert into notes select i, 1, repeat(md5(i::text), 4) from generate_series(1, %d) i; analyze notes`, rows), "public.notes")
	r.stop()
	r.pageRows = 500
	r.start(nil)
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	a, _ := r.pull(pull.Request{User: "1", Device: "d"})
	var held, peak uint64
	lowest := uint64(math.MaxUint64)
	got, pages := a.Rows, 1
	for a.HasMore {
		var err error
		if a, err = r.engine.Pull(t.Context(), pull.Request{User: "1", Device: "d", Since: a.Cursor}); err != nil {
			t.Fatal(err)
		}
		got += a.Rows
		peak = max(peak, heap())
		if pages++; pages%10 == 0 {
			runtime.GC()
			held = heap()
			lowest = min(lowest, held)
		}
	}
	if want := rows + 2; got != want { // reset and sweep
		t.Errorf("%d changes, want %d", got, want)
	}
	if held > lowest+2<<20 {
		t.Errorf("%d bytes are held in the end, and %d on the way", held, lowest)
	}
	if peak > lowest+64<<20 {
		t.Errorf("the heap grew from %d to %d bytes", lowest, peak)
	}
	t.Logf("%d pages; held %d, at least %d; with garbage %d", pages, held, lowest, peak)
}
