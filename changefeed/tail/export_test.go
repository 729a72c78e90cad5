package tail

import "fmt"

// Audit recounts the window's books: bytes, indices and blocks.
func (t *Tail) Audit() error {
	t.mu.RLock()
	defer t.mu.RUnlock()
	w := &t.window
	bytes, live := int64(len(w.scopes))*scopeExtra, 0
	for s, ix := range w.scopes {
		if len(ix.live()) == 0 {
			return fmt.Errorf("scope %s has no entry but an index", s)
		}
		if ix.dead >= compactAt && ix.dead*2 >= len(ix.numbers) {
			return fmt.Errorf("scope %s keeps %d dead of %d", s, ix.dead, len(ix.numbers))
		}
		for _, n := range ix.live() {
			if w.at(n).Scope != s {
				return fmt.Errorf("scope %s points at an entry of %s", s, w.at(n).Scope)
			}
			bytes += cost(w.at(n))
			live++
		}
	}
	if bytes != w.bytes || uint64(live) != w.next-w.first {
		return fmt.Errorf("%d bytes and %d entries counted, %d and %d in the books", bytes, live, w.bytes, w.next-w.first)
	}
	if blocks := (w.next + blockLen - 1) / blockLen; uint64(len(w.blocks)) != blocks-w.first/blockLen {
		return fmt.Errorf("%d blocks hold entries %d to %d", len(w.blocks), w.first, w.next)
	}
	return nil
}
