package main

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/nudgesync/nudge/clientsim/provider"
	"github.com/nudgesync/nudge/server/api"
	"github.com/nudgesync/nudge/server/wire"
)

// A device without a socket is woken by a push, over any road, pulls, acknowledges, and is left alone. The one that
// wrote is not woken.
func TestPushWakes(t *testing.T) {
	p := newPushSite(t)
	devices := []*pushedDevice{
		p.device(t, "7", "phone", provider.IOS), p.device(t, "7", "tablet", provider.Android), p.device(t, "7", "browser", provider.Browser),
	}
	writer, other := p.device(t, "7", "writer", provider.IOS), p.device(t, "8", "phone-8", provider.IOS)
	execute(t, p.site.admin, `begin; select nudge.origin('writer'); insert into intakes values (10, 7, 'new'); commit`)
	for _, d := range devices {
		nudge := d.woken(t, 0).Nudge
		e := d.explained(t, "settled", func(e *api.Explanation) bool {
			return e.Due == "" && len(e.Pushes) == 1 && e.Pushes[0].AckedAt != nil
		})
		push := e.Pushes[0]
		if push.Nudge != nudge || !strings.HasPrefix(nudge, wire.PushNudge) || push.Status != "accepted" || push.PulledAt == nil || push.AnsweredAt == nil {
			t.Errorf("%s: the ledger has %+v for %s", d.name, push, nudge)
		}
		if e.NextAt != nil || !strings.Contains(e.Verdict, "up to date") {
			t.Errorf("%s: %+v", d.name, e)
		}
	}
	// All devices of a user are marked by one statement, so what it did to these is known by now.
	for _, d := range []*pushedDevice{writer, other} {
		if e := d.explain(t); e.Due != "" || len(e.Pushes) > 0 {
			t.Errorf("%s/%s: %+v", d.user, d.name, e)
		}
	}
	out := p.site.nudge(t, "explain", "7", "tablet")
	if out.status != exitOK || !strings.HasPrefix(out.stdout, "tablet of user 7: It is up to date") || !strings.Contains(out.stdout, "accepted") {
		t.Errorf("%+v", out)
	}
	var all []api.Explanation
	out = p.site.nudge(t, "explain", "7", "--json")
	if err := json.Unmarshal([]byte(out.stdout), &all); err != nil || len(all) != 4 {
		t.Errorf("%v %+v", err, out)
	}
	if out = p.site.nudge(t, "explain", "7", "none"); out.status != exitFailed || !strings.Contains(out.stderr, "hint: nudge explain 7") {
		t.Errorf("%+v", out)
	}
	metrics := metricsOf(t, strings.TrimPrefix(p.admin, "http://"))
	if n := metrics["nudge_push_marked_total"]; n != 3 {
		t.Errorf("%v devices marked", n)
	}

	if err := writer.do(t.Context(), http.MethodDelete, "/v1/devices/writer", nil, nil); err != nil {
		t.Error(err)
	}
	if err := writer.do(t.Context(), http.MethodGet, "/v1/devices/writer", nil, nil); err == nil || !strings.Contains(err.Error(), "not_found") {
		t.Error(err)
	}
}

// The writer of everything but what others wrote is told of that, and of nothing else (A17).
func TestA17PushesForTheOthersChanges(t *testing.T) {
	p := newPushSite(t)
	mine, theirs := p.device(t, "7", "mine", provider.Android), p.device(t, "7", "theirs", provider.Android)
	execute(t, p.site.admin, `begin; select nudge.origin('theirs'); insert into intakes values (10, 7, 'theirs'); commit`)
	execute(t, p.site.admin, `begin; select nudge.origin('mine'); insert into intakes values (11, 7, 'mine'); commit`)
	for _, d := range []*pushedDevice{mine, theirs} {
		d.woken(t, 0)
		d.explained(t, "settled", func(e *api.Explanation) bool { return e.Due == "" && e.Acked != "" })
	}
}

// A device that acknowledges over its socket is never pushed to. One whose socket is a black hole is, after the
// grace time and not before (A6).
func TestA06SocketFirst(t *testing.T) {
	p := newPushSite(t)
	there, gone := p.device(t, "7", "there", provider.IOS), p.device(t, "7", "gone", provider.IOS)
	hole := newBlackHole(t, strings.TrimPrefix(p.url, "http://"))
	conn := there.socket(t, p.url)
	_ = gone.socket(t, hole.url)
	for _, d := range []*pushedDevice{there, gone} {
		d.explained(t, "heard over its session", func(e *api.Explanation) bool { return e.Session != "" && e.Here })
	}
	hole.swallow.Store(true)
	execute(t, p.site.admin, `insert into intakes values (10, 7, 'new')`)

	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	p.hear(ctx, conn, wire.TNudge, &wire.Nudge{})
	cursor := there.at()
	p.say(ctx, conn, wire.Pull{T: wire.TPull, ID: 1, Cursor: &cursor})
	var page wire.Changes
	p.hear(ctx, conn, wire.TChanges, &page)
	p.say(ctx, conn, wire.Ack{T: wire.TAck, Cursor: page.Cursor})
	due := gone.explained(t, "due", isDue)
	if got := due.NextAt.Sub(*due.DueSince); got < pushGrace {
		t.Errorf("it is pushed to after %v", got)
	}
	if !strings.Contains(due.Verdict, "does not acknowledge") {
		t.Errorf("verdict %q", due.Verdict)
	}
	if e := there.explained(t, "settled", isSettled); len(e.Pushes) > 0 {
		t.Errorf("a device that acknowledged was pushed to: %+v", e)
	}
	gone.woken(t, 0)
	gone.explained(t, "settled", isSettled)
	if e := there.explain(t); len(e.Pushes) > 0 || e.Due != "" {
		t.Errorf("a device that acknowledged was pushed to: %+v", e)
	}
}

// A page that is served proves nothing: its device is due until it says that it has saved it (A6).
func TestA06AServedPageIsNoAcknowledgement(t *testing.T) {
	p := newPushSite(t)
	d := p.device(t, "7", "phone", provider.IOS)
	d.silent.Store(true)
	execute(t, p.site.admin, `insert into intakes values (10, 7, 'new')`)
	d.woken(t, 0)
	e := d.explained(t, "pulled", func(e *api.Explanation) bool { return len(e.Pushes) == 1 && e.Pushes[0].PulledAt != nil })
	if e.Due == "" || e.NextAt == nil || !strings.Contains(e.Verdict, "has not acknowledged") {
		t.Errorf("it was served a page, and is settled: %+v", e)
	}
	// The next pull proves it, as far as it goes.
	if err := d.pull(t.Context(), ""); err != nil {
		t.Fatal(err)
	}
	d.explained(t, "settled", isSettled)
}
