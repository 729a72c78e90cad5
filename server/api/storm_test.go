package api_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/nudgesync/nudge/server/api"
)

// A storm ends once, when it is over; a trickle is a storm when it has become one.
func TestStormIsOver(t *testing.T) {
	type second struct {
		came, open int
		want       bool
	}
	for name, seconds := range map[string][]second{
		"nothing happens":     {{0, 15_000, false}, {0, 15_000, false}},
		"a few":               {{999, 999, false}, {0, 999, false}, {0, 999, false}},
		"many":                {{800, 800, false}, {800, 1600, false}, {15, 1615, true}, {0, 1615, false}},
		"more come":           {{1600, 1600, false}, {0, 1600, true}, {1600, 3200, false}, {0, 3200, true}},
		"few for so many":     {{1000, 15_000, false}, {0, 15_000, false}},
		"they leave":          {{2000, 0, false}, {0, 0, true}},
		"it does not end yet": {{5000, 5000, false}, {51, 5051, false}, {50, 5101, true}},
		"renewal":             {{100, 10_000, false}, {4900, 10_000, false}, {99, 10_000, true}, {99, 10_000, false}},
	} {
		var s api.Storm
		turnover := 0
		for i, c := range seconds {
			turnover += c.came
			if got := s.Over(turnover, c.open); got != c.want {
				t.Errorf("%s: second %d: over %v", name, i, got)
			}
		}
	}
}

// Who looks after the memory is told when sessions have come and gone, and not before.
func TestCalm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		calm := 0
		w := piped(t, noPings, func(c *api.Config) {
			c.Limits.HandshakeRate = 1e6
			c.Calm = func() { calm++ }
		})
		for range 499 {
			_ = w.dial().conn.CloseNow()
		}
		time.Sleep(3 * time.Second)
		synctest.Wait()
		if calm != 0 {
			t.Errorf("called %d times after 499", calm)
		}
		_ = w.dial().conn.CloseNow()
		time.Sleep(3 * time.Second)
		synctest.Wait()
		if calm != 1 {
			t.Errorf("called %d times after 500", calm)
		}
	})
}
