package dev_test

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/nudgesync/nudge/clientsim/provider"
	"github.com/nudgesync/nudge/server/auth"
	"github.com/nudgesync/nudge/server/dev"
	"github.com/nudgesync/nudge/server/wire"
)

// backend is the demo's backend over a database of its own.
type backend struct {
	*httptest.Server
	conn *pgx.Conn
	dsn  string
	stop func() // ends what waits

	phones *provider.Providers
	sign   func(user, device string, ttl time.Duration) string
}

func newBackend(t *testing.T) *backend {
	t.Helper()
	dsn, conn := prepared(t)
	db, err := dev.Open(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(db.Close)
	key, err := auth.ParseKey("", auth.HS256, []byte(strings.Repeat("k", 32)))
	if err != nil {
		t.Fatal(err)
	}
	verifier, err := auth.New(auth.Config{Keys: []auth.Key{key}, DeviceClaim: "did"})
	if err != nil {
		t.Fatal(err)
	}
	mint := func(user, device string, ttl time.Duration) (string, error) {
		return auth.Mint(key, auth.Claims{
			Issued: time.Now(), Expires: time.Now().Add(ttl),
			Named: map[string]string{"sub": user, "did": device},
		})
	}
	phones, err := provider.Start(context.Background(), provider.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(phones.Close)
	app, err := dev.New(dev.Config{
		DB: db, Verifier: verifier, Psql: "psql …", Log: slog.New(slog.DiscardHandler),
		Sign:   func(user, device string) (string, error) { return mint(user, device, time.Hour) },
		Phones: phones,
		Explain: func(_ context.Context, user, device string) (dev.Verdict, error) {
			return dev.Verdict{Says: device + " of " + user, Stale: true}, nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(app)
	t.Cleanup(server.Close)
	t.Cleanup(app.Close)
	return &backend{Server: server, conn: conn, dsn: dsn, phones: phones, stop: app.Close, sign: func(user, device string, ttl time.Duration) string {
		token, err := mint(user, device, ttl)
		if err != nil {
			t.Fatal(err)
		}
		return token
	}}
}

// call sends a request and decodes the answer, whatever its status.
func (b *backend) call(t *testing.T, method, path, token, body string) (status int, answer map[string]any) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, b.URL+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := b.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, &answer); err != nil {
		t.Fatalf("%s %s: %d %q is no JSON", method, path, resp.StatusCode, data)
	}
	want := "application/json"
	if resp.StatusCode >= 400 {
		want = "application/problem+json"
	}
	if got := resp.Header.Get("Content-Type"); got != want {
		t.Errorf("%s %s: content type %q, want %q", method, path, got, want)
	}
	return resp.StatusCode, answer
}

// intake is an open one of a user.
func (b *backend) intake(t *testing.T, user int) string {
	t.Helper()
	return one[string](t, b.conn, `select id from intakes where user_id = $1 and taken_at is null order by due_at limit 1`, user)
}

func TestToggleTicksOffAndTakesBack(t *testing.T) {
	b := newBackend(t)
	_, session := b.call(t, "GET", "/demo/session?user=7&device=phone-1", "", "")
	token, _ := session["token"].(string)
	id := b.intake(t, 7)
	for _, taken := range []bool{true, false} {
		status, answer := b.call(t, "POST", "/demo/intakes/"+id+"/toggle", token, `{"device":"phone-1"}`)
		if status != http.StatusOK || answer["id"] != id {
			t.Fatalf("answered %d %v", status, answer)
		}
		if got := one[bool](t, b.conn, `select taken_at is not null from intakes where id = $1`, id); got != taken {
			t.Errorf("taken is %v, want %v", got, taken)
		}
		updated := one[time.Time](t, b.conn, `select updated_at from intakes where id = $1`, id)
		if got, err := time.Parse(time.RFC3339Nano, answer["updated_at"].(string)); err != nil || !got.Equal(updated) {
			t.Errorf("answered updated_at %v, the row has %v", answer["updated_at"], updated)
		}
	}
}

// The device that wrote is named in the write's own transaction, in the WAL.
func TestWritesNameTheirDevice(t *testing.T) {
	b := newBackend(t)
	exec(t, b.conn, `select pg_create_logical_replication_slot('look', 'pgoutput')`)
	exec(t, b.conn, `create publication look for table intakes`)
	token := b.sign("7", "phone-1", time.Hour)
	if status, answer := b.call(t, "POST", "/demo/intakes/"+b.intake(t, 7)+"/toggle", token, `{"device":"phone-1"}`); status != http.StatusOK {
		t.Fatal(answer)
	}
	// M is a message, U an update, C the commit; the same transaction has all of them.
	got := one[string](t, b.conn, `select string_agg(chr(get_byte(data, 0)), '' order by lsn)
		from pg_logical_slot_peek_binary_changes('look', null, null, 'proto_version', '1', 'publication_names', 'look', 'messages', 'true')
		where xid = (select xid from pg_logical_slot_peek_binary_changes('look', null, null, 'proto_version', '1', 'publication_names', 'look', 'messages', 'true')
		             where position('nudge.origin'::bytea in data) > 0 and position('phone-1'::bytea in data) > 0)`)
	if !strings.HasPrefix(got, "BM") || !strings.HasSuffix(got, "UC") {
		t.Errorf("the transaction reads %q, want Begin, Message, …, Update, Commit", got)
	}
}

func TestRefillKeepsTheInvariant(t *testing.T) {
	b := newBackend(t)
	id := one[string](t, b.conn, `select id from medications where user_id = 7 limit 1`)
	before := one[int](t, b.conn, `select stock from medications where id = $1`, id)
	status, answer := b.call(t, "POST", "/demo/medications/"+id+"/refill", b.sign("7", "tablet-1", time.Hour), `{"device":"tablet-1"}`)
	if status != http.StatusOK {
		t.Fatal(answer)
	}
	if got := one[int](t, b.conn, `select stock from medications where id = $1`, id); got != before+30 {
		t.Errorf("stock %d, want %d", got, before+30)
	}
	if n := one[int](t, b.conn, wrongStock); n != 0 {
		t.Errorf("%d medications have a wrong stock", n)
	}
}

func TestBackendRefuses(t *testing.T) {
	b := newBackend(t)
	own, others := b.intake(t, 7), b.intake(t, 3)
	good := b.sign("7", "phone-1", time.Hour)
	body := `{"device":"phone-1"}`
	for name, c := range map[string]struct {
		method, path, token, body string
		status                    int
		code                      wire.Code
	}{
		"no token":              {"POST", "/demo/intakes/" + own + "/toggle", "", body, 401, wire.TokenMissing},
		"a token of nobody":     {"POST", "/demo/intakes/" + own + "/toggle", "x.y.z", body, 401, wire.TokenBad},
		"an expired token":      {"POST", "/demo/intakes/" + own + "/toggle", b.sign("7", "phone-1", -time.Hour), body, 401, wire.TokenExpired},
		"a user of no demo":     {"POST", "/demo/intakes/" + own + "/toggle", b.sign("anna", "phone-1", time.Hour), body, 401, wire.TokenBad},
		"another device":        {"POST", "/demo/intakes/" + own + "/toggle", good, `{"device":"tablet-1"}`, 403, wire.DeviceMismatch},
		"another user's row":    {"POST", "/demo/intakes/" + others + "/toggle", good, body, 404, wire.NotFound},
		"no such row":           {"POST", "/demo/intakes/00000000-0000-0000-0000-000000000000/toggle", good, body, 404, wire.NotFound},
		"an id of another kind": {"POST", "/demo/intakes/17/toggle", good, body, 400, wire.RequestInvalid},
		"no body":               {"POST", "/demo/intakes/" + own + "/toggle", good, ``, 400, wire.RequestInvalid},
		"no device":             {"POST", "/demo/intakes/" + own + "/toggle", good, `{}`, 400, wire.RequestInvalid},
		"an unknown field":      {"POST", "/demo/intakes/" + own + "/toggle", good, `{"device":"phone-1","user":3}`, 400, wire.RequestInvalid},
		"a device with spaces":  {"POST", "/demo/intakes/" + own + "/toggle", good, `{"device":"my phone"}`, 400, wire.RequestInvalid},
		"a long body":           {"POST", "/demo/intakes/" + own + "/toggle", good, `{"device":"` + strings.Repeat("x", 2000) + `"}`, 413, wire.TooLarge},
		"a path of nothing":     {"GET", "/demo/else", "", "", 404, wire.NotFound},
		"a session of no user":  {"GET", "/demo/session?user=99&device=phone-1", "", "", 404, wire.NotFound},
		"a session of zero":     {"GET", "/demo/session?user=0&device=phone-1", "", "", 400, wire.RequestInvalid},
		"a nameless session":    {"GET", "/demo/session?user=7", "", "", 400, wire.RequestInvalid},
	} {
		t.Run(name, func(t *testing.T) {
			status, answer := b.call(t, c.method, c.path, c.token, c.body)
			if status != c.status || answer["code"] != string(c.code) {
				t.Errorf("got %d %v, want %d %s", status, answer, c.status, c.code)
			}
		})
	}
	if n := one[int](t, b.conn, `select count(*) from intakes where id in ($1, $2) and taken_at is not null`, own, others); n != 0 {
		t.Error("a refused request wrote")
	}
}

// A web site whose name points to loopback must not get at a token (DNS rebinding).
func TestForeignHostIsRefused(t *testing.T) {
	b := newBackend(t)
	for host, want := range map[string]int{
		"evil.example":   http.StatusForbidden,
		"evil.example:1": http.StatusForbidden,
		"localhost":      http.StatusOK,
		"127.0.0.1:8080": http.StatusOK,
		"[::1]:8080":     http.StatusOK,
	} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, b.URL+"/demo/session?user=7&device=x", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Host = host
		resp, err := b.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("host %s: %d, want %d", host, resp.StatusCode, want)
		}
	}
}
