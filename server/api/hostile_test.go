package api_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coder/websocket"

	"github.com/nudgesync/nudge/server/api"
	"github.com/nudgesync/nudge/server/pull"
	"github.com/nudgesync/nudge/server/wire"
)

// raw opens a connection of its own.
func (w *world) raw() net.Conn {
	w.t.Helper()
	conn, err := w.dialRaw(context.Background(), "", "")
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// trickle writes a byte a second until the other side has had enough, and says how long that took.
func trickle(conn net.Conn, b byte) time.Duration {
	began := time.Now()
	for {
		if _, err := conn.Write([]byte{b}); err != nil {
			return time.Since(began)
		}
		time.Sleep(time.Second)
	}
}

// A request that comes a byte a second is given up, header and body alike; it costs no pull.
func TestSlowRequests(t *testing.T) {
	for name, c := range map[string]struct {
		begin  string
		within time.Duration
		answer string // "" for none
	}{
		"header": {"GET /v1/changes HTTP/1.1\r\nHost: x\r\nX-A: ", 6 * time.Second, ""},
		"body": {
			"POST /v1/ack HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nNudge-Device: phone\r\nContent-Length: 1000\r\n\r\n",
			16 * time.Second, "HTTP/1.1 400 ",
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := piped(t)
				conn := w.raw()
				heard := make(chan string, 1)
				go func() {
					b, _ := io.ReadAll(conn) // to whatever end
					heard <- string(b)
				}()
				begin := c.begin
				if strings.Contains(begin, "%s") {
					begin = fmt.Sprintf(begin, w.token())
				}
				if _, err := io.WriteString(conn, begin); err != nil {
					t.Fatal(err)
				}
				if took := trickle(conn, 'a'); took > c.within {
					t.Errorf("borne for %v", took)
				}
				if got := <-heard; !strings.HasPrefix(got, c.answer) || (got == "") != (c.answer == "") && !strings.HasPrefix(got, "HTTP/1.1 408") {
					t.Errorf("answered %q", got)
				}
				if n := w.pullsMade(); n != 0 {
					t.Errorf("%d pulls", n)
				}
			})
		})
	}
}

// An answer that is read a byte a second is cut off.
func TestSlowReaderOfAPage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := piped(t)
		w.engine.pull = func(context.Context, pull.Request) (*pull.Answer, error) {
			return &pull.Answer{Cursor: "10", Changes: []byte(`{"op":"forget","scope":"` + strings.Repeat("s", 1<<20) + `"}`), Source: "log"}, nil
		}
		conn := w.raw()
		if _, err := fmt.Fprintf(conn, "GET /v1/changes HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nNudge-Device: phone\r\n\r\n", w.token()); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		for one := make([]byte, 1); ; time.Sleep(time.Second) {
			if _, err := conn.Read(one); err != nil {
				break
			}
		}
		if took := time.Since(began); took > 30*time.Second {
			t.Errorf("borne for %v", took)
		}
	})
}

// Pages that nobody reads have a bound, one user's and the node's; it is free again when they are cut off.
func TestUnreadPages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := piped(t, noPings, func(c *api.Config) { c.Limits.BodyBytes = 2 << 20 })
		w.engine.pull = func(context.Context, pull.Request) (*pull.Answer, error) {
			return &pull.Answer{Cursor: "10", Changes: []byte(`{"op":"forget","scope":"` + strings.Repeat("s", 900<<10) + `"}`), Source: "log"}, nil
		}
		stuck := func(user string) {
			if _, err := fmt.Fprintf(w.raw(), "GET /v1/changes HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nNudge-Device: phone\r\n\r\n", w.token("sub", user)); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		d := w.join("tablet", "10")
		stuck("7")
		res, body := w.ask("GET", "/v1/changes", "")
		wantProblem(t, res, body, http.StatusTooManyRequests, wire.RateLimited)
		d.say(wire.Pull{T: wire.TPull, ID: 1})
		d.wantError(wire.RateLimited)
		as := func(user string) (*http.Response, string) {
			return w.ask("GET", "/v1/changes", "", "Authorization", "Bearer "+w.token("sub", user))
		}
		if res, _ := as("8"); res.StatusCode != http.StatusOK {
			t.Errorf("another user's page: %d", res.StatusCode)
		}
		stuck("8")
		res, body = as("9")
		wantProblem(t, res, body, http.StatusServiceUnavailable, wire.Overloaded)
		time.Sleep(30 * time.Second)
		for _, user := range []string{"7", "8", "9"} {
			if res, _ := as(user); res.StatusCode != http.StatusOK {
				t.Errorf("user %s, once they were cut off: %d", user, res.StatusCode)
			}
		}
	})
}

// While a client reads its page, there is one copy of it.
func TestOneCopyOfAPage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const size = 32 << 20
		w := piped(t)
		w.engine.pull = func(context.Context, pull.Request) (*pull.Answer, error) {
			return &pull.Answer{Cursor: "10", Changes: bytes.Repeat([]byte("s"), size), Source: "log"}, nil
		}
		alive := func() int64 {
			runtime.GC()
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			return int64(m.HeapAlloc)
		}
		before := alive()
		conn := w.raw()
		if _, err := fmt.Fprintf(conn, "GET /v1/changes HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nNudge-Device: phone\r\n\r\n", w.token()); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if got := alive() - before; got < size/2 || got > size*3/2 {
			t.Errorf("%d MiB for a page of %d MiB", got>>20, size>>20)
		}
	})
}

