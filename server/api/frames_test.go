package api_test

import (
	"bytes"
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/google/go-cmp/cmp"

	"github.com/nudgesync/nudge/changefeed/change"
	"github.com/nudgesync/nudge/server/api"
	"github.com/nudgesync/nudge/server/pull"
	"github.com/nudgesync/nudge/server/wire"
)

func TestPullFrames(t *testing.T) {
	w := tcp(t)
	d := w.join("phone", "9")
	nine := "9"
	d.say(wire.Pull{T: wire.TPull, ID: -5, Cursor: &nine, Limit: 3, Nudge: "n"})
	c := hear[wire.Changes](d, wire.TChanges)
	if c.ID != -5 || c.Cursor != "10" || c.HasMore || len(c.Changes) != 1 {
		t.Errorf("%+v", c)
	}
	got := w.engine.lastPull()
	if got.Bytes <= 0 || got.Bytes >= wire.MaxChangesFrame {
		t.Errorf("bytes %d", got.Bytes)
	}
	got.Bytes = 0
	if diff := cmp.Diff(pull.Request{User: "7", Device: "phone", Since: "9", Limit: 3}, got); diff != "" {
		t.Error(diff)
	}
	d.sayText(`{"t":"pull","id":1,"cursor":null,"limit":1000000}`)
	hear[wire.Changes](d, wire.TChanges)
	if got := w.engine.lastPull(); got.Since != "" || got.Limit != 5000 {
		t.Errorf("%+v", got)
	}

	for frame, code := range map[string]wire.Code{
		`{"t":"pull","id":2,"cursor":"x"}`:                                            wire.CursorMalformed,
		`{"t":"pull","id":2,"cursor":"foreign"}`:                                      wire.CursorForeign,
		`{"t":"pull","id":2,"cursor":null,"limit":-1}`:                                wire.RequestInvalid,
		`{"t":"pull","id":2,"cursor":"1","nudge":"` + strings.Repeat("n", 129) + `"}`: wire.RequestInvalid,
	} {
		d.sayText(frame)
		if e := d.wantError(code); e.ID == nil || *e.ID != 2 {
			t.Errorf("%s: %+v", frame, e)
		}
	}
	w.engine.pull = func(context.Context, pull.Request) (*pull.Answer, error) {
		return nil, wire.NewProblem(wire.Overloaded, "").After(1500 * time.Millisecond)
	}
	d.say(wire.Pull{T: wire.TPull, ID: 3})
	if e := d.wantError(wire.Overloaded); e.RetryAfterMS != 1500 {
		t.Errorf("%+v", e)
	}
	w.engine.mu.Lock()
	w.engine.pull = func(context.Context, pull.Request) (*pull.Answer, error) { panic("secret") }
	w.engine.mu.Unlock()
	d.say(wire.Pull{T: wire.TPull, ID: 4})
	d.wantClose(wire.CloseInternal, "internal")
	if res, _ := w.ask("GET", "/livez", ""); res.StatusCode != 200 {
		t.Errorf("livez %d", res.StatusCode)
	}
}

// Pulls of one session are served one after the other, in order.
func TestPullsAreSequential(t *testing.T) {
	w := tcp(t)
	running := make(chan struct{}, 1)
	w.engine.pull = func(context.Context, pull.Request) (*pull.Answer, error) {
		select {
		case running <- struct{}{}:
		default:
			t.Error("two at once")
		}
		<-running
		return &pull.Answer{Cursor: "9", Source: "tail"}, nil
	}
	d := w.join("phone", "9")
	for id := range int64(20) {
		d.say(wire.Pull{T: wire.TPull, ID: id})
	}
	for id := range int64(20) {
		if c := hear[wire.Changes](d, wire.TChanges); c.ID != id {
			t.Errorf("answer %d came for %d", c.ID, id)
		}
	}
}

