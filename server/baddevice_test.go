package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/nudgesync/nudge/internal/devpg/pgtest"
	"github.com/nudgesync/nudge/server/auth"
	"github.com/nudgesync/nudge/server/wire"
)

// running is a `nudge serve` in this process.
type running struct {
	t      *testing.T
	url    string
	admin  string // URL of the admin listener
	client *http.Client
}

var servesOn = regexp.MustCompile(`serves on (\S+), operators on (\S+)`)

// serve runs the program until the test ends; it has to end well.
func (s *site) serve(t *testing.T) *running {
	t.Helper()
	s.attach(t)
	ctx, cancel := context.WithCancel(context.Background())
	stdout := &watchedOutput{want: "serves on", seen: make(chan struct{})}
	stderr := &watchedOutput{}
	ended := make(chan int, 1)
	go func() {
		ended <- run(ctx, []string{"serve", "--config", s.yaml}, strings.NewReader(""), stdout, stderr, s.env)
	}()
	transport := &http.Transport{}
	t.Cleanup(func() {
		transport.CloseIdleConnections()
		cancel()
		if status := <-ended; status != exitOK {
			t.Errorf("serve ended with status %d", status)
		}
		// Whatever devices sent, it is none of an operator's business; nor is a first start.
		if log := stderr.String(); strings.Contains(log, "level=ERROR") || strings.Contains(log, "does not answer") {
			t.Errorf("the log:\n%s", log)
		}
	})
	select {
	case <-stdout.seen:
	case status := <-ended:
		ended <- status
		t.Fatalf("serve ended: %s", stderr)
	case <-time.After(time.Minute):
		t.Fatalf("serve does not get ready: %s", stderr)
	}
	at := servesOn.FindStringSubmatch(stdout.String())
	return &running{t, "http://" + at[1], "http://" + at[2], &http.Client{Transport: transport}}
}

// token is a good one of a user; changes make it a bad one.
func (r *running) token(user string, changes ...func(*auth.Claims)) string {
	r.t.Helper()
	return r.signed(signingKey, user, changes...)
}

func (r *running) signed(secret, user string, changes ...func(*auth.Claims)) string {
	r.t.Helper()
	key, err := auth.ParseKey("k1", auth.HS256, []byte(secret))
	if err != nil {
		r.t.Fatal(err)
	}
	c := auth.Claims{
		Issuer: "me", Audience: "app", Issued: time.Now(), Expires: time.Now().Add(time.Hour),
		Named: map[string]string{"sub": user},
	}
	for _, f := range changes {
		f(&c)
	}
	token, err := auth.Mint(key, c)
	if err != nil {
		r.t.Fatal(err)
	}
	return token
}

// badTokens by name, with the code that each is refused with.
func (r *running) badTokens() map[string]struct {
	token string
	code  wire.Code
} {
	good := r.token("7")
	return map[string]struct {
		token string
		code  wire.Code
	}{
		"none":             {"", wire.TokenMissing},
		"no JWT":           {"abc", wire.TokenBad},
		"torn":             {good[:len(good)-8], wire.TokenBad},
		"another key's":    {r.signed(strings.Repeat("x", 32), "7"), wire.TokenBad},
		"unsigned":         {"eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0." + strings.Split(good, ".")[1] + ".", wire.TokenBad},
		"another audience": {r.token("7", func(c *auth.Claims) { c.Audience = "admin" }), wire.TokenBad},
		"another issuer":   {r.token("7", func(c *auth.Claims) { c.Issuer = "you" }), wire.TokenBad},
		"of nobody":        {r.token(""), wire.TokenBad},
		"expired": {r.token("7", func(c *auth.Claims) {
			c.Issued, c.Expires = c.Issued.Add(-2*time.Hour), c.Issued.Add(-time.Hour)
		}), wire.TokenExpired},
		"above 8 KiB": {strings.Repeat("a", wire.MaxToken+1), wire.TokenBad},
	}
}

// get pulls and decodes the answer.
func (r *running) get(token, since string, answer any) (status int, contentType string) {
	r.t.Helper()
	return r.ask(token, url.Values{"since": {since}}, answer)
}

