package device_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/google/go-cmp/cmp"

	"github.com/nudgesync/nudge/server/wire"
)

func TestNudgePullAck(t *testing.T) {
	r := newRig(t)
	p := r.first()
	p.send(wire.Nudge{T: wire.TNudge, Head: "h", ID: "n1"})
	pull := p.expect(wire.TPull, "1")
	if pull.Nudge != "n1" {
		t.Errorf("the pull names nudge %q, want n1", pull.Nudge)
	}
	p.page(pull.ID, page("2", true, `upsert a t 1 {"x":2}`))
	// In the middle of the loop: no ack, and nothing new shows.
	pull = p.expect(wire.TPull, "2")
	if diff := cmp.Diff([]string{`a t {"id":1} {"x":1}`}, shows(r.state)); diff != "" {
		t.Errorf("shown in mid-pull (-want +got):\n%s", diff)
	}
	p.page(pull.ID, page("3", false))
	p.expect(wire.TAck, "3")
	if diff := cmp.Diff([]string{`a t {"id":1} {"x":2}`}, shows(r.state)); diff != "" {
		t.Errorf("shown (-want +got):\n%s", diff)
	}
}

func TestNudgesDuringALoopMakeOneMore(t *testing.T) {
	r := newRig(t)
	p := r.first()
	r.dev.Pull() // an own write
	pull := p.expect(wire.TPull, "1")
	for i := range 3 {
		p.send(wire.Nudge{T: wire.TNudge, Head: "h", ID: fmt.Sprint("n", i)})
		take(t, "nudge", r.nudged)
	}
	p.page(pull.ID, page("2", true))
	pull = p.expect(wire.TPull, "2")
	p.page(pull.ID, page("3", false))
	p.expect(wire.TAck, "3")
	pull = p.expect(wire.TPull, "3")
	p.page(pull.ID, page("3", false))
	p.expect(wire.TAck, "3")
	// No fourth: the next frame is this nudge's.
	p.send(wire.Nudge{T: wire.TNudge, Head: "h", ID: "last"})
	if f := p.expect(wire.TPull, "3"); f.Nudge != "last" || f.ID != pull.ID+1 {
		t.Errorf("pull %+v, want one for the last nudge alone", f)
	}
}

func TestANudgeThatMayBeSpread(t *testing.T) {
	r := newRig(t)
	p := r.first()
	p.send(wire.Nudge{T: wire.TNudge, Head: "h", WithinMS: 800})
	w := r.waited()
	if w.d != 400*time.Millisecond {
		t.Errorf("waits %v, want half of 800 ms", w.d)
	}
	w.fire <- time.Time{}
	p.expect(wire.TPull, "1")
}

func TestNotBehindAsksNothing(t *testing.T) {
	r := newRig(t)
	p := r.first()
	p.close(wire.CloseDrain)
	r.waited().fire <- time.Time{}
	p = take(t, "socket", r.sockets)
	p.ready("1", false)
	p.send(wire.Cursor{T: wire.TCursor, Cursor: "1b"})
	p.send(map[string]any{"t": "of a later protocol"})
	p.send(wire.Nudge{T: wire.TNudge})
	p.expect(wire.TPull, "1b") // the fresh cursor was taken, and nothing was asked before
}

func TestACursorDuringAPullIsIgnored(t *testing.T) {
	r := newRig(t)
	p := r.first()
	p.send(wire.Nudge{T: wire.TNudge})
	pull := p.expect(wire.TPull, "1")
	p.send(wire.Cursor{T: wire.TCursor, Cursor: "9"})
	p.page(pull.ID-1, page("8", false, `delete a t 1`)) // an answer to another pull
	p.page(pull.ID, page("2", false))
	p.expect(wire.TAck, "2")
	if len(shows(r.state)) != 1 {
		t.Error("took a page that it did not ask for")
	}
}

func TestAPullThatWasCutGoesOn(t *testing.T) {
	r := newRig(t)
	p := r.first()
	p.send(wire.Nudge{T: wire.TNudge})
	p.page(p.expect(wire.TPull, "1").ID, page("2", true, `upsert a t 2 {}`))
	p.expect(wire.TPull, "2")
	p.close(wire.CloseTooSlow)
	r.waited().fire <- time.Time{}
	p = take(t, "socket", r.sockets)
	p.ready("2", false) // whatever the server thinks
	p.expect(wire.TPull, "2")
}

