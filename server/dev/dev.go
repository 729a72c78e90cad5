// Package dev is the demo that `nudge dev` shows: a medication app with its schema, its few writes
// and a page on which one user's phone and tablet stand side by side, and a phone in a pocket.
//
// It plays the customer's part. Its backend writes to its own tables as any app would and knows of
// nudge only the call nudge.origin, which names the writing device; the page's devices are ordinary
// clients of the public protocol (page/client.js, page/background.js). The phone in the pocket is simulated by
// clientsim/provider, which decides by its platform's rules when a push runs the app; the app itself is the
// page's. It is served in development alone: it hands a token to whoever asks.
package dev

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/nudgesync/nudge/clientsim/provider"
	"github.com/nudgesync/nudge/server/auth"
	"github.com/nudgesync/nudge/server/wire"
)

// DemoUser is whose devices the page shows.
const DemoUser = 7

// Table is one table of the demo and the column that owns its rows.
type Table struct {
	Name  string // with its schema
	Owner string
}

// Tables are the demo's, parents first.
func Tables() []Table {
	return []Table{
		{Name: "public.users", Owner: "id"},
		{Name: "public.medications", Owner: "user_id"},
		{Name: "public.intakes", Owner: "user_id"},
	}
}

// Config is what an App needs; every field is required.
type Config struct {
	DB       *pgxpool.Pool // of the demo's database, which Prepare has been through
	Verifier *auth.Verifier
	// Sign issues a token that binds a user to a device, and that Verifier accepts.
	Sign func(user, device string) (token string, err error)
	Psql string // the line that the page offers for a change by hand
	// Phones are the simulated push services that nudge pushes through. Stopping them is the caller's.
	Phones *provider.Providers
	// Explain says why a user's device is stale.
	Explain func(ctx context.Context, user, device string) (Verdict, error)
	Log     *slog.Logger
}

// Verdict is why a device is stale, or that it is not.
type Verdict struct {
	Says  string `json:"says"` // in one sentence
	Stale bool   `json:"stale"`
}

// Validate reports what is missing.
func (c Config) Validate() error {
	switch {
	case c.DB == nil:
		return errors.New("dev: no database")
	case c.Verifier == nil || c.Sign == nil:
		return errors.New("dev: no verifier, or nothing that signs")
	case c.Psql == "":
		return errors.New("dev: no psql line")
	case c.Phones == nil || c.Explain == nil:
		return errors.New("dev: no phones, or nothing that explains them")
	case c.Log == nil:
		return errors.New("dev: no logger")
	}
	return nil
}

// App is the demo app's backend and page, an http.Handler for the path "/" and everything below it.
type App struct {
	cfg    Config
	mux    *http.ServeMux
	run    int64           // another one for each App
	closed context.Context // ends with Close

	// Close ends the requests that wait for something to happen. It may be called more than once.
	Close context.CancelFunc

	mu      sync.Mutex
	pockets map[string]provider.Platform // of each device that has a phone, the one it is now
}

// New makes the app.
func New(cfg Config) (*App, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	a := &App{cfg: cfg, run: time.Now().UnixMilli(), mux: http.NewServeMux(), pockets: make(map[string]provider.Platform)}
	a.closed, a.Close = context.WithCancel(context.Background())
	a.mux.HandleFunc("GET /demo/session", a.session)
	a.mux.HandleFunc("POST /demo/intakes/{id}/toggle", a.toggle)
	a.mux.HandleFunc("POST /demo/medications/{id}/refill", a.refill)
	a.mux.HandleFunc("PUT /demo/pocket", a.withPocket(a.putPocket))
	a.mux.HandleFunc("PATCH /demo/pocket", a.withPocket(a.switchPocket))
	a.mux.HandleFunc("POST /demo/pocket/later", a.withPocket(a.later))
	a.mux.HandleFunc("GET /demo/pocket/log", a.withPocket(a.pocketLog))
	a.mux.HandleFunc("GET /demo/pocket/why", a.withPocket(a.why))
	a.mux.HandleFunc("/demo/", notFound)
	a.mux.Handle("/", page())
	return a, nil
}

// ServeHTTP answers a request whose Host is an address or localhost, and no other: otherwise a web
// site whose name was rebound to loopback could fetch a token here.
func (a *App) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !local(r.Host) {
		problem(w, wire.NewProblem(wire.OriginForbidden, "the demo answers to localhost and to addresses only"))
		return
	}
	a.mux.ServeHTTP(w, r)
}

func local(hostport string) bool {
	host, _, err := net.SplitHostPort(hostport)
	if err != nil {
		host = hostport
	}
	return host == "localhost" || net.ParseIP(host) != nil
}

// Open makes the small pool that an App writes through. Closing it is the caller's.
func Open(ctx context.Context, dsn string) (*pgxpool.Pool, error) {
	cfg, err := pgxpool.ParseConfig(dsn)
	if err != nil {
		return nil, err
	}
	cfg.MaxConns = 4
	cfg.MaxConnIdleTime = time.Minute
	return pgxpool.NewWithConfig(ctx, cfg)
}