// ask is get with any query.
func (r *running) ask(token string, query url.Values, answer any) (status int, contentType string) {
	r.t.Helper()
	req, err := http.NewRequestWithContext(r.t.Context(), http.MethodGet, r.url+"/v1/changes?"+query.Encode(), nil)
	if err != nil {
		r.t.Fatal(err)
	}
	req.Header.Set(wire.HeaderDevice, "phone")
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	res, err := r.client.Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	body, err := io.ReadAll(res.Body)
	if err := errors.Join(err, res.Body.Close(), json.Unmarshal(body, answer)); err != nil {
		r.t.Fatalf("%s: %v", body, err)
	}
	return res.StatusCode, res.Header.Get("Content-Type")
}

// answers is a good pull: the server is up, and tells a user of their own row alone.
func (r *running) answers(user, note string) (cursor string) {
	r.t.Helper()
	var page wire.Page
	if status, _ := r.get(r.token(user), "", &page); status != http.StatusOK || page.HasMore {
		r.t.Fatalf("a good pull: %d %+v", status, page)
	}
	var rows []string
	for _, c := range page.Changes {
		if c.Op == wire.OpUpsert {
			rows = append(rows, string(c.Row))
		}
	}
	if len(rows) != 1 || !strings.Contains(rows[0], note) {
		r.t.Errorf("user %s has %v", user, rows)
	}
	return page.Cursor
}

// Whatever a device sends over HTTP is answered by a problem with its code and a hint, and the next pull
// by its rows.
func TestBadPulls(t *testing.T) {
	r := newSite(t, pgtest.Database(t)).serve(t)
	mine, theirs := r.answers("7", "mine"), r.answers("8", "theirs")
	want := func(t *testing.T, token, since string, status int, code wire.Code) {
		t.Helper()
		var p wire.Problem
		got, contentType := r.get(token, since, &p)
		if got != status || p.Status != status || p.Code != code || p.Hint == "" || p.Title == "" {
			t.Errorf("%d %+v, want %d %s and a hint", got, p, status, code)
		}
		if contentType != "application/problem+json" {
			t.Errorf("Content-Type %q", contentType)
		}
		r.answers("7", "mine")
	}
	flipped := []byte(mine)
	flipped[len(flipped)/2] ^= 1
	for name, cursor := range map[string]string{
		"no cursor of ours": "abc", "torn": mine[:len(mine)-4], "flipped": string(flipped), "not base64": "%%%",
		"huge": strings.Repeat("A", 8<<10),
	} {
		t.Run("a malformed cursor/"+name, func(t *testing.T) {
			want(t, r.token("7"), cursor, http.StatusBadRequest, wire.CursorMalformed)
		})
	}
	t.Run("a foreign cursor", func(t *testing.T) {
		want(t, r.token("7"), theirs, http.StatusConflict, wire.CursorForeign)
	})
	for name, bad := range r.badTokens() {
		t.Run("a bad token/"+name, func(t *testing.T) {
			want(t, bad.token, "", http.StatusUnauthorized, bad.code)
		})
	}
}

// socket opens one and says hello.
func (r *running) socket(ctx context.Context, token string) *websocket.Conn {
	r.t.Helper()
	conn, res, err := websocket.Dial(ctx, r.url+"/v1/socket", &websocket.DialOptions{
		HTTPClient: r.client, Subprotocols: []string{wire.Subprotocol},
	})
	if err != nil {
		r.t.Fatal(err)
	}
	if res.Body != nil {
		_ = res.Body.Close()
	}
	r.t.Cleanup(func() { _ = conn.CloseNow() })
	r.say(ctx, conn, wire.Hello{T: wire.THello, V: wire.Version, Token: token, Device: "phone"})
	return conn
}

func (r *running) say(ctx context.Context, conn *websocket.Conn, frame any) {
	r.t.Helper()
	b, err := json.Marshal(frame)
	if err == nil {
		err = conn.Write(ctx, websocket.MessageText, b)
	}
	if err != nil {
		r.t.Fatal(err)
	}
}

// hear reads frames until one of the type comes.
func (r *running) hear(ctx context.Context, conn *websocket.Conn, typ string, frame any) {
	r.t.Helper()
	for {
		_, b, err := conn.Read(ctx)
		if err != nil {
			r.t.Fatalf("waiting for %s: %v", typ, err)
		}
		var head struct{ T string }
		if err := json.Unmarshal(b, &head); err != nil {
			r.t.Fatal(err)
		}
		if head.T == typ {
			if err := json.Unmarshal(b, frame); err != nil {
				r.t.Fatal(err)
			}
			return
		}
	}
}

