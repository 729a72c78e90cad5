package api_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nudgesync/nudge/server/api"
	"github.com/nudgesync/nudge/server/auth"
	"github.com/nudgesync/nudge/server/pull"
	"github.com/nudgesync/nudge/server/wire"
)

// judge is what a node knows of revocations: nothing, until the test says.
type judge struct {
	mu    sync.Mutex
	check func(auth.Identity) error
	asked []auth.Identity
}

func (j *judge) revoked(id auth.Identity) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.asked = append(j.asked, id)
	if j.check == nil {
		return nil
	}
	return j.check(id)
}

func (j *judge) says(check func(auth.Identity) error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.check = check
}

// judged makes the world's verifier ask j.
func judged(t *testing.T, j *judge) func(*api.Config) {
	return func(c *api.Config) {
		key, err := auth.ParseKey("", auth.HS256, []byte(strings.Repeat("k", 32)))
		if err == nil {
			c.Verifier, err = auth.New(auth.Config{Keys: []auth.Key{key}, DeviceClaim: "did", Revoked: j.revoked})
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func refuse(code wire.Code, user, device string) func(auth.Identity) error {
	return func(id auth.Identity) error {
		if id.User == user && (device == "" || id.Device == device) {
			return wire.NewProblem(code, "")
		}
		return nil
	}
}

// Whoever is revoked loses the socket at once, and nobody else does. Tokens here name no device: it is
// the one of hello that counts.
func TestRevokedSessionEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var j judge
		w := piped(t, noPings, judged(t, &j))
		phone, tablet := w.join("phone", "10"), w.join("tablet", "10")
		quiet := w.dial() // has not said who it is
		synctest.Wait()
		began := time.Now()
		j.says(refuse(wire.TokenRevoked, "7", "phone"))
		w.api.Recheck()
		phone.wantClose(wire.CloseRevoked, "token_revoked")
		if took := time.Since(began); took > 0 {
			t.Errorf("after %v", took)
		}
		tablet.say(wire.Pull{T: wire.TPull, ID: 1})
		hear[wire.Changes](tablet, wire.TChanges)

		res, body := w.ask("GET", "/v1/changes", "")
		wantProblem(t, res, body, 403, wire.TokenRevoked)
		res, body = w.ask("POST", "/v1/ack", `{"cursor":"10"}`)
		wantProblem(t, res, body, 403, wire.TokenRevoked)
		if res, body := w.ask("GET", "/v1/changes", "", wire.HeaderDevice, "tablet"); res.StatusCode != 200 {
			t.Errorf("the tablet's pull: %d %s", res.StatusCode, body)
		}
		quiet.say(wire.Hello{T: wire.THello, V: 1, Token: w.token(), Device: "phone"})
		quiet.wantClose(wire.CloseRevoked, "token_revoked")
		synctest.Wait()
		if got := w.count("nudge_session_closes_total", "4502"); got != 2 {
			t.Errorf("closes: %v", got)
		}
	})
}

// A revocation that comes between a hello's verification and its being entered is not missed.
func TestRevokedDuringHello(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var j judge
		w := piped(t, noPings, judged(t, &j))
		asked := 0
		j.says(func(auth.Identity) error {
			if asked++; asked > 2 { // verified, and held against the device
				return wire.NewProblem(wire.TokenRevoked, "")
			}
			return nil
		})
		d := w.dial()
		d.say(wire.Hello{T: wire.THello, V: 1, Token: w.token(), Device: "phone"})
		d.wantClose(wire.CloseRevoked, "token_revoked")
	})
}