// A frame that comes a byte a second closes the socket, before hello and after it, also if it is of many
// fragments with pongs in between.
func TestSlowFrames(t *testing.T) {
	for _, greeted := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			w := piped(t, noPings)
			conn := w.raw()
			if _, err := fmt.Fprintf(conn, "GET /v1/socket HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
				"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\nSec-WebSocket-Protocol: nudge.v1\r\n\r\n"); err != nil {
				t.Fatal(err)
			}
			r := bufio.NewReader(conn)
			res, err := http.ReadResponse(r, nil)
			if err != nil || res.StatusCode != http.StatusSwitchingProtocols {
				t.Fatalf("%+v, %v", res, err)
			}
			_ = res.Body.Close()
			said := make(chan string, 1)
			go func() {
				b, _ := io.ReadAll(r) // to whatever end
				said <- string(b)
			}()
			want := "4002"
			if greeted {
				want = "4003"
				hello := fmt.Sprintf(`{"t":"hello","v":1,"device":"phone","token":"%s"}`, w.token())
				frame := append([]byte{0x81, 0x80 | 126, byte(len(hello) >> 8), byte(len(hello)), 0, 0, 0, 0}, hello...)
				if _, err := conn.Write(frame); err != nil {
					t.Fatal(err)
				}
				synctest.Wait()
			}
			began := time.Now()
			for first := true; ; first = false {
				// A fragment of one byte, and a pong.
				fragment := []byte{0x00, 0x81, 0, 0, 0, 0, 'a', 0x8a, 0x80, 0, 0, 0, 0}
				if first {
					fragment[0] = 0x01
				}
				if _, err := conn.Write(fragment); err != nil {
					break
				}
				time.Sleep(time.Second)
			}
			if took := time.Since(began); took > 20*time.Second {
				t.Errorf("borne for %v", took)
			}
			<-said
			synctest.Wait()
			if got := w.count("nudge_session_closes_total", want); got != 1 {
				t.Errorf("closes of %s: %v", want, got)
			}
		})
	}
}

// Sockets that never say hello are closed when their time is over, and leave nothing behind. Meanwhile a
// pull is answered.
func TestSilentSockets(t *testing.T) {
	n := 500
	if os.Getenv("NUDGE_LONG") != "" {
		n = 10_000
	}
	synctest.Test(t, func(t *testing.T) {
		w := piped(t, noPings, func(c *api.Config) { c.Limits.HandshakeRate, c.Limits.MaxSockets = n, n })
		silent := make([]*device, n)
		for i := range silent {
			silent[i] = w.dial()
		}
		w.wantBusy() // they are all there is room for
		if res, _ := w.ask("GET", "/v1/changes", ""); res.StatusCode != http.StatusOK {
			t.Errorf("a pull meanwhile: %d", res.StatusCode)
		}
		ended := make(chan error, n)
		for _, d := range silent {
			go func() {
				_, _, err := d.conn.Read(context.Background())
				ended <- err
			}()
		}
		for range n {
			if err := <-ended; websocket.CloseStatus(err) != wire.CloseHelloTimeout {
				t.Fatalf("ended with %v", err)
			}
		}
		synctest.Wait()
		if got := w.count("nudge_sessions"); got != 0 {
			t.Errorf("sessions left: %v", got)
		}
		time.Sleep(time.Second)
		w.join("phone", "10")
	})
}

// FuzzRequest asks with any query and headers: the answer is a documented one, and no server's error.
func FuzzRequest(f *testing.F) {
	for _, seed := range [][5]string{
		{"since=1&limit=2&tables=a,b&wait=0s&nudge=n", "", "phone", "", "gzip"},
		{"since=%zz&&;", `W/"10"`, "a b", "\x00", "zstd;q=nan"},
		{"wait=-9223372036854775808h", `"`, strings.Repeat("d", 200), "10", "*;q=0"},
		{"limit=1e9&limit=2", `"1","2"`, "", "ö", ";;,,=="},
	} {
		f.Add(seed[0], seed[1], seed[2], seed[3], seed[4])
	}
	f.Fuzz(func(t *testing.T, query, match, device, event, accept string) {
		if values, err := url.ParseQuery(query); err == nil && values.Get("wait") != "" {
			if d, err := time.ParseDuration(values.Get("wait")); err == nil && d > 0 {
				return // it would wait
			}
		}
		w := tcp(t)
		handler, token := w.api.Public(), w.token()
		for _, path := range []string{"/v1/changes", "/v1/events", "/v1/ack", "/v1/socket", "/readyz", "/v1/openapi.yaml"} {
			ctx, cancel := context.WithCancel(t.Context())
			cancel() // a stream ends at once
			r := httptest.NewRequestWithContext(ctx, http.MethodGet, path, http.NoBody)
			r.URL.RawQuery = query
			r.Header.Set("Authorization", "Bearer "+token)
			r.Header["If-None-Match"] = []string{match}
			r.Header[wire.HeaderDevice] = []string{device}
			r.Header["Last-Event-Id"] = []string{event}
			r.Header["Accept-Encoding"] = []string{accept}
			rec := httptest.NewRecorder()
			handler.ServeHTTP(rec, r)
			res := rec.Result()
			if res.StatusCode >= 500 {
				t.Errorf("%s: %d %s", path, res.StatusCode, rec.Body)
			}
			body := rec.Body.String()
			if res.Header.Get("Content-Type") != "text/event-stream" {
				body = decoded(t, res.Header.Get("Content-Encoding"), body)
			}
			theContract().check(t, r, res, body)
		}
	})
}