// wantClose reads to the close.
func (r *running) wantClose(ctx context.Context, conn *websocket.Conn, code int, reason string) {
	r.t.Helper()
	for {
		_, _, err := conn.Read(ctx)
		if err == nil {
			continue
		}
		var c websocket.CloseError
		if !errors.As(err, &c) || int(c.Code) != code || !strings.HasPrefix(c.Reason, reason+": ") {
			r.t.Errorf("ended with %v, want %d %s", err, code, reason)
		}
		return
	}
}

// A frame that can't be served is answered by an error and costs nothing else; one that can't be read, or
// that says who somebody is not, costs the socket. The server stays up.
func TestBadFrames(t *testing.T) {
	r := newSite(t, pgtest.Database(t)).serve(t)
	theirs := r.answers("8", "theirs")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	// after is what still works behind every bad frame, for somebody else and for the same device.
	after := func(t *testing.T) {
		t.Helper()
		r.answers("7", "mine")
		conn := r.socket(ctx, r.token("7"))
		r.hear(ctx, conn, wire.TReady, &wire.Ready{})
		_ = conn.Close(websocket.StatusNormalClosure, "")
	}

	junk := "abc"
	for name, c := range map[string]struct {
		frame any
		code  wire.Code
	}{
		"an unknown type":    {map[string]any{"t": "dance"}, wire.RequestInvalid},
		"no type":            {map[string]any{}, wire.RequestInvalid},
		"no object":          {[]int{1}, wire.RequestInvalid},
		"another hello":      {wire.Hello{T: wire.THello, V: wire.Version, Token: r.token("7"), Device: "phone"}, wire.RequestInvalid},
		"a malformed cursor": {wire.Pull{T: wire.TPull, ID: 5, Cursor: &junk}, wire.CursorMalformed},
		"a foreign cursor":   {wire.Pull{T: wire.TPull, ID: 5, Cursor: &theirs}, wire.CursorForeign},
		"a foreign ack":      {wire.Ack{T: wire.TAck, Cursor: theirs}, wire.CursorForeign},
	} {
		t.Run(name, func(t *testing.T) {
			conn := r.socket(ctx, r.token("7"))
			r.hear(ctx, conn, wire.TReady, &wire.Ready{})
			r.say(ctx, conn, c.frame)
			var e wire.Error
			r.hear(ctx, conn, wire.TError, &e)
			if p, ok := c.frame.(wire.Pull); e.Code != c.code || ok && (e.ID == nil || *e.ID != p.ID) {
				t.Errorf("error %+v, want %s", e, c.code)
			}
			r.say(ctx, conn, wire.Pull{T: wire.TPull, ID: 6}) // the socket stays
			var page wire.Changes
			r.hear(ctx, conn, wire.TChanges, &page)
			if page.ID != 6 {
				t.Errorf("page %+v", page)
			}
			after(t)
		})
	}
	for name, c := range map[string]struct {
		typ    websocket.MessageType
		frame  string
		code   int
		reason string
	}{
		"oversized": {websocket.MessageText, `{"t":"ack","cursor":"` + strings.Repeat("a", wire.MaxClientFrame) + `"}`, wire.CloseTooBig, "too_large"},
		"not UTF-8": {websocket.MessageText, "{\"t\":\"ack\",\"cursor\":\"\xff\"}", wire.CloseNotUTF8, "not_utf8"},
		"binary":    {websocket.MessageBinary, `{"t":"ack"}`, wire.CloseNotText, "not_text"},
	} {
		t.Run(name, func(t *testing.T) {
			conn := r.socket(ctx, r.token("7"))
			r.hear(ctx, conn, wire.TReady, &wire.Ready{})
			if err := conn.Write(ctx, c.typ, []byte(c.frame)); err != nil {
				t.Fatal(err)
			}
			r.wantClose(ctx, conn, c.code, c.reason)
			after(t)
		})
	}
	for name, bad := range r.badTokens() {
		t.Run("a bad token/"+name, func(t *testing.T) {
			code := wire.CloseBadToken
			if bad.code == wire.TokenExpired {
				code = wire.CloseTokenExpired
			}
			conn := r.socket(ctx, bad.token)
			r.wantClose(ctx, conn, code, string(bad.code))
			after(t)
		})
	}
}