// Where the page would have to be refused, the session need not: when the node can't know, the frame is.
func TestPullOfARevokedSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var j judge
		w := piped(t, noPings, judged(t, &j))
		d := w.join("phone", "10")
		synctest.Wait()
		j.says(refuse(wire.TokenUnverifiable, "7", ""))
		d.say(wire.Pull{T: wire.TPull, ID: 5})
		if e := d.wantError(wire.TokenUnverifiable); e.ID == nil || *e.ID != 5 || e.RetryAfterMS == 0 {
			t.Errorf("%+v", e)
		}
		j.says(nil)
		d.say(wire.Pull{T: wire.TPull, ID: 6})
		hear[wire.Changes](d, wire.TChanges)
		// No page for one that waited while it was revoked.
		cursor := "10"
		d.say(wire.Pull{T: wire.TPull, ID: 7, Cursor: &cursor, WaitMS: 3000})
		synctest.Wait()
		j.says(refuse(wire.TokenRevoked, "7", ""))
		d.wantError(wire.TokenRevoked)
		// The next frame ends it, should the node not have heard of it otherwise.
		d.say(wire.Pull{T: wire.TPull, ID: 8})
		d.wantClose(wire.CloseRevoked, "token_revoked")
	})
}

// Nor is there a page over HTTP for one who was revoked while it was read.
func TestPageOfARevokedDevice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var j judge
		w := piped(t, judged(t, &j))
		w.engine.pull = func(context.Context, pull.Request) (*pull.Answer, error) {
			j.says(refuse(wire.TokenRevoked, "7", "phone"))
			return &pull.Answer{Cursor: "11", Changes: []byte(`{"op":"forget","scope":"user:7"}`), Rows: 1, Source: "snapshot", Upto: position(11)}, nil
		}
		for _, path := range []string{"/v1/changes?since=10", "/v1/changes?since=10&wait=30s"} {
			j.says(nil)
			res, body := w.ask("GET", path, "")
			wantProblem(t, res, body, 403, wire.TokenRevoked)
		}
	})
}

// A fresh token on the socket is held against revocations, too, and so is the session from then on.
func TestRenewedTokenIsChecked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var j judge
		w := piped(t, noPings, judged(t, &j))
		d, other := w.join("phone", "10"), w.join("tablet", "10")
		synctest.Wait()
		d.say(wire.Token{T: wire.TToken, Token: w.token("jti", "fresh", "did", "phone")})
		synctest.Wait()
		fresh := func(id auth.Identity) error {
			if id.Device == "phone" && id.JTI != "" && !id.Expires.IsZero() {
				return wire.NewProblem(wire.TokenRevoked, "")
			}
			return nil
		}
		j.says(fresh)
		other.say(wire.Token{T: wire.TToken, Token: w.token()})
		synctest.Wait()
		w.api.Recheck()
		d.wantClose(wire.CloseRevoked, "token_revoked")
		j.says(refuse(wire.TokenRevoked, "7", ""))
		other.say(wire.Token{T: wire.TToken, Token: w.token()})
		other.wantClose(wire.CloseRevoked, "token_revoked")
	})
}

// A key that goes takes its sessions with it: they come back, and hear then what their token is worth.
func TestKeyGoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var j judge
		w := piped(t, noPings, judged(t, &j))
		d := w.join("phone", "10")
		synctest.Wait()
		j.says(refuse(wire.TokenUnverifiable, "7", ""))
		w.api.Recheck()
		d.wantClose(wire.CloseOverload, "token_unverifiable")
	})
}

// A node that can't read revocations knows of nobody that they have to go, whatever else changes; it serves
// them nothing.
func TestBlindNodeKeepsSessions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var j judge
		w := piped(t, noPings, judged(t, &j))
		d := w.join("phone", "10")
		synctest.Wait()
		unread := auth.NewRevocations(auth.RevocationsConfig{})
		j.says(unread.Check)
		w.api.Recheck() // as when any key went
		synctest.Wait()
		d.say(wire.Pull{T: wire.TPull, ID: 5})
		d.wantError(wire.TokenUnverifiable)
		w.nudge(11)
		hear[wire.Nudge](d, wire.TNudge)
		j.says(refuse(wire.TokenRevoked, "7", "phone"))
		w.api.Recheck()
		d.wantClose(wire.CloseRevoked, "token_revoked")
	})
}

