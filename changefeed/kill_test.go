package changefeed_test

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nudgesync/nudge/changefeed"
	"github.com/nudgesync/nudge/changefeed/changelog"
)

var errKilled = errors.New("killed by the test")

// TestKillAtEveryStep ends the feed before and after each durable step, at a different moment each time,
// while transactions are written. Nothing may be lost, doubled or reordered (I1, I2).
func TestKillAtEveryStep(t *testing.T) {
	steps := []changefeed.Step{
		changefeed.BeforeDecode, changefeed.AfterDecode, changefeed.BeforeAppend,
		changefeed.AfterAppend, changefeed.BeforeAck, changefeed.AfterAck,
	}
	t.Run("in memory", func(t *testing.T) { killAtEveryStep(t, steps, 0) })
	// Whatever touches more than one row goes through files.
	t.Run("spilled", func(t *testing.T) { killAtEveryStep(t, append(steps, changefeed.BeforeSpill), 400) })
}

func killAtEveryStep(t *testing.T, steps []changefeed.Step, spillBytes int) {
	rounds := 3
	if os.Getenv("NUDGE_LONG") != "" {
		rounds = 20
	}
	for _, step := range steps {
		t.Run(string(step), func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			r.tune = func(f *changefeed.Feed) { f.Hurry(10*time.Millisecond, 10*time.Second) }
			var calls, kills atomic.Int64
			killed := make(chan struct{}, 1000)
			stop := r.start(func(c *changefeed.Config) {
				c.SpillBytes = spillBytes
				c.Failpoint = func(s changefeed.Step) error {
					if s != step || int(kills.Load()) >= rounds {
						return nil
					}
					// The first call, then the second after that, then the third, …
					if calls.Add(1) <= kills.Load() {
						return nil
					}
					calls.Store(0)
					kills.Add(1)
					killed <- struct{}{}
					return errKilled
				}
			})
			epoch := r.state("the first epoch", func(changelog.State) bool { return true }).Epoch

			done := make(chan struct{})
			var wg sync.WaitGroup
			for w := range 3 {
				wg.Go(func() { r.write(w, done) })
			}
			for range rounds {
				<-killed
			}
			close(done)
			wg.Wait()
			if got := r.settle(); got.Epoch != epoch {
				t.Errorf("a kill began epoch %v: %s", got.Epoch, got.Reason)
			}
			stop()
			r.check()
		})
	}
}

// write inserts ten items and updates them, one or several at a time, until done.
func (r *rig) write(writer int, done <-chan struct{}) {
	first := writer * 10
	if _, err := r.db.Exec(r.t.Context(), `insert into items select $1 + i, 1 + i % 3 from generate_series(0, 9) i`, first); err != nil {
		r.t.Error(err)
		return
	}
	for n := 0; ; n++ {
		select {
		case <-done:
			return
		default:
		}
		in := fmt.Sprint(first + n%10)
		if n%7 == 0 {
			in += fmt.Sprintf(", %d, %d", first+(n+3)%10, first+(n+5)%10)
		}
		if _, err := r.db.Exec(r.t.Context(), `update items set version = version + 1 where id in (`+in+`)`); err != nil {
			r.t.Error(err)
			return
		}
	}
}

// Two feeds on one slot: the server lets one in, the other takes over when the first ends.
func TestKillTakeover(t *testing.T) {
	r := newRig(t)
	stopFirst := r.start(nil)
	r.settle()
	stopSecond := r.start(func(c *changefeed.Config) { c.Name = "second" })
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() { r.write(0, done) })
	r.settle()
	stopFirst()
	s := r.settle()
	if s.Leader != "second" {
		t.Errorf("the leader is %q", s.Leader)
	}
	close(done)
	wg.Wait()
	r.settle()
	stopSecond()
	r.check()
}
