package main

import (
	"bufio"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/nudgesync/nudge/internal/devpg/pgtest"
	"github.com/nudgesync/nudge/server/wire"
)

// Where no socket gets through: a commit is a nudge on the event stream, and the answer of a pull that
// waits. Whose it is not, hears nothing.
func TestRoadsWithoutASocket(t *testing.T) {
	s := newSite(t, pgtest.Database(t))
	r := s.serve(t)
	cursor := r.answers("7", "mine")
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, r.url+"/v1/events?"+url.Values{"since": {cursor}}.Encode(), http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+r.token("7"))
	req.Header.Set(wire.HeaderDevice, "tablet")
	res, err := r.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	lines := bufio.NewScanner(res.Body)
	until := func(event string) {
		t.Helper()
		for lines.Scan() {
			if lines.Text() == "event: "+event {
				return
			}
		}
		t.Fatalf("no %s came: %v", event, lines.Err())
	}
	until(wire.TReady)

	var page wire.Page
	answered := make(chan int, 1)
	go func() {
		status, _ := r.ask(r.token("7"), url.Values{"since": {cursor}, "wait": {"30s"}}, &page)
		answered <- status
	}()
	execute(t, s.admin, "insert into intakes values (3, 8, 'another theirs')")
	execute(t, s.admin, "insert into intakes values (4, 7, 'another')")
	until(wire.TNudge)
	if status := <-answered; status != http.StatusOK || len(page.Changes) != 1 || !strings.Contains(string(page.Changes[0].Row), `"another"`) {
		t.Errorf("%d %+v", status, page)
	}
}
