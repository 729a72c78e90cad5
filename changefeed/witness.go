package changefeed

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/nudgesync/nudge/changefeed/change"
)

// witnessEvery is the shortest time between two writes of the witness.
const witnessEvery = time.Second

// witness is a file that remembers, outside the database, the highest position that was handed out (A2). A
// database that is restored from a copy of its disk keeps system and timeline; log and tables went back
// together, and nothing inside shows it. Nil: there is none.
type witness struct {
	path string // fixed

	mu      sync.Mutex
	said    testimony
	written change.Position
	at      time.Time
}

// testimony is the file's content, as JSON.
type testimony struct {
	Slot     string       `json:"slot"`
	SystemID string       `json:"system_id"`
	Epoch    change.Epoch `json:"epoch,string"`
	LSN      change.LSN   `json:"lsn,string"` // (LSN, 0)
}

func (t *testimony) position() change.Position { return change.Position{Epoch: t.Epoch, LSN: t.LSN} }

// read returns the position in the file: zero if there is none, or it is of another slot or system.
func (w *witness) read(slot, system string) (change.Position, error) {
	if w == nil {
		return change.Position{}, nil
	}
	b, err := os.ReadFile(w.path)
	if errors.Is(err, fs.ErrNotExist) {
		return change.Position{}, nil
	}
	if err != nil {
		return change.Position{}, fmt.Errorf("witness: %w", err)
	}
	var t testimony
	if err := json.Unmarshal(b, &t); err != nil {
		return change.Position{}, fmt.Errorf("witness: %s can't be read (%w): if the database was restored, run nudge epoch new; then remove the file", w.path, err)
	}
	if t.Slot != slot || t.SystemID != system {
		return change.Position{}, nil
	}
	return t.position(), nil
}

// begin writes where a stream begins.
func (w *witness) begin(slot, system string, head change.Position) error {
	if w == nil {
		return nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.said = testimony{Slot: slot, SystemID: system, Epoch: head.Epoch, LSN: head.LSN}
	return w.write()
}

// note takes a position that is handed out. It is written at once if the last write was a while ago; else
// with a later call, of which there is one a second (announceEvery). A feed that was replaced repeats
// its last position, and so leaves the file to its successor.
func (w *witness) note(head change.Position) error {
	if w == nil {
		return nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.said.position().Before(head) {
		w.said.Epoch, w.said.LSN = head.Epoch, head.LSN
	}
	if !w.written.Before(w.said.position()) || time.Since(w.at) < witnessEvery {
		return nil
	}
	return w.write()
}

// flush writes what note has put off.
func (w *witness) flush() error {
	if w == nil {
		return nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.written.Before(w.said.position()) {
		return nil
	}
	return w.write()
}

// write replaces the file: whoever reads it sees the old content or the new one, also after a crash.
func (w *witness) write() error {
	w.at = time.Now() // also of a write that fails
	// A feed that was replaced and does not know it yet must not take back what its successor has handed out.
	if kept, err := w.read(w.said.Slot, w.said.SystemID); err == nil && ahead(kept, w.said.position()) {
		w.written = w.said.position()
		return nil
	}
	b, err := json.Marshal(&w.said)
	if err != nil {
		return fmt.Errorf("witness: %w", err)
	}
	dir := filepath.Dir(w.path)
	fresh, err := os.CreateTemp(dir, filepath.Base(w.path)+".*")
	if err != nil {
		return fmt.Errorf("witness: %w", err)
	}
	_, err = fresh.Write(append(b, '\n'))
	err = errors.Join(err, fresh.Sync(), fresh.Close())
	if err == nil {
		err = os.Rename(fresh.Name(), w.path)
	}
	if err != nil {
		_ = os.Remove(fresh.Name())
		return fmt.Errorf("witness: %w", err)
	}
	if d, err := os.Open(dir); err == nil { // so that the new name lasts; not every system can
		_ = d.Sync()
		_ = d.Close()
	}
	w.written = w.said.position()
	return nil
}
