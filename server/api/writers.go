package api

import "sync"

// writers write what sessions have noted. While a session waits for one there is always a goroutine that no
// slow device can hold up: each, before its first write, starts the next if somebody waits still. On a node
// whose devices take what they are sent there are few, whose stacks have grown once, however many sessions are
// nudged at once; and one more for each device that does not (I8).
type writers struct {
	running sync.WaitGroup

	mu       sync.Mutex
	queue    []flush
	done     int  // of the queue
	starting bool // a writer was started that has not taken its first yet
}

// flush is a session whose first act is to be done; what else is noted follows it.
type flush struct {
	session *session
	act     func() (more bool)
}

// add has the flush done soon. It does not block.
func (w *writers) add(f flush) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.queue = append(w.queue, f)
	w.start()
}

// start starts a writer, unless one is about to look for work. mu is held.
func (w *writers) start() {
	if !w.starting {
		w.starting = true
		w.running.Go(w.write)
	}
}

// write is a writer: it ends when no session waits.
func (w *writers) write() {
	for f, ok := w.first(); ok; f, ok = w.next() {
		f.session.flush(f.act)
	}
}

// first is the first flush of a writer that was started.
func (w *writers) first() (flush, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.starting = false
	f, ok := w.take()
	if w.done < len(w.queue) {
		w.start()
	}
	return f, ok
}

func (w *writers) next() (flush, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.take()
}

// take takes the flush that has waited longest. mu is held.
func (w *writers) take() (flush, bool) {
	if w.done == len(w.queue) {
		return flush{}, false
	}
	f := w.queue[w.done]
	w.queue[w.done] = flush{}
	w.done++
	if w.done > len(w.queue)/2 { // so that it does not grow under a load that never lets it become empty
		n := copy(w.queue, w.queue[w.done:])
		clear(w.queue[n:])
		w.queue, w.done = w.queue[:n], 0
	}
	return f, true
}
