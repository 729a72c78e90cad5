package main

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/nudgesync/nudge/internal/devpg/pgtest"
	"github.com/nudgesync/nudge/server/wire"
)

// An operator turns a fleet to polling and back; a node that runs follows, and so does one that starts.
func TestPollCommand(t *testing.T) {
	s := newSite(t, pgtest.Database(t))
	s.attach(t)
	says := func(want string, args ...string) {
		t.Helper()
		if r := s.nudge(t, append([]string{"poll"}, args...)...); r.status != exitOK || r.stdout != want+"\n" {
			t.Errorf("poll %v: %+v", args, r)
		}
	}
	says("devices hold sockets and are nudged")
	says("devices poll every 1m0s", "--after", "60s")
	says("devices poll every 1m30s", "--after", "90s")

	r := s.serve(t)
	tells := func(want int) {
		t.Helper()
		end := time.Now().Add(time.Minute)
		for page := (wire.Page{}); time.Now().Before(end); page = (wire.Page{}) {
			<-time.After(50 * time.Millisecond) // within a device's rate
			if status, _ := r.get(r.token("7"), "", &page); status != http.StatusOK {
				t.Fatalf("pull: %d", status)
			}
			if got := page.PollAfterS; got == nil && want == 0 || got != nil && *got == want {
				return
			}
		}
		t.Errorf("pages do not say %d", want)
	}
	tells(90)
	says("devices hold sockets and are nudged", "--off")
	tells(0)
	says("devices poll every 5s", "--after", "5s")
	tells(5)

	for _, args := range [][]string{{"--after", "0s"}, {"--after", "1500ms"}, {"--after", "25h"}, {"--after", "5s", "--off"}, {"now"}} {
		if r := s.nudge(t, append([]string{"poll"}, args...)...); r.status != exitUsage || !strings.Contains(r.stderr, "nudge:") {
			t.Errorf("poll %v: %+v", args, r)
		}
	}
	says("devices poll every 5s")
}
