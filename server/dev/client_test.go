package dev_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/coder/websocket/wsjson"
	"github.com/google/go-cmp/cmp"

	"github.com/nudgesync/nudge/server/dev/browsertest"
)

// patience bounds what should take a moment; it only shows when something hangs.
const patience = time.Minute

func TestRows(t *testing.T) {
	page := browsertest.Open(t, serveScripts(t, nil)+"/rows.js")
	up := func(scope, id string) string {
		return fmt.Sprintf(`{"op":"upsert","scope":%q,"table":"t","key":{"id":%q},"row":{"id":%[2]q,"a":1,"b":2}}`, scope, id)
	}
	for name, c := range map[string]struct {
		pages []string // the changes of one page each; the device restarts after every page
		want  []string // what is held in the end
	}{
		"upserts": {[]string{up("u", "1") + "," + up("u", "2")}, []string{"1:1:2", "2:1:2"}},
		"a patch keeps the other columns": {
			[]string{up("u", "1"), `{"op":"patch","scope":"u","table":"t","key":{"id":"1"},"row":{"b":7}}`},
			[]string{"1:1:7"},
		},
		"a patch of an absent row says nothing": {
			[]string{`{"op":"patch","scope":"u","table":"t","key":{"id":"1"},"row":{"b":7}}`}, []string{},
		},
		"a delete": {
			[]string{up("u", "1") + "," + up("u", "2"), `{"op":"delete","scope":"u","table":"t","key":{"id":"1"}}`},
			[]string{"2:1:2"},
		},
		"a delete of an absent row": {
			[]string{`{"op":"delete","scope":"u","table":"t","key":{"id":"1"}}`}, []string{},
		},
		"a row stays while one scope holds it": {
			[]string{up("a", "1") + "," + up("b", "1"), `{"op":"delete","scope":"a","table":"t","key":{"id":"1"}}`},
			[]string{"1:1:2"},
		},
		"forget drops what no other scope holds": {
			[]string{up("a", "1") + "," + up("b", "1") + "," + up("a", "2"), `{"op":"forget","scope":"a"}`},
			[]string{"1:1:2"},
		},
		"a sweep drops what did not come again": {
			[]string{
				up("u", "1") + "," + up("u", "2"), `{"op":"reset","scope":"u","table":"t","gen":"g"}`,
				up("u", "2"), `{"op":"sweep","scope":"u","table":"t","gen":"g"}`,
			},
			[]string{"2:1:2"},
		},
		"a reset alone drops nothing": {
			[]string{up("u", "1"), `{"op":"reset","scope":"*","table":"*","gen":"g"}`}, []string{"1:1:2"},
		},
		"of all scopes and tables": {
			[]string{
				up("u", "1"), `{"op":"reset","scope":"*","table":"*","gen":"g"},{"op":"sweep","scope":"*","table":"*","gen":"g"}`,
			},
			[]string{},
		},
		"of another table": {
			[]string{
				up("u", "1"), `{"op":"reset","scope":"*","table":"x","gen":"g"},{"op":"sweep","scope":"*","table":"x","gen":"g"}`,
			},
			[]string{"1:1:2"},
		},
		"a newer reset takes over the marks": {
			[]string{
				up("u", "1"), `{"op":"reset","scope":"u","table":"t","gen":"g1"}`, `{"op":"reset","scope":"u","table":"t","gen":"g2"}`,
				`{"op":"sweep","scope":"u","table":"t","gen":"g1"}`,
			},
			[]string{"1:1:2"},
		},
		"and its own sweep counts": {
			[]string{
				up("u", "1"), `{"op":"reset","scope":"u","table":"t","gen":"g1"}`, `{"op":"reset","scope":"u","table":"t","gen":"g2"}`,
				`{"op":"sweep","scope":"u","table":"t","gen":"g2"}`,
			},
			[]string{},
		},
	} {
		t.Run(name, func(t *testing.T) {
			pages, err := json.Marshal(c.pages)
			if err != nil {
				t.Fatal(err)
			}
			got := browsertest.Eval[[]string](page, `(async () => {
				const { Rows } = await import("/rows.js");
				localStorage.clear();
				const pages = `+string(pages)+`;
				pages.forEach((changes, i) => new Rows(localStorage, "x").apply(
					{ cursor: "c" + i, has_more: false, changes: JSON.parse("[" + changes + "]") }));
				const rows = new Rows(localStorage, "x");
				if (rows.cursor !== "c" + (pages.length - 1)) throw new Error("cursor " + rows.cursor);
				return rows.of("t").map((r) => [r.id, r.a, r.b].join(":")).sort();
			})()`)
			if d := cmp.Diff(c.want, got); d != "" {
				t.Errorf("rows (-want +got):\n%s", d)
			}
		})
	}
}

// frame is any frame of the protocol.
type frame map[string]any

