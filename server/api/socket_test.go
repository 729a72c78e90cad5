package api_test

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coder/websocket"

	"github.com/nudgesync/nudge/changefeed/change"
	"github.com/nudgesync/nudge/server/api"
	"github.com/nudgesync/nudge/server/auth"
	"github.com/nudgesync/nudge/server/pull"
	"github.com/nudgesync/nudge/server/wire"
)

func TestUpgradeRefused(t *testing.T) {
	w := tcp(t)
	good := []string{
		"Connection", "Upgrade", "Upgrade", "websocket", "Sec-WebSocket-Version", "13",
		"Sec-WebSocket-Key", "MDEyMzQ1Njc4OWFiY2RlZg==", "Sec-WebSocket-Protocol", wire.Subprotocol,
	}
	for _, c := range []struct {
		name    string
		headers []string
		status  int
		code    wire.Code
	}{
		{"no upgrade", []string{"Upgrade", ""}, 426, wire.ProtocolOld},
		{"no subprotocol", []string{"Sec-WebSocket-Protocol", ""}, 426, wire.ProtocolOld},
		{"another subprotocol", []string{"Sec-WebSocket-Protocol", "nudge.v0, chat"}, 426, wire.ProtocolOld},
		{"another origin", []string{"Origin", "https://evil.example"}, 403, wire.OriginForbidden},
		{"another scheme", []string{"Authorization", "Basic eDp5"}, 401, wire.TokenMissing},
		{"no key", []string{"Sec-WebSocket-Key", ""}, 400, wire.RequestInvalid},
		{"old version", []string{"Sec-WebSocket-Version", "8"}, 400, wire.RequestInvalid},
	} {
		t.Run(c.name, func(t *testing.T) {
			res, body := w.ask("GET", "/v1/socket", "", append(append([]string{}, good...), c.headers...)...)
			wantProblem(t, res, body, c.status, c.code)
		})
	}
	if got := w.count("nudge_sessions"); got != 0 {
		t.Errorf("sessions: %v", got)
	}
}

func TestUpgradeAllowed(t *testing.T) {
	w := tcp(t)
	for _, origin := range []string{"", "https://app.example", w.url} {
		d := w.dial(func(o *websocket.DialOptions) {
			o.HTTPHeader = http.Header{"Authorization": {"Bearer " + w.token()}}
			if origin != "" {
				o.HTTPHeader.Set("Origin", origin)
			}
			o.CompressionMode = websocket.CompressionContextTakeover // offered, not taken
		})
		if got := d.conn.Subprotocol(); got != wire.Subprotocol {
			t.Errorf("subprotocol %q", got)
		}
		// The token stands in the header, so hello needs none.
		d.sayText(`{"t":"hello","v":1,"device":"phone","cursor":null,"later":true}`)
		if r := hear[wire.Ready](d, wire.TReady); !r.Behind || r.Head != "10" || r.MaxAgeS < 2800 || r.MaxAgeS > 4330 {
			t.Errorf("%+v", r)
		}
		_ = d.conn.Close(websocket.StatusNormalClosure, "")
	}
}

