package tail_test

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/nudgesync/nudge/changefeed/change"
	"github.com/nudgesync/nudge/changefeed/tail"
)

const (
	modelBudget = 12 << 10 // some thirty changes
	stale       = 3 * time.Second
)

// world is one node, its log, and the frames on their way.
type world struct {
	t        *rapid.T
	log      *naiveLog
	sent     []change.Frame // of this epoch, in commit order
	inflight []change.Frame
	known    change.Position // the furthest that the node was told of by a frame

	tail   *tail.Tail
	stop   func()
	mu     sync.Mutex
	last   change.Frame // of OnAdvance; guarded by mu
	epochs int
}

// TestTailAgainstModel holds the tail against a naive filter over everything ever logged, under
// lost, repeated, reordered, overlapping and bodiless frames, evictions, retention, new epochs and
// configurations, an unreachable log, silence and restarts.
func TestTailAgainstModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		rapid.SyncTest(rt, func(rt *rapid.T) {
			w := &world{t: rt, log: newLog(1<<32 | 1000)}
			w.start()
			defer func() { w.stop() }()
			rt.Repeat(map[string]func(*rapid.T){
				"commit": w.commit, "commit again": w.commit, "read": w.read, "read again": w.read,
				"deliver": w.deliver, "deliver all": w.deliverAll, "lose": w.lose, "announce": w.announce,
				"epoch": w.epoch, "configure": w.configure, "retain": w.retain, "away": w.away,
				"quiet": w.quiet, "restart": w.restart,
				"": func(*rapid.T) { w.audit() },
			})
			w.log.set(func() { w.log.away = false })
			time.Sleep(3 * stale) // longer than silence, and any pause between attempts
			synctest.Wait()
			if head, _ := w.tail.Head(); head.Next != w.log.state().Next {
				rt.Fatalf("left alone, the tail stands at %s and the log at %s", head.Next, w.log.state().Next)
			}
			w.audit()
		})
	})
}

