package tail

import (
	"slices"
	"sort"
	"time"

	"github.com/nudgesync/nudge/changefeed/change"
)

// pendingShare of the memory budget is kept in frames past a hole.
const pendingShare = 8

// Apply takes a frame from the bus. It does no I/O. Frames may be lost, repeated, reordered or
// overlapping, and may come before Run: subscribe first, then warm up (A7).
func (t *Tail) Apply(f change.Frame) {
	t.write.Lock()
	defer t.write.Unlock()
	if !wellFormed(f) {
		t.mu.Lock()
		t.counts.Malformed++
		t.request()
		t.mu.Unlock()
		t.cfg.Logger.Error("malformed frame", "epoch", f.Epoch, "prev", f.Prev, "next", f.Next, "changes", len(f.Changes))
		return
	}
	if !t.warm {
		t.keep(f)
		return
	}
	before := t.window.head
	if !t.place(f) {
		t.keep(f)
	}
	if len(t.pending) > 0 && t.window.head != before {
		t.settle(0)
	}
}

// wellFormed reports whether the frame's changes are of its epoch, in order and within (Prev, Next].
func wellFormed(f change.Frame) bool {
	if f.Next.Epoch != f.Epoch || f.Next.Before(f.Prev) || f.HeadsOnly && len(f.Changes) > 0 {
		return false
	}
	last := f.Prev
	for i := range f.Changes {
		p := f.Changes[i].Pos
		if p.Epoch != f.Epoch || !last.Before(p) {
			return false
		}
		last = p
	}
	return !f.Next.Before(last)
}

// place puts a frame where it belongs. It returns false if a hole is before it, which stays. Called
// with write held, on a warm tail.
func (t *Tail) place(f change.Frame) bool {
	head := t.window.head
	switch {
	case f.Epoch != head.Epoch && counter(f.Epoch) <= counter(head.Epoch):
		t.mu.Lock()
		t.counts.Foreign++
		t.mu.Unlock()
	case f.Epoch != head.Epoch:
		t.cfg.Logger.Warn("new epoch", "from", head.Epoch, "to", f.Epoch, "next", f.Next)
		t.adopt(f)
	case !head.Before(f.Next):
		t.mu.Lock()
		t.counts.Repeated++
		if head == f.Next {
			t.heard = time.Now()
			if f.Config != t.config {
				t.request() // a delayed frame or a new configuration: the log knows
			}
		}
		t.mu.Unlock()
	case f.HeadsOnly || head.Before(f.Prev):
		return false
	default:
		t.advance(f, time.Now())
	}
	return true
}

// advance appends what is new in a frame that follows the head. Called with write held.
func (t *Tail) advance(f change.Frame, heard time.Time) {
	f.Prev = t.window.head
	known := sort.Search(len(f.Changes), func(i int) bool { return f.Prev.Before(f.Changes[i].Pos) })
	f.Changes = f.Changes[known:]

	t.mu.Lock()
	t.window.append(f.Changes, f.Next)
	t.counts.Evicted += uint64(t.window.evict(t.cfg.MaxBytes))
	t.counts.Frames++
	t.config = f.Config
	t.hear(heard)
	t.wake()
	t.mu.Unlock()

	t.announce(f)
}

// adopt starts a window with the first frame that is heard of a new epoch. Called with write held.
func (t *Tail) adopt(f change.Frame) {
	w := newWindow(f.Next)
	if !f.HeadsOnly && f.Prev.Epoch == f.Epoch { // else the log has what is before
		w = newWindow(f.Prev)
		w.append(f.Changes, f.Next)
	}
	t.restart(w, f.Config, time.Now())
}

// restart puts another window in place and announces it to everybody. Called with write held.
func (t *Tail) restart(w window, config uint64, heard time.Time) {
	prev := t.window.head

	t.mu.Lock()
	t.window = w
	t.counts.Evicted += uint64(t.window.evict(t.cfg.MaxBytes))
	t.counts.Restarts++
	t.config = config
	t.warm = true
	t.heard = heard
	t.wake()
	t.mu.Unlock()

	t.announce(change.Frame{Epoch: w.head.Epoch, Config: config, Prev: prev, Next: w.head, HeadsOnly: true})
}

// hear notes when the head was the log's. Called with mu held.
func (t *Tail) hear(at time.Time) {
	if t.heard.Before(at) {
		t.heard = at
	}
}

func (t *Tail) announce(f change.Frame) {
	if t.cfg.OnAdvance != nil {
		t.cfg.OnAdvance(f)
	}
}

// keep holds a frame back until the hole before it is closed. The oldest go first when there are too many: the
// worker reads up to the log's head, so they are the ones it will have read. Called with write held.
func (t *Tail) keep(f change.Frame) {
	t.mu.Lock()
	if !t.gap {
		t.gap = true
		if t.warm {
			t.counts.Gaps++
		}
	}
	p := pendingFrame{Frame: f, round: t.request()}
	t.mu.Unlock()

	t.pending = append(t.pending, p)
	t.pendingBytes += frameBytes(f)
	drop := 0
	for ; t.pendingBytes > int(t.cfg.MaxBytes/pendingShare) && drop < len(t.pending)-1; drop++ {
		t.pendingBytes -= frameBytes(t.pending[drop].Frame)
	}
	if drop > 0 {
		t.pending = slices.Clone(t.pending[drop:])
		t.mu.Lock()
		t.counts.Overflow += uint64(drop)
		t.mu.Unlock()
	}
}

// settle places the frames that were held back. Those still past a hole stay, unless a round that
// started after their arrival has ended (ended is its number, or 0): the log does not hold them. Called with write held.
func (t *Tail) settle(ended uint64) {
	frames := t.pending
	t.pending, t.pendingBytes = nil, 0
	slices.SortStableFunc(frames, func(a, b pendingFrame) int { return a.Prev.Compare(b.Prev) })
	for _, p := range frames {
		if !t.place(p.Frame) && p.round > ended {
			t.pending = append(t.pending, p)
			t.pendingBytes += frameBytes(p.Frame)
		}
	}
	t.mu.Lock()
	t.gap = len(t.pending) > 0
	t.mu.Unlock()
}

func frameBytes(f change.Frame) int {
	n := 128
	for i := range f.Changes {
		n += f.Changes[i].Bytes()
	}
	return n
}
