package tail

import (
	"slices"
	"sort"

	"github.com/nudgesync/nudge/changefeed/change"
)

const (
	// blockLen is the number of entries allocated at once: growth never copies entries, and memory
	// is given back block by block.
	blockLen = 512

	// What an entry and a scope take beyond change.Change.Bytes: the rest of the struct and the
	// entry's place in its index; the index itself and its map slot.
	entryExtra = 24
	scopeExtra = 128

	// compactAt is the number of evicted entries from which an index is worth compacting.
	compactAt = 32
)

type block [blockLen]change.Change

// index numbers the entries of one scope, ascending. numbers[:dead] are evicted.
type index struct {
	numbers []uint64
	dead    int
}

func (ix *index) live() []uint64 { return ix.numbers[ix.dead:] }

// from returns the entries numbered n and above.
func (ix *index) from(n uint64) []uint64 {
	live := ix.live()
	i, _ := slices.BinarySearch(live, n)
	return live[i:]
}

// window is every change in (start, head], in commit order. Entries are numbered from 0 for the
// life of the window; those in [first, next) are present. It is not safe for concurrent use.
type window struct {
	start, head change.Position
	blocks      []*block // blocks[0] holds entry first
	first, next uint64
	scopes      map[change.Scope]*index // only scopes that have an entry
	bytes       int64
}

func newWindow(at change.Position) window {
	return window{start: at, head: at, scopes: make(map[change.Scope]*index)}
}

func (w *window) at(n uint64) *change.Change {
	return &w.blocks[n/blockLen-w.first/blockLen][n%blockLen]
}

// append takes the changes of (head, next].
func (w *window) append(changes []change.Change, next change.Position) {
	for i := range changes {
		w.add(&changes[i])
	}
	w.head = next
}

func (w *window) add(c *change.Change) {
	if w.next%blockLen == 0 {
		w.blocks = append(w.blocks, new(block))
	}
	n := w.next
	w.next++
	*w.at(n) = *c
	ix := w.scopes[c.Scope]
	if ix == nil {
		ix = &index{}
		w.scopes[c.Scope] = ix
		w.bytes += scopeExtra
	}
	ix.numbers = append(ix.numbers, n)
	w.bytes += cost(c)
}

// evict drops the oldest transactions, whole, until at most budget bytes are held, and returns the
// number of changes dropped. The window then starts at the last of them: a cursor there has seen
// all that is missing, one inside that transaction has not.
func (w *window) evict(budget int64) int {
	n := 0
	for w.bytes > budget && w.first < w.next {
		lsn := w.at(w.first).Pos.LSN
		for w.first < w.next && w.at(w.first).Pos.LSN == lsn {
			w.drop()
			n++
		}
	}
	return n
}

func (w *window) drop() {
	c := w.at(w.first)
	w.start = c.Pos
	w.bytes -= cost(c)
	ix := w.scopes[c.Scope]
	ix.dead++
	switch {
	case ix.dead == len(ix.numbers):
		delete(w.scopes, c.Scope)
		w.bytes -= scopeExtra
	case ix.dead >= compactAt && ix.dead*2 >= len(ix.numbers):
		ix.numbers, ix.dead = slices.Clone(ix.live()), 0
	}
	*c = change.Change{} // gives the row's bytes back before the block goes
	w.first++
	if w.first%blockLen == 0 {
		w.blocks[0] = nil
		w.blocks = w.blocks[1:]
	}
}

func cost(c *change.Change) int64 { return int64(c.Bytes()) + entryExtra }

// after returns the number of the first entry past p.
func (w *window) after(p change.Position) uint64 {
	if w.first == w.next || !p.Before(w.at(w.next-1).Pos) {
		return w.next
	}
	n := int(w.next - w.first)
	return w.first + uint64(sort.Search(n, func(i int) bool {
		return p.Before(w.at(w.first + uint64(i)).Pos)
	}))
}

// since returns copies of the entries past p of the scopes and of change.All, in commit order.
// A ceiling that is not positive is none; the first entry is always among them.
func (w *window) since(scopes []change.Scope, p change.Position, maxRows, maxBytes int) (_ []change.Change, more bool) {
	from := w.after(p)
	if from == w.next {
		return nil, false
	}
	numbers := w.numbers(scopes, from, maxRows)
	rows, bytes := 0, 0
	for _, n := range numbers {
		size := w.at(n).Bytes()
		full := maxRows > 0 && rows == maxRows || maxBytes > 0 && bytes+size > maxBytes
		if full && rows > 0 {
			more = true
			break
		}
		rows, bytes = rows+1, bytes+size
	}
	if rows == 0 {
		return nil, false
	}
	out := make([]change.Change, rows)
	for i, n := range numbers[:rows] {
		out[i] = *w.at(n)
	}
	return out, more
}

// numbers merges the indices of the scopes and of change.All from entry `from` on. Of each it takes no
// more than maxRows entries and one, which tells that there are more.
func (w *window) numbers(scopes []change.Scope, from uint64, maxRows int) []uint64 {
	var merged []uint64
	lists := 0
	take := func(s change.Scope) {
		ix := w.scopes[s]
		if ix == nil {
			return
		}
		list := ix.from(from)
		if maxRows > 0 && len(list) > maxRows+1 {
			list = list[:maxRows+1]
		}
		if len(list) == 0 {
			return
		}
		lists++
		if lists == 1 {
			merged = list[:len(list):len(list)] // shared with the index; appending copies it
			return
		}
		merged = append(merged, list...)
	}
	take(change.All)
	for _, s := range scopes {
		take(s)
	}
	if lists > 1 {
		slices.Sort(merged)
		merged = slices.Compact(merged) // a scope may have been asked for twice
	}
	return merged
}

// newest returns the position of the scope's newest entry; change.All counts for every scope (A15).
func (w *window) newest(s change.Scope) (p change.Position, ok bool) {
	for _, s := range [...]change.Scope{s, change.All} {
		ix := w.scopes[s]
		if ix == nil {
			continue
		}
		q := w.at(ix.numbers[len(ix.numbers)-1]).Pos
		if !ok || p.Before(q) {
			p, ok = q, true
		}
	}
	return p, ok
}