func TestAckFrames(t *testing.T) {
	w := tcp(t)
	var saved []string
	w.engine.saved = func(cursor string) (change.Position, error) {
		saved = append(saved, cursor)
		n, err := w.engine.number(cursor)
		return position(n), err
	}
	d := w.join("phone", "10")
	for range 200 { // free: far above the burst
		d.say(wire.Ack{T: wire.TAck, Cursor: "10"})
	}
	d.say(wire.Ack{T: wire.TAck, Cursor: "foreign"})
	d.wantError(wire.CursorForeign)
	if len(saved) != 201 {
		t.Errorf("%d acks reached the engine", len(saved))
	}
}

func TestBadFrames(t *testing.T) {
	w := tcp(t)
	deep := strings.Repeat(`[`, 8000) + strings.Repeat(`]`, 8000)
	d := w.join("phone", "10")
	for _, frame := range []string{
		``, `x`, `null`, `[]`, `"hello"`, `{}`, `{"t":null}`, `{"t":5}`, `{"t":"nudge"}`, `{"t":"HELLO"}`,
		`{"t":"pull","id":"1"}`, `{"t":"ack","cursor":{}}`, `{"t":"pull","id":1}{"t":"pull","id":2}`,
		`{"t":"x","deep":` + deep + `}`, deep, strings.Repeat(`{"t":`, 3000),
	} {
		d.sayText(frame)
		d.wantError(wire.RequestInvalid)
	}
	// Exactly the limit is not too large.
	d.sayText(`{"t":"` + strings.Repeat("x", wire.MaxClientFrame-8) + `"}`)
	d.wantError(wire.RequestInvalid)

	for _, c := range []struct {
		name   string
		typ    websocket.MessageType
		frame  []byte
		code   int
		reason string
	}{
		{"one byte too many", websocket.MessageText, bytes.Repeat([]byte("x"), wire.MaxClientFrame+1), wire.CloseTooBig, "too_large"},
		{"a megabyte of token", websocket.MessageText, []byte(`{"t":"hello","v":1,"token":"` + strings.Repeat("a", 1<<20) + `"}`), wire.CloseTooBig, "too_large"},
		{"binary", websocket.MessageBinary, []byte(`{"t":"ack","cursor":"10"}`), wire.CloseNotText, "not_text"},
		{"not UTF-8", websocket.MessageText, []byte("{\"t\":\"ack\",\"cursor\":\"\xff\"}"), wire.CloseNotUTF8, "not_utf8"},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, d := range []*device{w.dial(), w.join("other", "10")} {
				if err := d.conn.Write(context.Background(), c.typ, c.frame); err != nil {
					t.Fatal(err)
				}
				d.wantClose(c.code, c.reason)
			}
		})
	}
	d.say(wire.Pull{T: wire.TPull, ID: 9}) // the others' faults are not this one's
	hear[wire.Changes](d, wire.TChanges)
}

func FuzzDecode(f *testing.F) {
	for _, frame := range []string{
		`{"t":"hello","v":1,"token":"x","device":"d","cursor":null}`, `{"t":"pull","id":1,"cursor":"c","limit":5,"nudge":"n"}`,
		`{"t":"ack","cursor":"c"}`, `{"t":"token","token":"x"}`, `{"t":"nudge"}`, `{"t":"pull","id":1e400}`, `[[[[`, `{"t":"\ud800"}`, "\xff",
	} {
		f.Add([]byte(frame))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		frame, err := api.Decode(b)
		if (frame == nil) == (err == nil) {
			t.Fatalf("%v, %v", frame, err)
		}
		if err != nil {
			return
		}
		// What was understood says the same when it is said again.
		again, err := json.Marshal(frame)
		if err != nil {
			t.Fatal(err)
		}
		twice, err := api.Decode(again)
		if err != nil {
			t.Fatalf("%s: %v", again, err)
		}
		if d := cmp.Diff(frame, twice); d != "" {
			t.Error(d)
		}
	})
}
