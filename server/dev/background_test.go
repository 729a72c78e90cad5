package dev_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/nudgesync/nudge/server/dev/browsertest"
)

// script is a server that answers a background client as told, and notes what it was asked.
type script struct {
	mu    sync.Mutex
	asked []string
	say   []reply // the next ones
}

type reply struct {
	status int
	body   string
}

func (s *script) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked = append(s.asked, fmt.Sprintf("%s %s %s", r.Method, r.URL.RequestURI(), body))
	if len(s.say) == 0 {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	next := s.say[0]
	s.say = s.say[1:]
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(next.status)
	_, _ = io.WriteString(w, next.body)
}

func (s *script) takes() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	asked := s.asked
	s.asked = nil
	return asked
}

// What the client asks for when it is woken: it names the push, pulls all pages, and acknowledges what it has saved.
func TestBackground(t *testing.T) {
	s := &script{}
	mux := http.NewServeMux()
	mux.Handle("/", http.FileServerFS(os.DirFS("page")))
	mux.Handle("/v1/", s)
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	page := browsertest.Open(t, server.URL+"/background.js")
	run := func(what string) string {
		return browsertest.Eval[string](page, `(async () => {
			const { Rows } = await import("/rows.js");
			const { Background } = await import("/background.js");
			globalThis.rows ??= new Rows(localStorage, "x");
			globalThis.client ??= new Background({ device: "d", rows, token: async () => "t" });
			try { return JSON.stringify(await (`+what+`)) ?? "" } catch (error) { return "refused: " + error.code }
		})()`)
	}
	at := func(cursor string, more bool) reply {
		return reply{200, fmt.Sprintf(`{"cursor":%q,"has_more":%t,"changes":[]}`, cursor, more)}
	}
	problem := func(status int, code string) reply {
		return reply{status, fmt.Sprintf(`{"code":%q,"title":"no","retry_after_ms":1}`, code)}
	}
	ack := reply{200, ""}
	for _, c := range []struct {
		name, do string
		say      []reply
		asks     []string
	}{
		{
			"the first pull", `client.woken("")`,
			[]reply{at("c1", true), at("c2", false), ack},
			[]string{"GET /v1/changes? ", "GET /v1/changes?since=c1 ", `POST /v1/ack {"cursor":"c2"}`},
		},
		{
			"a push", `client.woken("p.1")`,
			[]reply{at("c3", false), ack},
			[]string{"GET /v1/changes?since=c2&nudge=p.1 ", `POST /v1/ack {"cursor":"c3"}`},
		},
		{
			"two at once go one after the other", `Promise.all([client.woken("p.2"), client.woken("p.3")])`,
			[]reply{at("c4", false), ack, at("c5", false), ack},
			[]string{
				"GET /v1/changes?since=c3&nudge=p.2 ", `POST /v1/ack {"cursor":"c4"}`,
				"GET /v1/changes?since=c4&nudge=p.3 ", `POST /v1/ack {"cursor":"c5"}`,
			},
		},
		{
			"a registration", `client.register({ road: "apns", app: "a", environment: "production", target: { kind: "token", value: "v" } })`,
			nil,
			[]string{`PUT /v1/devices/d {"road":"apns","app":"a","environment":"production","target":{"kind":"token","value":"v"},"cursor":"c5"}`},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			s.say = c.say
			if got := run(c.do); strings.HasPrefix(got, "refused") {
				t.Errorf("it was %s", got)
			}
			if got := s.takes(); !slices.Equal(got, c.asks) {
				t.Errorf("it asked\n%q, want\n%q", got, c.asks)
			}
		})
	}

	// What goes wrong shows in the console, where nothing else may.
	page.Forgive("Failed to load resource")
	t.Run("an overloaded server is asked again, when it says so", func(t *testing.T) {
		s.say = []reply{problem(503, "overloaded"), at("c6", false), problem(503, "draining"), at("c6", false), ack}
		run(`client.woken("p.4")`)
		got := s.takes()
		if len(got) != 5 || got[1] != got[0] || got[3] != "GET /v1/changes?since=c6&nudge=p.4 " || got[4] != got[2] {
			t.Errorf("it asked %q", got)
		}
	})
	t.Run("a cursor that is not ours is the end of the rows", func(t *testing.T) {
		s.say = []reply{problem(409, "cursor_foreign"), at("c7", false), ack}
		run(`client.woken("p.5")`)
		if got := s.takes(); len(got) != 3 || got[1] != "GET /v1/changes?nudge=p.5 " {
			t.Errorf("it asked %q", got)
		}
	})
	t.Run("a refusal is final", func(t *testing.T) {
		s.say = []reply{problem(403, "token_revoked")}
		if got := run(`client.woken("p.6")`); got != "refused: token_revoked" || len(s.takes()) != 1 {
			t.Errorf("it says %s", got)
		}
	})
	t.Run("and so is the end of the app's time", func(t *testing.T) {
		s.say = []reply{problem(503, "overloaded")}
		got := run(`(async () => { const end = new AbortController(); const work = client.woken("p.7", end.signal); end.abort(); return work })()`)
		if got == "" || len(s.takes()) > 1 {
			t.Errorf("it says %s", got)
		}
	})
}