func TestAnOwnWriteWithoutASocketIsPulledOnConnect(t *testing.T) {
	r := newRig(t)
	p := r.first()
	p.close(wire.CloseDrain)
	w := r.waited()
	r.dev.Pull()
	w.fire <- time.Time{}
	p = take(t, "socket", r.sockets)
	p.ready("1", false)
	p.expect(wire.TPull, "1")
}

func TestBackoff(t *testing.T) {
	r := newRig(t)
	p := r.first()
	for range 10 {
		r.refuse <- problem(wire.Overloaded, 0)
	}
	p.close(websocket.StatusInternalError)
	for i, want := range []time.Duration{50, 100, 200, 400, 800, 1600, 3200, 5000, 5000} {
		w := r.waited()
		if w.d != want*time.Millisecond {
			t.Errorf("wait %d: %v, want half of the ceiling: %v", i, w.d, want*time.Millisecond)
		}
		w.fire <- time.Time{}
	}
	_ = r.waited()
	r.dev.Wake() // the network is back: now, and from the start
	w := r.waited()
	if w.d != 50*time.Millisecond {
		t.Errorf("after the network's return: %v, want 50ms", w.d)
	}
	w.fire <- time.Time{}
	take(t, "socket", r.sockets).ready("1", false)
}

func TestHintsWin(t *testing.T) {
	r := newRig(t)
	p := r.first()
	r.refuse <- problem(wire.Overloaded, 7*time.Second)
	r.refuse <- func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", "9")
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	p.close(wire.CloseOverload)
	r.waited().fire <- time.Time{}
	for _, want := range []time.Duration{7 * time.Second, 9 * time.Second} {
		w := r.waited()
		if w.d != want {
			t.Errorf("waits %v, want the server's %v", w.d, want)
		}
		w.fire <- time.Time{}
	}
	p = take(t, "socket", r.sockets)
	p.ready("1", true)
	pull := p.expect(wire.TPull, "1")
	p.send(wire.Error{T: wire.TError, ID: &pull.ID, Code: wire.DatabaseAway, RetryAfterMS: 1234})
	w := r.waited()
	if w.d != 1234*time.Millisecond {
		t.Errorf("waits %v, want the server's 1.234 s", w.d)
	}
	w.fire <- time.Time{}
	p.expect(wire.TPull, "1")
}

// A nudge, the app or the network are no reason to come back sooner than the server has said.
func TestHintsAreKept(t *testing.T) {
	r := newRig(t)
	p := r.first()
	p.send(wire.Nudge{T: wire.TNudge})
	pull := p.expect(wire.TPull, "1")
	p.send(wire.Error{T: wire.TError, ID: &pull.ID, Code: wire.Overloaded, RetryAfterMS: 5000})
	w := r.waited()
	for i, within := range []int{0, 100, 0} {
		p.send(wire.Nudge{T: wire.TNudge, ID: fmt.Sprint(i), WithinMS: within})
		take(t, "nudge", r.nudged)
	}
	r.dev.Pull()
	r.dev.Wake()
	p.send(wire.TokenExpiring{T: wire.TTokenExpiring, InS: 60})
	p.expect(wire.TToken, "") // and no pull before
	w.fire <- time.Time{}
	if f := p.expect(wire.TPull, "1"); f.ID != pull.ID+1 || f.Nudge != "2" {
		t.Errorf("%+v, want the pull of the last nudge", f)
	}
	p.page(pull.ID+1, page("2", false))
	p.expect(wire.TAck, "2")

	r.refuse <- problem(wire.Overloaded, 7*time.Second)
	p.close(wire.CloseOverload)
	r.waited().fire <- time.Time{}
	w = r.waited()
	if w.d != 7*time.Second {
		t.Errorf("waits %v, want the server's 7 s", w.d)
	}
	_ = take(t, "loss", r.lost)
	_ = take(t, "loss", r.lost)
	r.refuse <- problem(wire.ProtocolOld, 0) // ends it, whenever it dials
	for range 1000 {
		r.dev.Wake()
		runtime.Gosched()
	}
	w.fire <- time.Time{}
	_ = take(t, "end", r.ended)
	if len(w.fire) > 0 {
		t.Error("dialled before the time")
	}
}

