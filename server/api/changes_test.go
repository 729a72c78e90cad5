package api_test

import (
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"

	"github.com/nudgesync/nudge/server/api"
	"github.com/nudgesync/nudge/server/pull"
	"github.com/nudgesync/nudge/server/wire"
)

func TestPull(t *testing.T) {
	w := tcp(t)
	res, body := w.ask("GET", "/v1/changes?since=3&limit=20&tables=public.a,public.b&nudge=n1", "")
	var page wire.Page
	if err := json.Unmarshal([]byte(body), &page); err != nil {
		t.Fatalf("%s: %v", body, err)
	}
	if res.StatusCode != 200 || page.Cursor != "10" || page.HasMore || len(page.Changes) != 1 || page.Changes[0].Op != wire.OpDelete {
		t.Errorf("%d %+v", res.StatusCode, page)
	}
	for name, want := range map[string]string{
		"Nudge-Cursor": "10", "Etag": `"10"`, "Cache-Control": "private, no-store", "Content-Type": "application/json",
	} {
		if got := res.Header.Get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	want := pull.Request{User: "7", Device: "phone", Since: "3", Limit: 20, Tables: []string{"public.a", "public.b"}}
	if d := cmp.Diff(want, w.engine.lastPull()); d != "" {
		t.Error(d)
	}
	if got := w.count("nudge_pulls_total", "200", "tail"); got != 1 {
		t.Errorf("pulls counted: %v", got)
	}

	w.ask("GET", "/v1/changes?limit=1000000", "")
	if got := w.engine.lastPull(); got.Limit != 5000 || got.Since != "" {
		t.Errorf("%+v", got)
	}
}

// A23: a 304 can carry no new ETag; the fresh cursor stands beside it.
func TestA23NotModified(t *testing.T) {
	w := tcp(t)
	for _, c := range []struct {
		path, match string
		status      int
		since, etag string
	}{
		{"/v1/changes", `"10"`, 304, "10", `"10"`},
		{"/v1/changes", `W/"10"`, 304, "10", `W/"10"`},
		{"/v1/changes", `"12"`, 304, "12", `"12"`}, // the validator that matched; Nudge-Cursor is the fresh one
		{"/v1/changes", `"9"`, 200, "9", `"10"`},
		{"/v1/changes?since=10", `"9"`, 200, "10", `"10"`}, // since counts
		{"/v1/changes?since=", `"9"`, 200, "", `"10"`},
	} {
		res, body := w.ask("GET", c.path, "", "If-None-Match", c.match)
		if res.StatusCode != c.status || res.Header.Get("ETag") != c.etag || res.Header.Get("Nudge-Cursor") != "10" ||
			res.Header.Get("Cache-Control") != "private, no-store" || (c.status == 304) != (body == "") {
			t.Errorf("%s %s: %d %v %q", c.path, c.match, res.StatusCode, res.Header, body)
		}
		if got := w.engine.lastPull().Since; got != c.since {
			t.Errorf("%s %s: since %q", c.path, c.match, got)
		}
	}
}

func TestRefusedRequests(t *testing.T) {
	w := tcp(t)
	expired, foreignKey := w.tokenFor(-time.Minute), w.token()+"x"
	for _, c := range []struct {
		name, path string
		headers    []string
		status     int
		code       wire.Code
	}{
		{"no token", "/v1/changes", []string{"Authorization", ""}, 401, wire.TokenMissing},
		{"another scheme", "/v1/changes", []string{"Authorization", "Basic eDp5"}, 401, wire.TokenMissing},
		{"scheme alone", "/v1/changes", []string{"Authorization", "Bearer"}, 401, wire.TokenMissing},
		{"not a token", "/v1/changes", []string{"Authorization", "Bearer abc"}, 401, wire.TokenBad},
		{"long token", "/v1/changes", []string{"Authorization", "Bearer " + strings.Repeat("a", 9000)}, 401, wire.TokenBad},
		{"bad signature", "/v1/changes", []string{"Authorization", "Bearer " + foreignKey}, 401, wire.TokenBad},
		{"user with NUL", "/v1/changes", []string{"Authorization", "Bearer " + w.token("sub", strings.Repeat("u", 256))}, 401, wire.TokenBad},
		{"expired", "/v1/changes", []string{"Authorization", "Bearer " + expired}, 401, wire.TokenExpired},
		{"no device", "/v1/changes", []string{wire.HeaderDevice, ""}, 400, wire.RequestInvalid},
		{"strange device", "/v1/changes", []string{wire.HeaderDevice, "a b"}, 400, wire.RequestInvalid},
		{"long device", "/v1/changes", []string{wire.HeaderDevice, strings.Repeat("d", 129)}, 400, wire.RequestInvalid},
		{"another device's token", "/v1/changes", []string{"Authorization", "Bearer " + w.token("did", "tablet")}, 403, wire.DeviceMismatch},
		{"malformed cursor", "/v1/changes?since=x", nil, 400, wire.CursorMalformed},
		{"foreign cursor", "/v1/changes?since=foreign", nil, 409, wire.CursorForeign},
		{"unknown parameter", "/v1/changes?since_=1", nil, 400, wire.RequestInvalid},
		{"parameter twice", "/v1/changes?since=1&since=2", nil, 400, wire.RequestInvalid},
		{"wait without a unit", "/v1/changes?wait=30", nil, 400, wire.RequestInvalid},
		{"wait of less than nothing", "/v1/changes?wait=-1s", nil, 400, wire.RequestInvalid},
		{"limit zero", "/v1/changes?limit=0", nil, 400, wire.RequestInvalid},
		{"limit word", "/v1/changes?limit=many", nil, 400, wire.RequestInvalid},
		{"limit overflow", "/v1/changes?limit=99999999999999999999", nil, 400, wire.RequestInvalid},
		{"empty table", "/v1/changes?tables=a,,b", nil, 400, wire.RequestInvalid},
		{"many tables", "/v1/changes?tables=" + strings.Repeat("a,", 100) + "a", nil, 400, wire.RequestInvalid},
		{"long nudge", "/v1/changes?nudge=" + strings.Repeat("n", 129), nil, 400, wire.RequestInvalid},
		{"broken query", "/v1/changes?since=%zz", nil, 400, wire.RequestInvalid},
		{"list of tags", "/v1/changes", []string{"If-None-Match", `"1", "2"`}, 400, wire.RequestInvalid},
		{"bare tag", "/v1/changes", []string{"If-None-Match", `10`}, 400, wire.RequestInvalid},
		{"unknown path", "/v1/change", nil, 404, wire.NotFound},
		{"root", "/", nil, 404, wire.NotFound},
	} {
		t.Run(c.name, func(t *testing.T) {
			res, body := w.ask("GET", c.path, "", c.headers...)
			p := wantProblem(t, res, body, c.status, c.code)
			if p.Code == wire.RequestInvalid && p.Detail == "" {
				t.Error("no detail")
			}
			if c.status == 401 && res.Header.Get("WWW-Authenticate") != "Bearer" {
				t.Error("no WWW-Authenticate")
			}
		})
	}
	for path, allow := range map[string]string{"/v1/changes": "GET", "/v1/ack": "POST", "/v1/socket": "GET", "/livez": "GET, HEAD"} {
		res, body := w.ask("PUT", path, "")
		wantProblem(t, res, body, 405, wire.RequestInvalid)
		if got := res.Header.Get("Allow"); got != allow {
			t.Errorf("%s: Allow %q", path, got)
		}
	}
	// A header above 16 KiB does not get as far as us, and does no harm.
	res, _ := w.ask("GET", "/v1/changes", "", "Authorization", "Bearer "+strings.Repeat("a", 1<<20))
	if res.StatusCode != 431 {
		t.Errorf("1 MB token: %d", res.StatusCode)
	}
	if res, _ := w.ask("GET", "/v1/changes", ""); res.StatusCode != 200 {
		t.Errorf("afterwards: %d", res.StatusCode)
	}
}

func TestEngineProblems(t *testing.T) {
	w := tcp(t, func(c *api.Config) { c.Limits.Pull = time.Millisecond })
	for _, c := range []struct {
		err    error
		status int
		code   wire.Code
		retry  string
	}{
		{wire.NewProblem(wire.DatabaseAway, "").After(2500 * time.Millisecond), 503, wire.DatabaseAway, "3"},
		{wire.NewProblem(wire.Starting, ""), 503, wire.Starting, "1 or 2"},
		{wire.NewProblem(wire.TableForbidden, ""), 403, wire.TableForbidden, ""},
		{wire.NewProblem(wire.TableUnknown, ""), 404, wire.TableUnknown, ""},
		{errors.New("secret: SELECT"), 500, wire.Internal, ""},
		{nil, 503, wire.Overloaded, "1 or 2"}, // takes too long
	} {
		w.engine.pull = func(ctx context.Context, _ pull.Request) (*pull.Answer, error) {
			if c.err != nil {
				return nil, c.err
			}
			<-ctx.Done()
			return nil, ctx.Err()
		}
		res, body := w.ask("GET", "/v1/changes", "")
		wantProblem(t, res, body, c.status, c.code)
		if got := res.Header.Get("Retry-After"); (got == "") != (c.retry == "") || !strings.Contains(c.retry, got) {
			t.Errorf("%s: Retry-After %q", c.code, got)
		}
		if strings.Contains(body, "secret") {
			t.Errorf("shown: %s", body)
		}
	}
}

// P9: who is told to come again is told what for, as by /readyz.
func TestP09StartingSaysWhatItWaitsFor(t *testing.T) {
	waiting := errors.Join(errors.New("memory: cold"), errors.New("slot: waiting for an open transaction of process 7"))
	w := tcp(t, func(c *api.Config) { c.Ready = func() error { return waiting } })
	w.engine.pull = func(context.Context, pull.Request) (*pull.Answer, error) {
		return nil, wire.NewProblem(wire.Starting, "")
	}
	res, body := w.ask("GET", "/v1/changes", "")
	wantProblem(t, res, body, 503, wire.Starting)
	if !strings.Contains(body, "memory: cold; slot: waiting for an open transaction of process 7") {
		t.Errorf("answered: %s", body)
	}
}

func TestPanicIsAProblem(t *testing.T) {
	w := tcp(t)
	w.engine.pull = func(context.Context, pull.Request) (*pull.Answer, error) { panic("secret") }
	res, body := w.ask("GET", "/v1/changes", "")
	wantProblem(t, res, body, 500, wire.Internal)
	if strings.Contains(body, "secret") {
		t.Errorf("shown: %s", body)
	}
	if res, _ := w.ask("GET", "/livez", ""); res.StatusCode != 200 {
		t.Errorf("livez %d", res.StatusCode)
	}
}

// decoded takes the content coding off a body.
func decoded(t testing.TB, coding, body string) string {
	t.Helper()
	var r io.Reader = strings.NewReader(body)
	switch coding {
	case "gzip":
		z, err := gzip.NewReader(r)
		if err != nil {
			t.Fatal(err)
		}
		r = z
	case "zstd":
		z, err := zstd.NewReader(r)
		if err != nil {
			t.Fatal(err)
		}
		defer z.Close()
		r = z
	}
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestCompression(t *testing.T) {
	w := tcp(t)
	row := `{"op":"delete","scope":"user:7","table":"public.t","key":{"id":"1"}}`
	rows := 100
	w.engine.pull = func(context.Context, pull.Request) (*pull.Answer, error) {
		return &pull.Answer{Cursor: "10", Changes: []byte(strings.Repeat(row+",", rows-1) + row), Source: "log"}, nil
	}
	for _, size := range []struct {
		rows  int
		small bool
	}{{100, false}, {1, true}} {
		rows = size.rows
		_, plain := w.ask("GET", "/v1/changes", "")
		for _, c := range []struct {
			accept, want string
			also         bool // when it is small
		}{
			{accept: "gzip", want: "gzip"},
			{accept: "gzip, zstd", want: "zstd"},
			{accept: "gzip, deflate, br, zstd", want: "zstd"},
			{accept: "zstd;q=0.5, gzip;q=0.8", want: "gzip"},
			{accept: "zstd; q=0, gzip", want: "gzip"},
			{accept: "*", want: "zstd"},
			{accept: "*;q=0.3, zstd;q=0", want: "gzip"},
			{accept: "br, GZIP;Q=0.5", want: "gzip"},
			{accept: "gzip; q=0", want: ""},
			{accept: "gzip;q=nan, zstd;q=2, gzip;x=1", want: ""},
			{accept: "br", want: ""},
			{accept: "identity, gzip;q=0.5", want: ""},
			{accept: "identity;q=0.2, gzip;q=0.5", want: "gzip"},
			{accept: "identity;q=0, gzip;q=0.1", want: "gzip", also: true},
			{accept: "*;q=0, zstd", want: "zstd", also: true},
			{accept: "*;q=0", want: ""}, // a page is better than none
			{accept: ",;,q=;;=", want: ""},
		} {
			want := c.want
			if size.small && !c.also {
				want = ""
			}
			for range 2 { // the second one meets a used encoder
				res, body := w.ask("GET", "/v1/changes", "", "Accept-Encoding", c.accept)
				etag := `"10"`
				if want != "" {
					etag = `W/"10"` // not the same bytes
				}
				if got := res.Header.Get("Content-Encoding"); got != want || res.Header.Get("ETag") != etag ||
					res.ContentLength != int64(len(body)) || !strings.Contains(strings.Join(res.Header.Values("Vary"), ","), "Accept-Encoding") {
					t.Fatalf("%s, %d rows: %v", c.accept, rows, res.Header)
				}
				if decoded(t, want, body) != plain {
					t.Errorf("%s: other content", c.accept)
				}
			}
		}
	}
	// A 304 says what the 200 would have (RFC 9110 §15.4.5), and takes the weak tag back.
	w.engine.pull = nil
	res, _ := w.ask("GET", "/v1/changes", "", "If-None-Match", `W/"10"`, "Accept-Encoding", "zstd")
	if res.StatusCode != 304 || res.Header.Get("ETag") != `W/"10"` || res.Header.Get("Content-Encoding") != "" ||
		!strings.Contains(strings.Join(res.Header.Values("Vary"), ","), "Accept-Encoding") {
		t.Errorf("%d %v", res.StatusCode, res.Header)
	}
}

func TestAck(t *testing.T) {
	w := tcp(t)
	if res, body := w.ask("POST", "/v1/ack", `{"cursor":"10","later":1}`); res.StatusCode != 204 || body != "" {
		t.Errorf("%d %s", res.StatusCode, body)
	}
	for _, c := range []struct {
		body    string
		headers []string
		status  int
		code    wire.Code
	}{
		{`{"cursor":"x"}`, nil, 400, wire.CursorMalformed},
		{`{"cursor":"foreign"}`, nil, 409, wire.CursorForeign},
		{`{"cursor":""}`, nil, 400, wire.RequestInvalid},
		{`{}`, nil, 400, wire.RequestInvalid},
		{``, nil, 400, wire.RequestInvalid},
		{`{"cursor":1}`, nil, 400, wire.RequestInvalid},
		{`{"cursor":"1"}{}`, nil, 400, wire.RequestInvalid},
		{strings.Repeat("[", 12_000), nil, 400, wire.RequestInvalid},
		{`{"cursor":"` + strings.Repeat("1", 1<<20) + `"}`, nil, 413, wire.TooLarge},
		{`{"cursor":"10"}`, []string{"Authorization", ""}, 401, wire.TokenMissing},
		{`{"cursor":"10"}`, []string{wire.HeaderDevice, ""}, 400, wire.RequestInvalid},
	} {
		res, body := w.ask("POST", "/v1/ack", c.body, c.headers...)
		wantProblem(t, res, body, c.status, c.code)
	}
}

func TestCORS(t *testing.T) {
	w := tcp(t)
	own := strings.TrimPrefix(w.url, "http://")
	for _, c := range []struct {
		origin string
		ok     bool
	}{
		{"https://app.example", true},
		{"HTTPS://APP.example", true},
		{"http://" + own, true}, // a page of ours
		{"http://app.example", false},
		{"https://app.example:444", false},
		{"https://app.example.evil.example", false},
		{"null", false},
		{"://", false},
	} {
		res, body := w.ask("GET", "/v1/changes", "", "Origin", c.origin)
		if !c.ok {
			wantProblem(t, res, body, 403, wire.OriginForbidden)
			if got := res.Header.Get("Access-Control-Allow-Origin"); got != "" {
				t.Errorf("%s: allowed %q", c.origin, got)
			}
			continue
		}
		if res.StatusCode != 200 || res.Header.Get("Access-Control-Allow-Origin") != c.origin ||
			!strings.Contains(res.Header.Get("Access-Control-Expose-Headers"), "Nudge-Cursor") ||
			!strings.Contains(strings.Join(res.Header.Values("Vary"), ","), "Origin") {
			t.Errorf("%s: %d %v", c.origin, res.StatusCode, res.Header)
		}
	}
	// A preflight carries no token.
	res, _ := w.ask(http.MethodOptions, "/v1/changes", "", "Origin", "https://app.example", "Authorization", "",
		wire.HeaderDevice, "", "Access-Control-Request-Method", "GET", "Access-Control-Request-Headers", "authorization,nudge-device")
	if res.StatusCode != 204 || !strings.Contains(res.Header.Get("Access-Control-Allow-Headers"), wire.HeaderDevice) ||
		!strings.Contains(res.Header.Get("Access-Control-Allow-Methods"), "POST") {
		t.Errorf("preflight: %d %v", res.StatusCode, res.Header)
	}
	res, body := w.ask(http.MethodOptions, "/v1/changes", "", "Origin", "https://evil.example", "Access-Control-Request-Method", "GET")
	wantProblem(t, res, body, 403, wire.OriginForbidden)
}