func TestHello(t *testing.T) {
	w := tcp(t)
	hello := func(cursor string) *device {
		d := w.dial()
		d.say(wire.Hello{T: wire.THello, V: 1, Token: w.token(), Device: "phone-" + cursor, Cursor: &cursor})
		return d
	}
	t.Run("behind", func(t *testing.T) {
		if r := hear[wire.Ready](hello("9"), wire.TReady); !r.Behind || r.Head != "10" {
			t.Errorf("%+v", r)
		}
	})
	t.Run("up to date", func(t *testing.T) {
		d := hello("12") // the engine's fresh one is "10"
		if r := hear[wire.Ready](d, wire.TReady); r.Behind {
			t.Errorf("%+v", r)
		}
		if c := hear[wire.Cursor](d, wire.TCursor); c.Cursor != "10" {
			t.Errorf("%+v", c)
		}
	})
	for cursor, code := range map[string]wire.Code{"junk": wire.CursorMalformed, "foreign": wire.CursorForeign} {
		t.Run(cursor, func(t *testing.T) {
			d := hello(cursor)
			d.wantError(code)
			if r := hear[wire.Ready](d, wire.TReady); !r.Behind || r.Head != "10" {
				t.Errorf("%+v", r)
			}
			d.say(wire.Pull{T: wire.TPull, ID: 1})
			hear[wire.Changes](d, wire.TChanges)
		})
	}
	t.Run("before it nothing else", func(t *testing.T) {
		d := w.dial()
		for _, frame := range []string{
			`{"t":"pull","id":1}`, `{"t":"ack","cursor":"10"}`, `{"t":"token","token":"x"}`, `{"t":"hello","v":"1"}`, `{`,
			`{"t":"hello","v":1,"device":"a b"}`, `{"t":"hello","v":1}`,
		} {
			d.sayText(frame)
			d.wantError(wire.RequestInvalid)
		}
		d.say(wire.Hello{T: wire.THello, V: 1, Token: w.token(), Device: "late"})
		hear[wire.Ready](d, wire.TReady)
		d.say(wire.Hello{T: wire.THello, V: 1, Token: w.token(), Device: "late"})
		d.wantError(wire.RequestInvalid)
	})
}

func TestHelloRefused(t *testing.T) {
	var verify error
	w := tcp(t, func(c *api.Config) { c.Verifier = refusing{c.Verifier, &verify} })
	var compare error
	w.engine.compare = func(context.Context, string, string) (pull.Comparison, error) {
		return pull.Comparison{}, compare
	}
	for _, c := range []struct {
		name            string
		hello           wire.Hello
		verify, compare error
		code            int
		reason          string
	}{
		{"version", wire.Hello{V: 2, Token: w.token()}, nil, nil, wire.CloseProtocolOld, "protocol_old"},
		{"no token", wire.Hello{V: 1}, nil, nil, wire.CloseBadToken, "token_missing"},
		{"bad token", wire.Hello{V: 1, Token: "abc"}, nil, nil, wire.CloseBadToken, "token_bad"},
		{"long token", wire.Hello{V: 1, Token: strings.Repeat("a", wire.MaxToken+1)}, nil, nil, wire.CloseBadToken, "token_bad"},
		{"another device", wire.Hello{V: 1, Token: w.token("did", "tablet")}, nil, nil, wire.CloseBadToken, "device_mismatch"},
		{"expired", wire.Hello{V: 1, Token: w.tokenFor(-time.Minute)}, nil, nil, wire.CloseTokenExpired, "token_expired"},
		{"revoked", wire.Hello{V: 1}, wire.NewProblem(wire.TokenRevoked, ""), nil, wire.CloseRevoked, "token_revoked"},
		{"unverifiable", wire.Hello{V: 1}, wire.NewProblem(wire.TokenUnverifiable, ""), nil, wire.CloseOverload, "token_unverifiable"},
		{"database away", wire.Hello{V: 1, Token: w.token()}, nil, wire.NewProblem(wire.DatabaseAway, ""), wire.CloseOverload, "database_away"},
		{"engine broken", wire.Hello{V: 1, Token: w.token()}, nil, errors.New("secret"), wire.CloseInternal, "internal"},
	} {
		t.Run(c.name, func(t *testing.T) {
			verify, compare = c.verify, c.compare
			d := w.dial()
			c.hello.T, c.hello.Device = wire.THello, "phone"
			if c.verify != nil {
				c.hello.Token = "any"
			}
			d.say(c.hello)
			d.wantClose(c.code, c.reason)
		})
	}
	w.stop()
	if n := w.hub.Stats().Sessions; n != 0 {
		t.Errorf("%d sessions left in the hub", n)
	}
}

// refusing is a verifier that answers with an error when there is one.
type refusing struct {
	api.Verifier
	err *error
}

func (v refusing) Verify(ctx context.Context, token string) (auth.Identity, error) {
	if *v.err != nil {
		return auth.Identity{}, *v.err
	}
	return v.Verifier.Verify(ctx, token)
}