func TestGoaway(t *testing.T) {
	r := newRig(t)
	p := r.first()
	p.send(wire.Goaway{T: wire.TGoaway, AfterMS: 300, Reason: "drain"})
	w := r.waited()
	if w.d != 300*time.Millisecond {
		t.Errorf("waits %v, want 300ms", w.d)
	}
	p.send(wire.Nudge{T: wire.TNudge}) // the session still serves
	p.page(p.expect(wire.TPull, "1").ID, page("2", false))
	p.expect(wire.TAck, "2")
	w.fire <- time.Time{}
	close(p.gone)
	p = take(t, "socket", r.sockets) // at once: it has waited
	p.ready("2", false)

	// The server closes before the time: the device keeps to the time.
	p.send(wire.Goaway{T: wire.TGoaway, AfterMS: 400})
	w = r.waited()
	p.close(wire.CloseDrain)
	_ = take(t, "loss", r.lost)
	_ = take(t, "loss", r.lost)
	w.fire <- time.Time{}
	take(t, "socket", r.sockets).ready("2", false)
}

func TestCloseCodesByRange(t *testing.T) {
	for _, code := range []websocket.StatusCode{wire.CloseBadToken, wire.CloseReplaced, 4500, 4999} {
		t.Run(fmt.Sprint(code), func(t *testing.T) {
			r := newRig(t)
			r.first().close(code)
			if got := stopCode(take(t, "end", r.ended)); got != int(code) {
				t.Errorf("Run ended with code %d, want %d", got, code)
			}
		})
	}
	for _, code := range []websocket.StatusCode{wire.CloseDrain, wire.CloseTokenExpired, wire.CloseRate, 4000, 4499, 1011} {
		t.Run(fmt.Sprint(code), func(t *testing.T) {
			r := newRig(t)
			r.first().close(code)
			r.waited().fire <- time.Time{}
			take(t, "socket", r.sockets).ready("1", false)
		})
	}
}

func TestRefusedUpgradesThatStop(t *testing.T) {
	for code, want := range map[wire.Code]int{
		wire.TokenBad: wire.CloseBadToken, wire.TokenRevoked: wire.CloseRevoked, wire.ProtocolOld: wire.CloseProtocolOld,
	} {
		r := newRig(t)
		p := r.first()
		r.refuse <- problem(code, 0)
		p.close(wire.CloseDrain)
		r.waited().fire <- time.Time{}
		if got := stopCode(take(t, "end", r.ended)); got != want {
			t.Errorf("%s: Run ended with code %d, want %d", code, got, want)
		}
	}
}

func TestCursorsThatAreNone(t *testing.T) {
	for code, rows := range map[wire.Code]int{wire.CursorForeign: 0, wire.CursorMalformed: 1} {
		r := newRig(t)
		p := r.first()
		p.send(wire.Nudge{T: wire.TNudge})
		pull := p.expect(wire.TPull, "1")
		p.send(wire.Error{T: wire.TError, ID: &pull.ID, Code: code})
		p.expect(wire.TPull, "")
		if got := len(shows(r.state)); got != rows {
			t.Errorf("%s leaves %d rows, want %d", code, got, rows)
		}
	}
}

func TestTokenExpiring(t *testing.T) {
	r := newRig(t)
	p := r.first()
	p.send(wire.TokenExpiring{T: wire.TTokenExpiring, InS: 60})
	if f := p.expect(wire.TToken, ""); f.Token != "secret" {
		t.Errorf("token %q", f.Token)
	}
}

func TestABrokenPageIsNotStored(t *testing.T) {
	r := newRig(t)
	p := r.first()
	p.send(wire.Nudge{T: wire.TNudge})
	p.page(p.expect(wire.TPull, "1").ID, page("2", false, `delete a t 1`, `shout a t 2`))
	close(p.gone)
	r.waited().fire <- time.Time{}
	take(t, "socket", r.sockets).ready("1", false)
	if len(shows(r.state)) != 1 {
		t.Error("a part of a broken page was stored")
	}
}

