package main

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/nudgesync/nudge/server/dev/browsertest"
)

// What a person sees of the phone in the pocket: a push wakes it, unless the phone or its platform holds the push
// back; then it is stale, the page says why, and what holds it can be taken away.
func TestDevPocket(t *testing.T) {
	d := startDev(t, t.TempDir(), "--ephemeral", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0")
	p := openPocket(t, d)
	p.Wait(`["phone", "tablet", "pocket"].every((d) => document.querySelectorAll("#" + d + " [data-list=intakes] li").length === 5)`)
	p.fresh(true)
	open := browsertest.Eval[[]string](p.Page, `[...document.querySelectorAll("#phone li[data-taken=false]")].map((li) => li.dataset.id)`)
	if len(open) < 3 {
		t.Fatalf("the demo user has %d open intakes, want at least 3", len(open))
	}

	p.tick(open[0])
	p.shows(open[0])
	p.says("push", "nudge has told Apple")
	p.says("nudge", "was woken and pulled 2 changes")
	p.settled()

	// The push waits at Apple's, and comes when the phone is back.
	p.later()
	p.flip("offline")
	p.tick(open[1])
	p.says("held", "has no network")
	p.stale(open[1], "accepted by its provider")
	for _, width := range []int64{1280, 390} {
		for _, scheme := range []string{"light", "dark"} {
			t.Log(p.Shot("pocket", width, scheme))
		}
		if wide := browsertest.Eval[int](p.Page, "document.documentElement.scrollWidth"); int64(wide) > width {
			t.Errorf("at %d pixels the page is %d wide", width, wide)
		}
	}
	p.flip("offline")
	p.shows(open[1])
	p.settled()

	// A push to an app that was swiped away is lost; opening the app is what helps.
	p.later()
	p.Click("#pocket-panel [data-do=quit]")
	p.Wait(`document.getElementById("pocket").dataset.quit === "true"`)
	p.tick(open[2])
	p.says("held", "throws the push away")
	p.stale(open[2], "accepted by its provider")
	p.Click("#pocket-panel [data-do=open]")
	p.shows(open[2])
	p.says("pull", "was opened and pulled 2 changes")
	p.settled()
	p.Close()
}

// Another phone is another road: Android's, whose Doze opens a window after an hour.
func TestDevPocketDozes(t *testing.T) {
	d := startDev(t, t.TempDir(), "--ephemeral", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0")
	p := openPocket(t, d)
	p.Wait(`["phone", "pocket"].every((d) => document.querySelectorAll("#" + d + " [data-list=intakes] li").length === 5)`)
	p.Click("#pocket-panel .choice label:last-child")
	p.flip("doze")
	p.fresh(true)
	id := browsertest.Eval[string](p.Page, `document.querySelector("#phone li[data-taken=false]").dataset.id`)
	p.tick(id)
	p.says("push", "nudge has told Google")
	p.says("held", "dozes")
	p.stale(id, "in 2m") // when nudge itself tries again
	p.later()
	p.shows(id)
	p.settled()
	p.Close()
}

// pocketPage is the page, and what a person does to the phone in the pocket.
type pocketPage struct {
	*browsertest.Page
	t    *testing.T
	conn *pgx.Conn // of the demo's database
}

func openPocket(t *testing.T, d *runningDev) *pocketPage {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), d.state.DSN)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return &pocketPage{browsertest.Open(t, d.state.URL+"/"), t, conn}
}

// settled waits until the ledger knows how all pushes ended, and that the device heard of them: persons are slower
// than that, tests are not.
func (p *pocketPage) settled() {
	p.t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for settled := false; !settled; <-tick.C {
		err := p.conn.QueryRow(p.t.Context(), `select not exists (select from nudge.wakes where answered_at is null or acked_at is null)
			and not exists (select from nudge.due where next_at is not null)`).Scan(&settled)
		if err != nil {
			p.t.Fatal(err)
		}
	}
	p.fresh(true)
}

// tick ticks an intake off on the phone, and waits until the phone shows it.
func (p *pocketPage) tick(id string) {
	p.Click("#phone li[data-id='" + id + "'] button")
	p.Wait(taken("phone", id) + " !== null")
}

// shows waits until the one in the pocket shows an intake as taken.
func (p *pocketPage) shows(id string) { p.Wait(taken("pocket", id) + " !== null") }

// stale waits until the page says why, and the one in the pocket doesn't show an intake as taken.
func (p *pocketPage) stale(id, why string) {
	p.fresh(false)
	p.Wait(`document.querySelector("#pocket-panel .verdict").textContent.includes("` + why + `") && ` + taken("pocket", id) + " === null")
}

// fresh waits until the page says that the device is up to date, or that it isn't.
func (p *pocketPage) fresh(is bool) {
	want := "true"
	if is {
		want = "false"
	}
	p.Wait(`document.getElementById("pocket-panel").dataset.stale === "` + want + `"`)
}

// says waits until the newest line of that kind says something.
func (p *pocketPage) says(kind, what string) {
	p.Wait(`document.querySelector("#events li[data-side=pocket][data-kind=` + kind + `]")?.textContent.includes("` + what + `")`)
}

// flip changes a switch.
func (p *pocketPage) flip(name string) {
	p.Click("#pocket-panel label:has([data-switch=" + name + "])")
}

// later lets an hour pass.
func (p *pocketPage) later() {
	p.Click("#pocket-panel [data-do=later]")
	p.says("held", "slept for an hour")
}

func taken(device, id string) string {
	return strings.NewReplacer("$device", device, "$id", id).Replace(`document.querySelector("#$device li[data-id='$id'][data-taken=true]")`)
}
