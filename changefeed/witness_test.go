package changefeed_test

import (
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/nudgesync/nudge/changefeed"
)

// A2: a feed that was replaced takes nothing back that its successor has handed out.
func TestA02ZombieLeavesTheWitness(t *testing.T) {
	r := newRig(t)
	path := filepath.Join(t.TempDir(), "witness")
	stop := r.start(func(c *changefeed.Config) { c.Witness = path })
	s := r.settle()
	successor := `{"slot":"` + r.slot + `","system_id":"` + s.SystemID + `","epoch":"` + strconv.FormatUint(uint64(s.Epoch), 10) +
		`","lsn":"` + strconv.FormatUint(uint64(s.Position)+1<<30, 10) + `"}`
	if err := os.WriteFile(path, []byte(successor), 0o600); err != nil {
		t.Fatal(err)
	}
	r.exec(`insert into items values (1, 1)`)
	r.settle()
	stop() // what was put off is written now
	if b, err := os.ReadFile(path); err != nil || string(b) != successor {
		t.Errorf("the witness says %s, %v; want %s", b, err, successor)
	}
}
