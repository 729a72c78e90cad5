package changefeed_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/nudgesync/nudge/changefeed"
)

// The session lets what arrives gather while the appender is at work, for a moment at most; and reads at once when it
// is not, when it is done, or while there is something to decode.
func TestRest(t *testing.T) {
	for name, c := range map[string]struct {
		r    changefeed.Resting
		want time.Duration
	}{
		"the appender is at work": {changefeed.Resting{Busy: true}, 2 * time.Millisecond},
		"it is free":              {changefeed.Resting{}, 0},
		"it is done":              {changefeed.Resting{Busy: true, Done: time.Millisecond}, time.Millisecond},
		"something was read":      {changefeed.Resting{Busy: true, Read: true}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				if err := c.r.Rest(); err != nil {
					t.Fatal(err)
				}
				if got := time.Since(began); got != c.want {
					t.Errorf("rested for %s, want %s", got, c.want)
				}
			})
		})
	}
}
