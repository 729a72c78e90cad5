package pull_test

import (
	"fmt"
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
	runtime.GC()
	before, peak, held, got, pages := heap(), uint64(0), uint64(0), a.Rows, 1
	for a.HasMore {
		var err error
		if a, err = r.engine.Pull(t.Context(), pull.Request{User: "1", Device: "d", Since: a.Cursor}); err != nil {
			t.Fatal(err)
		}
		got += a.Rows
		peak = max(peak, heap())
		if pages++; pages%50 == 0 {
			runtime.GC()
			held = max(held, heap())
		}
	}
	if want := rows + 2; got != want { // reset and sweep
		t.Errorf("%d changes, want %d", got, want)
	}
	for _, c := range []struct {
		what       string
		heap, most uint64
	}{{"held", held, 8 << 20}, {"held and not yet collected", peak, 64 << 20}} {
		if c.heap > before+c.most {
			t.Errorf("%s: %d bytes, %d before", c.what, c.heap, before)
		}
	}
	t.Logf("%d pages, heap %d before, %d held at most, %d with garbage", pages, before, held, peak)
}