func (w *world) start() {
	tl, err := tail.New(tail.Config{
		Log: w.log, MaxBytes: modelBudget, Stale: stale, Logger: slog.New(slog.DiscardHandler), OnAdvance: w.advanced,
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.tail, w.last, w.known = tl, change.Frame{}, change.Position{}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = tl.Run(ctx)
	}()
	w.stop = func() { cancel(); <-done }
	synctest.Wait()
}

// advanced checks that stretches follow each other, that each is readable when announced and complete.
func (w *world) advanced(f change.Frame) {
	w.mu.Lock()
	defer w.mu.Unlock()
	head, ok := w.tail.Head()
	switch {
	case !ok || head.Next != f.Next || head.Epoch != f.Epoch:
		w.t.Errorf("announced %s while the head is %s", f.Next, head.Next)
	case f.Prev != w.last.Next:
		w.t.Errorf("announced from %s after %s", f.Prev, w.last.Next)
	case f.HeadsOnly && len(f.Changes) > 0:
		w.t.Errorf("announced heads only, with changes")
	case !f.HeadsOnly:
		if d := cmp.Diff(w.log.since(nil, f.Prev, f.Next), f.Changes, cmpopts.EquateEmpty()); d != "" {
			w.t.Errorf("announced (%s, %s]: %s", f.Prev, f.Next, d)
		}
	}
	w.last = f
}

func (w *world) audit() {
	synctest.Wait()
	if err := w.tail.Audit(); err != nil {
		w.t.Fatal(err)
	}
	if s := w.tail.Stats(); s.Bytes > modelBudget {
		w.t.Fatalf("%d bytes in a window of %d", s.Bytes, modelBudget)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if head, _ := w.tail.Head(); head.Next != w.last.Next {
		w.t.Fatalf("head %s, announced %s", head.Next, w.last.Next)
	}
}

var scopes = []change.Scope{"user:1", "user:2", "user:3", "list:1", change.All}

func (w *world) commit(t *rapid.T) {
	changes := make([]change.Change, rapid.SampledFrom([]int{0, 1, 1, 2, 5, 20}).Draw(t, "changes"))
	for i := range changes {
		changes[i] = up(rapid.SampledFrom(scopes).Draw(t, "scope"), rapid.SampledFrom([]int{1, 50, 400}).Draw(t, "size"))
	}
	f := w.log.commit(changes...)
	w.sent = append(w.sent, f)
	switch shape := rapid.IntRange(0, 9).Draw(t, "shape"); {
	case shape == 0:
		f.Changes, f.HeadsOnly = nil, true
	case shape <= 2: // the feed sends a batch again, grown
		from := w.sent[max(0, len(w.sent)-rapid.IntRange(1, 4).Draw(t, "overlap"))].Prev
		f.Prev, f.Changes = from, w.log.since(nil, from, f.Next)
	}
	w.inflight = append(w.inflight, f)
}

func (w *world) apply(f change.Frame) {
	head, _ := w.tail.Head()
	w.tail.Apply(f)
	if f.Epoch == w.log.state().Epoch && f.Epoch == head.Epoch || f.Epoch>>32 > head.Epoch>>32 {
		w.known = max2(w.known, f.Next)
	}
	if rapid.Bool().Draw(w.t, "let the worker run") {
		synctest.Wait()
	}
}

func (w *world) deliver(t *rapid.T) {
	if len(w.inflight) == 0 {
		t.Skip()
	}
	i := rapid.IntRange(0, min(len(w.inflight)-1, 3)).Draw(t, "frame")
	f := w.inflight[i]
	if !rapid.Bool().Draw(t, "and keep it") {
		w.inflight = append(w.inflight[:i:i], w.inflight[i+1:]...)
	}
	w.apply(f)
}

func (w *world) deliverAll(*rapid.T) {
	for _, f := range w.inflight {
		w.apply(f)
	}
	w.inflight = nil
}

func (w *world) lose(t *rapid.T) {
	if len(w.inflight) == 0 {
		t.Skip()
	}
	i := rapid.IntRange(0, len(w.inflight)-1).Draw(t, "frame")
	w.inflight = append(w.inflight[:i:i], w.inflight[i+1:]...)
}

func (w *world) announce(*rapid.T) { w.apply(w.log.state()) }

// epoch begins another history: mostly a later one, at times one that counts alike (A2).
func (w *world) epoch(t *rapid.T) {
	if rapid.IntRange(0, 3).Draw(t, "really") > 0 {
		t.Skip()
	}
	e := w.log.state().Epoch
	w.epochs++
	random := 1000 + w.epochs // what looks later, and what looks earlier
	if w.epochs%2 == 1 {
		random = 1000 - w.epochs
	}
	e = e>>32<<32 | change.Epoch(random)
	if !rapid.Bool().Draw(t, "restored") {
		e += 1 << 32
	}
	w.sent = nil
	w.log.begin(e)
}

func (w *world) configure(t *rapid.T) {
	config := rapid.Uint64Range(2, 9).Draw(t, "config")
	w.log.set(func() {
		w.log.heads = append(w.log.heads, w.log.last())
		w.log.heads[len(w.log.heads)-1].Config = config
	})
}

func (w *world) retain(t *rapid.T) {
	h := rapid.SampledFrom(w.log.heads).Draw(t, "horizon").Next
	w.log.set(func() {
		if h.Epoch == w.log.last().Epoch {
			w.log.horizon = max2(w.log.horizon, h)
		}
	})
}

func (w *world) away(t *rapid.T) {
	away := rapid.Bool().Draw(t, "away")
	w.log.set(func() { w.log.away = away })
}

func (w *world) quiet(t *rapid.T) {
	time.Sleep(time.Duration(rapid.IntRange(100, 5000).Draw(t, "ms")) * time.Millisecond)
}

func (w *world) restart(t *rapid.T) {
	w.stop()
	w.log.generous = rapid.Bool().Draw(t, "generous")
	w.start()
}

// cursor draws a place that a device may hold: a change, a boundary, or one never handed out.
func (w *world) cursor(t *rapid.T) change.Position {
	head, _ := w.tail.Head()
	switch rapid.IntRange(0, 9).Draw(t, "cursor") {
	case 0:
		return head.Next
	case 1:
		return w.log.state().Next
	case 2:
		return w.tail.Stats().Start
	case 3:
		p := w.log.state().Next
		p.LSN += 5
		return p
	}
	if len(w.log.changes) > 0 && rapid.Bool().Draw(t, "at a change") {
		n := len(w.log.changes)
		return w.log.changes[rapid.IntRange(max(0, n-60), n-1).Draw(t, "change")].Pos
	}
	return rapid.SampledFrom(w.log.heads).Draw(t, "boundary").Next
}

func (w *world) read(t *rapid.T) {
	asked := rapid.SliceOfN(rapid.SampledFrom(scopes), 1, 3).Draw(t, "scopes")
	after := w.cursor(t)
	maxRows, maxBytes := rapid.IntRange(0, 8).Draw(t, "rows"), rapid.SampledFrom([]int{0, 300, 1500}).Draw(t, "bytes")
	synctest.Wait()

	was, calls, log := w.tail.Stats(), w.log.called(), w.log.state()
	silent := time.Since(was.Heard) >= stale
	hole := was.Head.Epoch == w.known.Epoch && was.Head.Before(w.known)

	ctx, cancel := context.WithTimeout(context.Background(), 20*stale)
	defer cancel()
	got, err := w.tail.Since(ctx, asked, after, maxRows, maxBytes)

	now := w.tail.Stats()
	switch {
	case err == nil:
		w.check(asked, after, maxRows, maxBytes, got)
		if (silent || hole) && got.Head != log.Next {
			t.Fatalf("a node that was silent (%t) or has a hole (%t) answers up to %s, the log is at %s", silent, hole, got.Head, log.Next)
		}
		if !silent && !hole && after.Epoch == was.Head.Epoch && !was.Head.Before(after) && w.log.called() != calls {
			t.Fatalf("asked the log for a cursor at %s in (%s, %s]", after, was.Start, was.Head)
		}
	case errors.Is(err, tail.ErrBefore):
		if after.Epoch != now.Start.Epoch || !after.Before(now.Start) {
			t.Fatalf("%s is before the window, which starts at %s", after, now.Start)
		}
	case errors.Is(err, tail.ErrEpoch):
		if after.Epoch == log.Epoch {
			t.Fatalf("%v, which the log is on", err)
		}
	case errors.Is(err, tail.ErrAhead):
		if after.Epoch == log.Epoch && !log.Next.Before(after) {
			t.Fatalf("%s is ahead, and the log at %s", after, log.Next)
		}
	case w.log.away && (errors.Is(err, errAway) || errors.Is(err, tail.ErrNotReady)):
	default:
		// The log may be back already while the worker still pauses after its last failure.
		if !errors.Is(err, errAway) && !errors.Is(err, tail.ErrNotReady) || was.Failures == 0 {
			t.Fatal(err)
		}
	}
}

// check compares an answer with the model's.
func (w *world) check(asked []change.Scope, after change.Position, maxRows, maxBytes int, got tail.Stretch) {
	var configs []uint64
	for _, h := range w.log.heads {
		if h.Next == got.Head {
			configs = append(configs, h.Config)
		}
	}
	if !slices.Contains(configs, got.Config) {
		w.t.Fatalf("configuration %d at %s, where %d was in force", got.Config, got.Head, configs)
	}
	if got.Epoch != got.Head.Epoch || got.Head.Before(after) {
		w.t.Fatalf("answered up to %s of %s, which is no boundary at or after %s", got.Head, got.Epoch, after)
	}
	want := w.log.since(asked, after, got.Head)
	if got.More != (len(got.Changes) < len(want)) || got.More && len(got.Changes) == 0 {
		w.t.Fatalf("%d changes of %d, more: %t", len(got.Changes), len(want), got.More)
	}
	if d := cmp.Diff(want[:len(got.Changes)], got.Changes, cmpopts.EquateEmpty()); d != "" {
		w.t.Fatal(d)
	}
	bytes := 0
	for i := range got.Changes {
		bytes += got.Changes[i].Bytes()
	}
	if maxRows > 0 && len(got.Changes) > maxRows || maxBytes > 0 && bytes > maxBytes && len(got.Changes) > 1 {
		w.t.Fatalf("%d changes of %d bytes under ceilings of %d and %d", len(got.Changes), bytes, maxRows, maxBytes)
	}
	if got.More {
		next := want[len(got.Changes)]
		if (maxRows == 0 || len(got.Changes) < maxRows) && (maxBytes == 0 || bytes+next.Bytes() <= maxBytes) {
			w.t.Fatalf("cut at %d changes of %d bytes under ceilings of %d and %d", len(got.Changes), bytes, maxRows, maxBytes)
		}
	}
}
