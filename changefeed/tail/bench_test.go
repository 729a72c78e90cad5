package tail_test

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/nudgesync/nudge/changefeed/change"
	"github.com/nudgesync/nudge/changefeed/tail"
)

const benchScopes, benchEntries = 100_000, 1_000_000

func benchTail(b *testing.B) (*tail.Tail, change.Position) {
	b.Helper()
	tl := startNodeOutside(b, newLog(epoch), 1<<30)
	head, _ := tl.Head()
	at := head.Next
	for range benchEntries / 1000 {
		f := benchFrame(at, 1000)
		tl.Apply(f)
		at = f.Next
	}
	if n := tl.Stats().Entries; n != benchEntries {
		b.Fatalf("%d entries", n)
	}
	return tl, at
}

func benchFrame(at change.Position, rows int) change.Frame {
	f := change.Frame{Epoch: epoch, Config: 1, Prev: at, Changes: make([]change.Change, rows)}
	for i := range f.Changes {
		f.Changes[i] = up(benchScope(rand.IntN(benchScopes)), 100)
		f.Changes[i].Pos = change.Position{Epoch: epoch, LSN: at.LSN, Seq: uint32(i + 1)}
	}
	f.Next = change.Position{Epoch: epoch, LSN: at.LSN + 8}
	return f
}

func benchScope(i int) change.Scope { return change.Scope(fmt.Sprintf("user:%d", i)) }

func BenchmarkSince(b *testing.B) {
	tl, head := benchTail(b)
	names := make([][]change.Scope, benchScopes)
	for i := range names {
		names[i] = []change.Scope{benchScope(i)}
	}
	start := tl.Stats().Start
	middle := head
	middle.LSN -= (head.LSN - start.LSN) * 3 / 10
	for _, bench := range []struct {
		name  string
		after change.Position
	}{{"up to date", head}, {"3 changes", middle}, {"10 changes", start}} {
		b.Run(bench.name, func(b *testing.B) {
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					// Stale after 3 s without a frame, as no frame comes: the log is asked, once.
					if _, err := tl.Since(b.Context(), names[rand.IntN(benchScopes)], bench.after, 500, 1<<20); err != nil {
						b.Error(err)
						return
					}
				}
			})
		})
	}
}

func BenchmarkApply(b *testing.B) {
	const rows = 100
	tl, at := benchTail(b)
	f := benchFrame(at, rows)
	b.ReportAllocs()
	for b.Loop() {
		f.Prev = at
		for i := range f.Changes {
			f.Changes[i].Pos.LSN = at.LSN
		}
		at.LSN += 8
		f.Next = at
		tl.Apply(f)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*rows), "ns/change")
}