// device is the page's client, connected to a server that the test plays.
type device struct {
	t    *testing.T
	page *browsertest.Page
	// dialled has every socket that the client opened.
	dialled chan *websocket.Conn
	socket  *websocket.Conn
}

// newDevice makes a client without a cursor and lets it connect.
func newDevice(t *testing.T) *device {
	d := &device{t: t, dialled: make(chan *websocket.Conn, 16)}
	base := serveScripts(t, d.dialled)
	d.page = browsertest.Open(t, base+"/client.js")
	browsertest.Eval[bool](d.page, `(async () => {
		const { Rows } = await import("/rows.js");
		const { Client } = await import("/client.js");
		localStorage.clear();
		window.tokens = 0;
		window.log = [];
		window.rows = new Rows(localStorage, "x");
		window.client = new Client({
			url: location.origin.replace("http", "ws") + "/v1/socket", device: "d1", rows,
			token: async () => "token" + ++tokens,
		});
		client.addEventListener("state", ({ detail }) => log.push(detail.state));
		client.addEventListener("pulled", ({ detail }) => log.push(detail.why + ":" + detail.changes.length));
		client.connect();
		return true;
	})()`)
	return d
}

// accept takes the next socket that the client opens, and returns its hello.
func (d *device) accept() frame {
	d.t.Helper()
	select {
	case d.socket = <-d.dialled:
	case <-time.After(patience):
		d.t.Fatal("the client did not dial")
	}
	return d.expect("hello")
}

// expect is the client's next frame, which must be of that type.
func (d *device) expect(kind string) frame {
	d.t.Helper()
	ctx, cancel := context.WithTimeout(d.t.Context(), patience)
	defer cancel()
	var f frame
	if err := wsjson.Read(ctx, d.socket, &f); err != nil {
		d.t.Fatalf("waiting for %s: %v", kind, err)
	}
	if f["t"] != kind {
		d.t.Fatalf("the client sent %v, want %s", f, kind)
	}
	return f
}

func (d *device) send(f frame) {
	d.t.Helper()
	ctx, cancel := context.WithTimeout(d.t.Context(), patience)
	defer cancel()
	if err := wsjson.Write(ctx, d.socket, f); err != nil {
		d.t.Fatal(err)
	}
}

// serve expects a pull from a cursor, answers it with one upsert a row, and takes the ack.
func (d *device) serve(from any, cursor string, more bool, rows ...string) {
	d.t.Helper()
	pull := d.expect("pull")
	if pull["cursor"] != from {
		d.t.Fatalf("pull since %v, want %v", pull["cursor"], from)
	}
	changes := []frame{}
	for _, id := range rows {
		changes = append(changes, frame{"op": "upsert", "scope": "u", "table": "t", "key": frame{"id": id}, "row": frame{"id": id}})
	}
	d.send(frame{"t": "changes", "id": pull["id"], "cursor": cursor, "has_more": more, "changes": changes})
	if ack := d.expect("ack"); ack["cursor"] != cursor {
		d.t.Fatalf("acknowledged %v, want %v", ack["cursor"], cursor)
	}
}

func (d *device) ready(behind bool) {
	d.t.Helper()
	d.send(frame{"t": "ready", "session": "s", "head": "h", "behind": behind, "max_age_s": 60})
}

// quiet proves that the client has nothing to say: asked for a token, it sends that and no pull.
func (d *device) quiet() {
	d.t.Helper()
	d.send(frame{"t": "token_expiring", "in_s": 60})
	d.expect("token")
}

func (d *device) log() []string {
	d.t.Helper()
	return browsertest.Eval[[]string](d.page, "log")
}

func TestClientPullsUntilWhole(t *testing.T) {
	d := newDevice(t)
	if hello := d.accept(); hello["cursor"] != nil || hello["token"] != "token1" || hello["device"] != "d1" {
		t.Fatalf("hello %v", hello)
	}
	d.ready(true)
	d.serve(nil, "c1", true, "1")
	pull := d.expect("pull") // the first page alone shows nothing
	if log := d.log(); cmp.Diff([]string{"connecting", "online"}, log) != "" {
		t.Fatalf("half a transaction was announced: %v", log)
	}
	d.send(frame{"t": "nudge", "head": "h", "within_ms": 0, "id": "n1"}) // in mid-loop: pull once more
	d.send(frame{"t": "changes", "id": pull["id"], "cursor": "c2", "has_more": false, "changes": []frame{}})
	d.expect("ack")
	d.serve("c2", "c3", false)
	d.quiet()
	d.page.Wait(`log.at(-1) === "nudge:0"`)
	if d := cmp.Diff([]string{"connecting", "online", "connect:1", "nudge:0"}, d.log()); d != "" {
		t.Errorf("events (-want +got):\n%s", d)
	}
}