func TestWhereNoSocketGetsThrough(t *testing.T) {
	r := newRig(t)
	p := r.first()
	r.refuse <- func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "a proxy", http.StatusForbidden) }
	p.close(wire.CloseDrain)
	r.waited().fire <- time.Time{}
	for i, pg := range []*wire.Page{page("2", true, `upsert a t 2 {}`), page("3", false, `upsert a t 3 {}`)} {
		g := take(t, "GET", r.gets)
		if since := g.req.URL.Query().Get("since"); since != fmt.Sprint(i+1) || g.req.Header.Get("Nudge-Device") != "phone" {
			t.Errorf("GET %v", g.req.URL)
		}
		g.answer <- func(w http.ResponseWriter) { _ = json.NewEncoder(w).Encode(pg) }
	}
	r.waited().fire <- time.Time{}
	take(t, "socket", r.sockets).ready("3", false)
	if len(shows(r.state)) != 3 {
		t.Errorf("shows %v, want 3 rows", shows(r.state))
	}
}

func TestARowThatNoFrameCarries(t *testing.T) {
	r := newRig(t)
	p := r.first()
	p.send(wire.Nudge{T: wire.TNudge})
	big := page("2", false, `upsert a t 2 {"x":"`+strings.Repeat("x", 5<<20)+`"}`)
	pull := p.expect(wire.TPull, "1")
	b, err := json.Marshal(wire.Changes{T: wire.TChanges, ID: pull.ID, Page: *big})
	if err != nil {
		t.Fatal(err)
	}
	_ = p.conn.Write(t.Context(), websocket.MessageText, b) // the device hangs up in its middle
	close(p.gone)
	g := take(t, "GET", r.gets)
	g.answer <- func(w http.ResponseWriter) { _ = json.NewEncoder(w).Encode(big) }
	r.waited().fire <- time.Time{}
	take(t, "socket", r.sockets).ready("2", false)
}

func TestTwoRoadsAtOnce(t *testing.T) {
	r := newRig(t)
	p := r.first()
	p.send(wire.Nudge{T: wire.TNudge})
	pull := p.expect(wire.TPull, "1")
	done := make(chan error, 1)
	go func() { done <- r.dev.PullHTTP(t.Context()) }()
	g := take(t, "GET", r.gets)
	g.answer <- func(w http.ResponseWriter) { _ = json.NewEncoder(w).Encode(page("3", false, `upsert a t 1 {"x":3}`)) }
	if err := take(t, "end of the pull", done); err != nil {
		t.Fatal(err)
	}
	p.page(pull.ID, page("2", false, `upsert a t 1 {"x":2}`)) // older, and too late
	p.expect(wire.TPull, "3")
	if diff := cmp.Diff([]string{`a t {"id":1} {"x":3}`}, shows(r.state)); diff != "" {
		t.Errorf("shown (-want +got):\n%s", diff)
	}
}

func TestPullHTTPUpToDate(t *testing.T) {
	r := newRig(t)
	r.first()
	done := make(chan error, 1)
	go func() { done <- r.dev.PullHTTP(t.Context()) }()
	g := take(t, "GET", r.gets)
	if tag := g.req.Header.Get("If-None-Match"); tag != `"1"` {
		t.Errorf("If-None-Match %s", tag)
	}
	g.answer <- func(w http.ResponseWriter) {
		w.Header().Set(wire.HeaderCursor, "1b")
		w.WriteHeader(http.StatusNotModified)
	}
	if err := take(t, "end of the pull", done); err != nil {
		t.Fatal(err)
	}
	if r.state.Cursor() != "1b" {
		t.Errorf("cursor %q, want the fresh one", r.state.Cursor())
	}
}

func TestAnAnswerThatNeverComes(t *testing.T) {
	r := newRig(t)
	p := r.first()
	p.send(wire.Nudge{T: wire.TNudge})
	p.expect(wire.TPull, "1")
	var owed wait
	for len(r.waits) > 0 {
		owed = <-r.waits // the newest is this pull's
	}
	owed.fire <- time.Time{}
	close(p.gone)
	r.waited().fire <- time.Time{}
	take(t, "socket", r.sockets).ready("1", true)
}
