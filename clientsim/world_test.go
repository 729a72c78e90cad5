package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/golang-jwt/jwt/v5"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/nudgesync/nudge/internal/devpg/pgtest"
	"github.com/nudgesync/nudge/server/wire"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

const signingKey = "a key of the tests alone, long enough"

// world is a database with the demo's schema and the plainest server that keeps the protocol: it
// answers every pull with a reset and all rows, and nudges everybody whenever anything was written.
type world struct {
	t       *testing.T
	dsn     string
	pool    *pgxpool.Pool
	url     string
	keyFile string

	// Faults that a test plants.
	rate   string                               // of commits a second
	mute   func(device string) bool             // no nudges for it
	tamper func(device string, page *wire.Page) // changes a page before it is sent

	cursors atomic.Int64
	trimmed atomic.Int64 // cursors up to here are expired
	mu      sync.Mutex
	nudges  map[chan struct{}]struct{} // of each session
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{
		t: t, dsn: pgtest.Database(t), nudges: map[chan struct{}]struct{}{},
		keyFile: filepath.Join(t.TempDir(), "key"),
		mute:    func(string) bool { return false },
		tamper:  func(string, *wire.Page) {},
	}
	if err := os.WriteFile(w.keyFile, []byte(signingKey+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	schema, err := os.ReadFile("../server/dev/demo.sql")
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := pgxpool.ParseConfig(w.dsn)
	if err != nil {
		t.Fatal(err)
	}
	cfg.ConnConfig.RuntimeParams["timezone"] = "UTC"
	ctx, cancel := context.WithCancel(context.Background())
	if w.pool, err = pgxpool.NewWithConfig(ctx, cfg); err != nil {
		t.Fatal(err)
	}
	if _, err := w.pool.Exec(ctx, string(schema)); err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /readyz", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("POST /v1/admin/log/trim", func(http.ResponseWriter, *http.Request) { w.trimmed.Store(w.cursors.Load()) })
	mux.HandleFunc("GET /v1/socket", func(rw http.ResponseWriter, r *http.Request) { w.socket(ctx, rw, r) })
	server := httptest.NewServer(mux)
	w.url = server.URL
	var watching sync.WaitGroup
	watching.Go(func() { w.watch(ctx) })
	t.Cleanup(func() {
		cancel()
		watching.Wait()
		server.Close()
		w.pool.Close()
	})
	return w
}

// watch nudges every session after something was written.
func (w *world) watch(ctx context.Context) {
	last := ""
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for ctx.Err() == nil {
		var now string
		if w.pool.QueryRow(ctx, "select pg_current_snapshot()::text").Scan(&now) == nil && now != last {
			last = now
			w.mu.Lock()
			for session := range w.nudges {
				select {
				case session <- struct{}{}:
				default:
				}
			}
			w.mu.Unlock()
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
}

func (w *world) socket(ctx context.Context, rw http.ResponseWriter, r *http.Request) {
	user, ok := w.authenticate(r)
	if !ok {
		rw.WriteHeader(http.StatusUnauthorized)
		_ = json.NewEncoder(rw).Encode(wire.NewProblem(wire.TokenBad, ""))
		return
	}
	conn, err := websocket.Accept(rw, r, &websocket.AcceptOptions{Subprotocols: []string{wire.Subprotocol}})
	if err != nil {
		return
	}
	ctx, cancel := context.WithCancel(ctx)
	nudge := make(chan struct{}, 1)
	w.mu.Lock()
	w.nudges[nudge] = struct{}{}
	w.mu.Unlock()
	var nudging sync.WaitGroup
	defer func() {
		cancel()
		nudging.Wait()
		w.mu.Lock()
		delete(w.nudges, nudge)
		w.mu.Unlock()
		_ = conn.CloseNow()
	}()
	device := ""
	for {
		_, b, err := conn.Read(ctx)
		if err != nil {
			return
		}
		var f struct {
			T      string  `json:"t"`
			ID     int64   `json:"id"`
			Device string  `json:"device"`
			Cursor *string `json:"cursor"`
		}
		if json.Unmarshal(b, &f) != nil {
			return
		}
		switch f.T {
		case wire.THello:
			device = f.Device
			_ = send(ctx, conn, wire.Ready{T: wire.TReady, Behind: true})
			nudging.Go(func() {
				for {
					select {
					case <-nudge:
						if !w.mute(device) {
							_ = send(ctx, conn, wire.Nudge{T: wire.TNudge})
						}
					case <-ctx.Done():
						return
					}
				}
			})
		case wire.TPull:
			page, err := w.page(ctx, user, f.Cursor)
			if err != nil {
				return
			}
			w.tamper(device, page)
			_ = send(ctx, conn, wire.Changes{T: wire.TChanges, ID: f.ID, Page: *page})
		}
	}
}

func send(ctx context.Context, conn *websocket.Conn, f any) error {
	b, err := json.Marshal(f)
	if err != nil {
		return err
	}
	return conn.Write(ctx, websocket.MessageText, b)
}

// authenticate checks what the dev server will: method, key, key id, issuer, audience and expiry.
func (w *world) authenticate(r *http.Request) (string, bool) {
	raw := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
	var claims jwt.RegisteredClaims
	_, err := jwt.ParseWithClaims(raw, &claims, func(t *jwt.Token) (any, error) {
		if t.Header["kid"] != "dev" {
			return nil, fmt.Errorf("kid %v", t.Header["kid"])
		}
		return []byte(signingKey), nil
	}, jwt.WithValidMethods([]string{"HS256"}), jwt.WithIssuer("nudge-dev"), jwt.WithAudience("nudge"), jwt.WithExpirationRequired())
	return claims.Subject, err == nil
}

// page is everything that the user has, at one moment.
func (w *world) page(ctx context.Context, user string, since *string) (*wire.Page, error) {
	reason := "new"
	if since != nil {
		reason = "repair"
		if n, err := strconv.ParseInt(*since, 10, 64); err == nil && n <= w.trimmed.Load() {
			reason = "expired"
		}
	}
	page := &wire.Page{Cursor: strconv.FormatInt(w.cursors.Add(1), 10)}
	page.Changes = append(page.Changes, wire.Change{Op: wire.OpReset, Scope: "*", Table: "*", Gen: page.Cursor, Reason: reason})
	rows, err := w.pool.Query(ctx, `
		select 'public.users', id::text, to_jsonb(t)::text from public.users t where id::text = $1 union all
		select 'public.medications', to_json(id)::text, to_jsonb(t)::text from public.medications t where user_id::text = $1 union all
		select 'public.intakes', to_json(id)::text, to_jsonb(t)::text from public.intakes t where user_id::text = $1`, user)
	if err != nil {
		return nil, err
	}
	var table, id, doc string
	_, err = pgx.ForEachRow(rows, []any{&table, &id, &doc}, func() error {
		page.Changes = append(page.Changes, wire.Change{
			Op: wire.OpUpsert, Scope: "user:" + user, Table: table,
			Key: json.RawMessage(`{"id":` + id + `}`), Row: json.RawMessage(doc),
		})
		return nil
	})
	page.Changes = append(page.Changes, wire.Change{Op: wire.OpSweep, Scope: "*", Table: "*", Gen: page.Cursor})
	return page, err
}
