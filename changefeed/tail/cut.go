package tail

// Cut forgets every change in the window: it starts at the head, and earlier cursors are the log's to
// answer. For an operator who trims the log, so that memory does not go on serving what is gone there.
func (t *Tail) Cut() {
	t.write.Lock()
	defer t.write.Unlock()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.window = newWindow(t.window.head)
}