func TestReplaced(t *testing.T) {
	w := tcp(t)
	older := w.join("phone", "10")
	tablet := w.join("tablet", "10")
	stranger := w.dial() // the same device id, of another user
	stranger.say(wire.Hello{T: wire.THello, V: 1, Token: w.token("sub", "8"), Device: "phone"})
	hear[wire.Ready](stranger, wire.TReady)
	newer := w.join("phone", "10")
	older.wantClose(wire.CloseReplaced, "replaced")
	w.nudge(11)
	for _, d := range []*device{newer, tablet} {
		if n := hear[wire.Nudge](d, wire.TNudge); n.Head != "11" || n.ID == "" {
			t.Errorf("%+v", n)
		}
	}
	// The older one's end did not take the newer one out.
	w.join("phone", "10")
	newer.wantClose(wire.CloseReplaced, "replaced")
	stranger.say(wire.Pull{T: wire.TPull, ID: 1})
	hear[wire.Changes](stranger, wire.TChanges)
}

// What is committed between registering and comparing nudges behind ready, not before it.
func TestNudgeBeforeReady(t *testing.T) {
	synctest.Test(t, testNudgeBeforeReady)
}

func testNudgeBeforeReady(t *testing.T) {
	w := piped(t)
	compared := false
	w.engine.compare = func(context.Context, string, string) (pull.Comparison, error) {
		compared = true
		w.hub.Deliver(change.Frame{Changes: []change.Change{
			{Pos: position(11), Scope: change.User("7")},
			{Pos: position(12), Scope: change.User("7")},
			{Pos: position(13), Scope: change.User("7"), Origin: "phone"}, // its own
			{Pos: position(14), Scope: change.User("8")},
		}})
		synctest.Wait() // whatever wants to be written now is at it
		return pull.Comparison{Head: "10", Behind: true}, nil
	}
	d := w.join("phone", "10")
	if n := hear[wire.Nudge](d, wire.TNudge); n.Head != "12" || !compared {
		t.Errorf("%+v", n)
	}
}

func TestTokenFrame(t *testing.T) {
	var verify error
	w := tcp(t, func(c *api.Config) { c.Verifier = refusing{c.Verifier, &verify} })
	for _, c := range []struct {
		name, token string
		code        int
		reason      string
	}{
		{"another user", w.token("sub", "8"), wire.CloseBadToken, "token_bad"},
		{"another device", w.token("did", "tablet"), wire.CloseBadToken, "device_mismatch"},
		{"bad", "abc", wire.CloseBadToken, "token_bad"},
		{"none", "", wire.CloseBadToken, "token_missing"},
		{"expired", w.tokenFor(-time.Minute), wire.CloseTokenExpired, "token_expired"},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := w.join("phone", "10")
			d.say(wire.Token{T: wire.TToken, Token: c.token})
			d.wantClose(c.code, c.reason)
		})
	}
	d := w.join("phone", "10")
	d.say(wire.Token{T: wire.TToken, Token: w.token()})
	d.say(wire.Pull{T: wire.TPull, ID: 1})
	hear[wire.Changes](d, wire.TChanges) // so the token frame was served
	verify = wire.NewProblem(wire.TokenUnverifiable, "").After(time.Second)
	d.say(wire.Token{T: wire.TToken, Token: w.token()})
	if e := d.wantError(wire.TokenUnverifiable); e.RetryAfterMS != 1000 {
		t.Errorf("%+v", e)
	}
	verify = wire.NewProblem(wire.TokenRevoked, "")
	d.say(wire.Token{T: wire.TToken, Token: w.token()})
	d.wantClose(wire.CloseRevoked, "token_revoked")
}

func TestClientCloses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := piped(t)
		if err := w.join("phone", "10").conn.Close(websocket.StatusNormalClosure, "bye"); err != nil {
			t.Error(err)
		}
		_ = w.join("tablet", "10").conn.CloseNow()
		_ = w.dial().conn.CloseNow()
		synctest.Wait()
		client, lost := w.count("nudge_session_closes_total", "client"), w.count("nudge_session_closes_total", "lost")
		if client != 1 || lost != 2 || w.count("nudge_sessions") != 0 || w.hub.Stats().Sessions != 0 {
			t.Errorf("closed by the client %v, lost %v, in the hub %+v", client, lost, w.hub.Stats())
		}
	})
}