func TestClientAsksNothingWhenUpToDate(t *testing.T) {
	d := newDevice(t)
	d.accept()
	d.ready(true)
	d.serve(nil, "c1", false, "1")
	_ = d.socket.Close(1012, "drain")
	if hello := d.accept(); hello["cursor"] != "c1" || hello["token"] != "token2" {
		t.Fatalf("after a drain: hello %v", hello)
	}
	d.ready(false)
	d.quiet()
	d.send(frame{"t": "cursor", "cursor": "c1-fresh"})
	d.send(frame{"t": "nudge", "head": "h", "within_ms": 5, "id": "n1"})
	d.serve("c1-fresh", "c2", false)
}

func TestClientStopsWhenTold(t *testing.T) {
	d := newDevice(t)
	d.accept()
	d.ready(true)
	d.serve(nil, "c1", false)
	_ = d.socket.Close(4504, "replaced")
	d.page.Wait(`log.at(-1) === "stopped"`)
	browsertest.Eval[bool](d.page, `(client.networkReturned(), true)`) // does not bring it back
	browsertest.Eval[bool](d.page, `(client.connect(), true)`)         // the person does
	d.accept()
	if n := len(d.dialled); n != 0 {
		t.Errorf("dialled %d times too often", n)
	}
}

func TestClientStartsOverWithABadCursor(t *testing.T) {
	for _, code := range []string{"cursor_malformed", "cursor_foreign"} {
		t.Run(code, func(t *testing.T) {
			d := newDevice(t)
			d.accept()
			d.ready(true)
			d.serve(nil, "c1", false, "1", "2")
			d.send(frame{"t": "nudge", "head": "h", "within_ms": 0, "id": "n1"})
			pull := d.expect("pull")
			d.send(frame{"t": "error", "id": pull["id"], "code": code})
			d.serve(nil, "c2", false, "3")
			d.page.Wait(`rows.cursor === "c2"`)
			if got := browsertest.Eval[[]string](d.page, `rows.of("t").map((r) => r.id)`); cmp.Diff([]string{"3"}, got) != "" {
				t.Errorf("holds %v, want only 3", got)
			}
		})
	}
}

func TestClientWaitsWhenTheServerIsBusy(t *testing.T) {
	d := newDevice(t)
	d.accept()
	d.ready(true)
	pull := d.expect("pull")
	d.send(frame{"t": "error", "id": pull["id"], "code": "overloaded", "retry_after_ms": 5})
	d.serve(nil, "c1", false)
}

// The pull after an own write can come before the log has it, so it asks the server to wait.
func TestClientAsksToWaitForItsOwnWrite(t *testing.T) {
	d := newDevice(t)
	d.accept()
	d.ready(true)
	if pull := d.expect("pull"); pull["wait_ms"] != nil {
		t.Errorf("the first pull waits: %v", pull)
	}
	// The write is accepted while a pull is out: another one follows, and that one waits.
	browsertest.Eval[bool](d.page, `(window.came = null, client.wrote().then(() => { came = rows.size; }), true)`)
	d.send(frame{"t": "changes", "id": 1, "cursor": "c1", "has_more": false, "changes": []frame{}})
	d.expect("ack")
	if pull := d.expect("pull"); pull["wait_ms"] != 2000.0 {
		t.Errorf("the pull after a write: %v", pull)
	}
	row := frame{"op": "upsert", "scope": "u", "table": "t", "key": frame{"id": "1"}, "row": frame{"id": "1"}}
	d.send(frame{"t": "changes", "id": 2, "cursor": "c2", "has_more": false, "changes": []frame{row}})
	d.expect("ack")
	d.page.Wait(`came === 1`)
	d.quiet()
}

func TestClientKeepsItsRowsOverAReload(t *testing.T) {
	d := newDevice(t)
	d.accept()
	d.ready(true)
	d.serve(nil, "c1", true, "1")
	d.expect("pull")
	got := browsertest.Eval[string](d.page, `(async () => {
		const { Rows } = await import("/rows.js");
		const again = new Rows(localStorage, "x");
		return [again.cursor, again.size, again.whole].join();
	})()`)
	if got != "c1,1,false" {
		t.Errorf("after a reload: %s, want the page, its cursor, and that it is not whole", got)
	}
}

// serveScripts serves the page's scripts, and hands every socket that is opened to the test.
func serveScripts(t *testing.T, dialled chan<- *websocket.Conn) string {
	t.Helper()
	mux := http.NewServeMux()
	mux.Handle("/", http.FileServerFS(os.DirFS("page")))
	mux.HandleFunc("/favicon.ico", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
	mux.HandleFunc("/v1/socket", func(w http.ResponseWriter, r *http.Request) {
		c, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{"nudge.v1"}})
		if err != nil {
			return
		}
		t.Cleanup(func() { _ = c.CloseNow() })
		dialled <- c
	})
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	return strings.TrimSuffix(server.URL, "/")
}