func TestRevocationsEndpoint(t *testing.T) {
	var got []auth.Revocation
	var failure error
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	w := tcp(t, func(c *api.Config) {
		c.Revoke = func(_ context.Context, r auth.Revocation) (auth.Revocation, error) {
			got = append(got, r)
			r.Seq, r.At = int64(len(got)), at
			return r, failure
		}
	})
	ask := func(method, body string) *httptest.ResponseRecorder {
		r := httptest.NewRequestWithContext(t.Context(), method, "/v1/admin/revocations", strings.NewReader(body))
		r.Host = "127.0.0.1:8081"
		rec := httptest.NewRecorder()
		w.api.Admin().ServeHTTP(rec, r)
		theContract().check(t, r, rec.Result(), rec.Body.String())
		return rec
	}
	for body, want := range map[string]string{
		`{"user":"7"}`:                                       `{"seq":1,"user":"7","at":"2026-03-01T12:00:00Z"}`,
		`{"user":"7","device":"phone"}`:                      `{"seq":1,"user":"7","device":"phone","at":"2026-03-01T12:00:00Z"}`,
		`{"jti":"j","until":"2100-01-02T03:04:05+01:00"}`:    `{"seq":1,"jti":"j","at":"2026-03-01T12:00:00Z","until":"2100-01-02T03:04:05+01:00"}`,
		`{"user":"7","until":null,"because":"phone stolen"}`: `{"seq":1,"user":"7","at":"2026-03-01T12:00:00Z"}`,
	} {
		got = nil
		if rec := ask("POST", body); rec.Code != 200 || strings.TrimSpace(rec.Body.String()) != want || len(got) != 1 {
			t.Errorf("%s: %d %s, want %s", body, rec.Code, rec.Body, want)
		}
	}
	got = nil
	for _, body := range []string{
		"", "null", "{}", "[]", `"7"`, `{"user":7}`, `{"user":""}`, `{"device":"phone"}`, `{"user":"7","jti":"j"}`, `{"user":"7","until":"tomorrow"}`,
		`{"user":"7","until":"2020-01-01T00:00:00Z"}`, `{"user":"7","at":"2120-01-01T00:00:00Z"}`, `{"jti":"j","at":"2020-01-01T00:00:00Z"}`, `{"user":"7","seq":9}`, `{"user":"` + strings.Repeat("7", 256) + `"}`, `{"jti":"\u0000"}`,
	} {
		rec := ask("POST", body)
		p := wantProblem(t, rec.Result(), rec.Body.String(), 400, wire.RequestInvalid)
		if len(got) > 0 || body != "" && json.Valid([]byte(body)) && p.Hint == "" {
			t.Errorf("%s: %+v, %v", body, p, got)
		}
	}
	rec := ask("POST", `{"user":"`+strings.Repeat("7", 20<<10)+`"}`)
	wantProblem(t, rec.Result(), rec.Body.String(), 413, wire.TooLarge)
	rec = ask("GET", "")
	wantProblem(t, rec.Result(), rec.Body.String(), 405, wire.RequestInvalid)
	failure = errors.New("password=hunter2")
	rec = ask("POST", `{"user":"7"}`)
	wantProblem(t, rec.Result(), rec.Body.String(), 500, wire.Internal)
	if strings.Contains(rec.Body.String(), "hunter2") {
		t.Errorf("%s", rec.Body)
	}
	failure = context.DeadlineExceeded
	rec = ask("POST", `{"user":"7"}`)
	wantProblem(t, rec.Result(), rec.Body.String(), 503, wire.Overloaded)
	res, body := w.ask("POST", "/v1/admin/revocations", `{"user":"7"}`) // not for devices
	wantProblem(t, res, body, 404, wire.NotFound)
}
