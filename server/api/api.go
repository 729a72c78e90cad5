package api

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"

	"github.com/nudgesync/nudge/changefeed/change"
	"github.com/nudgesync/nudge/notify/device"
	"github.com/nudgesync/nudge/notify/hub"
	"github.com/nudgesync/nudge/server/auth"
	"github.com/nudgesync/nudge/server/pull"
)

// Engine answers pulls. It is called concurrently; its errors are a *wire.Problem or the context's.
type Engine interface {
	// Pull returns one page.
	Pull(ctx context.Context, r pull.Request) (*pull.Answer, error)
	// Compare says where a cursor stands against the head; "" is behind.
	Compare(ctx context.Context, user, cursor string) (pull.Comparison, error)
	// Head is a position as the cursor that nudges carry. It does not block.
	Head(user string, pos change.Position) string
	// Saved is the position that a cursor, once saved, proves; zero in the middle of a snapshot. It
	// does not block.
	Saved(user, cursor string) (change.Position, error)
}

// Verifier says whom a token speaks for. Its errors are, or wrap, a *wire.Problem, or they are the context's.
type Verifier interface {
	Verify(ctx context.Context, token string) (auth.Identity, error)
	// Check says whether somebody whom Verify let in, on the device that they named, may stay. It does
	// not block. Its error wraps auth.ErrBlind if it can't be known. When its answer changes for somebody,
	// other than by time, Recheck has to be called.
	Check(id auth.Identity) error
}

// Hub knows which sessions hear of which scopes. A session registered before Compare reads the head
// misses nothing: what is committed later nudges it.
type Hub interface {
	Register(scopes []change.Scope, s hub.Session) (unregister func())
}

// Config is what an API is made of.
type Config struct {
	Engine   Engine   // needed
	Verifier Verifier // needed
	Hub      Hub      // needed

	// Origins are the web origins that may call, exactly as browsers send them
	// ("https://app.example"). Pages from the listener's own host always may.
	Origins []string
	// AdminHosts are further host names under which the admin listener may be asked for, without
	// port. IP addresses and localhost always may: a rebound DNS name is always a name.
	AdminHosts []string

	// Ready says what the node still waits for, one error for each (errors.Join); nil means ready.
	// Its text is shown to anyone who asks for /readyz, so it names parts, never addresses.
	Ready func() error
	// Waiting, if not nil, is what a node that serves still waits for; nil from it for nothing.
	Waiting func() error
	// Trim drops what the log no longer needs to keep; nil if this node has no log to trim.
	Trim func(ctx context.Context) error
	// Revoke writes a revocation and returns it as written; nil if this node can write none. Its error
	// is Revocation.Validate's, or the database's.
	Revoke func(ctx context.Context, r auth.Revocation) (auth.Revocation, error)
	// Devices is the registry of devices that can be woken; nil: nobody is pushed to.
	Devices Devices
	// Reaches says whether a device of an app can be pushed to over a road; needed with Devices.
	Reaches func(road, app string) bool
	// Hears is told what is heard of devices; nil: nobody wants to know.
	Hears Hears
	// Explain is all that is known of a user's devices, or of one of them; nil for none to ask. Its error is
	// device.ErrUnknown, or the database's.
	Explain func(ctx context.Context, user, device string) ([]device.Explanation, error)
	// Polling is the operator's order to poll; nil: there never is one.
	Polling Polling
	// StartOvers is how many pages for devices that start over the node can serve in a second; nil: it is not
	// known. It may be called with the hub locked.
	StartOvers func() float64
	// MetricsHandler serves /metrics on the admin listener; nil for none.
	MetricsHandler http.Handler

	// Metrics counts; nil counts where nobody looks.
	Metrics *Metrics
	Limits  Limits
	// Log is needed.
	Log *slog.Logger
}

// Limits bound what one client can cause. A zero field means the default.
type Limits struct {
	Hello       time.Duration // from upgrade to hello; 5 s
	SlowWrite   time.Duration // a frame that took longer closes with 4003; 5 s. Twice that cuts
	SlowFrame   time.Duration // from a client frame's first byte to its last; 10 s
	Pull        time.Duration // until a pull is given up as overloaded; 10 s
	NudgeEvery  time.Duration // between two nudges of a session; 250 ms
	OwnGrace    time.Duration // for a device to pull what it wrote itself, before it is nudged; 2 s
	PullWait    time.Duration // a pull waits at most, whatever wait_ms asks for; 5 s
	LongPoll    time.Duration // a pull over HTTP waits at most, whatever wait asks for; 30 s
	Ping        time.Duration // between two pings, and until the pong; 30 s
	MaxAge      time.Duration // of a session, ± 20 %; 1 h
	Goaway      time.Duration // at most, from a goaway for age to the close; 10 s
	QuietCursor time.Duration // without a cursor from either side, until a fresh one is sent; 1 h
	TokenNotice time.Duration // from token_expiring to the token's end; 60 s
	FramesAMin  int           // client frames a minute; 600
	FrameBurst  int           // of those at once; 60
	PageRows    int           // rows a page at most, whatever limit asks for; 5000
	DrainRate   int           // sessions a second that the other nodes can admit; 500

	HandshakeRate  int // new sockets a second, and at once; 200
	MaxSockets     int // open ones, streams and waiting pulls among them; 50,000
	MaxUserSockets int // of those, one user's; 64
	DevicePulls    int // a second, of one device, and five times as many at once; 50
	UserPulls      int // likewise, of one user; 100
	Registrations  int // a minute, of one device, and five times as many of one user; 10
	BodyBytes      int // of pages that are being written; 128 MiB. An eighth of them may be one user's
}

func (l Limits) withDefaults() Limits {
	orDuration(&l.Hello, 5*time.Second)
	orDuration(&l.SlowWrite, 5*time.Second)
	orDuration(&l.SlowFrame, 10*time.Second)
	orDuration(&l.Pull, 10*time.Second)
	orDuration(&l.NudgeEvery, 250*time.Millisecond)
	orDuration(&l.OwnGrace, 2*time.Second)
	orDuration(&l.PullWait, 5*time.Second)
	orDuration(&l.LongPoll, 30*time.Second)
	orDuration(&l.Ping, 30*time.Second)
	orDuration(&l.MaxAge, time.Hour)
	orDuration(&l.Goaway, 10*time.Second)
	orDuration(&l.QuietCursor, time.Hour)
	orDuration(&l.TokenNotice, time.Minute)
	orInt(&l.FramesAMin, 600)
	orInt(&l.FrameBurst, 60)
	orInt(&l.PageRows, 5000)
	orInt(&l.DrainRate, 500)
	orInt(&l.HandshakeRate, 200)
	orInt(&l.MaxSockets, 50_000)
	orInt(&l.MaxUserSockets, 64)
	orInt(&l.DevicePulls, 50)
	orInt(&l.UserPulls, 100)
	orInt(&l.Registrations, 10)
	orInt(&l.BodyBytes, 128<<20)
	return l
}

func orDuration(d *time.Duration, def time.Duration) {
	if *d <= 0 {
		*d = def
	}
}

func orInt(n *int, def int) {
	if *n <= 0 {
		*n = def
	}
}

// validate says what is missing or contradictory.
func (c *Config) validate() error {
	var errs []error
	if c.Engine == nil {
		errs = append(errs, errors.New("no Engine"))
	}
	if c.Verifier == nil {
		errs = append(errs, errors.New("no Verifier"))
	}
	if c.Hub == nil {
		errs = append(errs, errors.New("no Hub"))
	}
	if c.Devices != nil && c.Reaches == nil {
		errs = append(errs, errors.New("no Reaches"))
	}
	if c.Log == nil {
		errs = append(errs, errors.New("no Log"))
	}
	for _, o := range c.Origins {
		u, err := url.Parse(o)
		if err != nil || u.Host == "" || u.Scheme == "" || o != u.Scheme+"://"+u.Host || strings.Contains(o, "*") {
			errs = append(errs, fmt.Errorf("origin %q: want scheme://host or scheme://host:port, no path, no wildcard", o))
		}
	}
	return errors.Join(errs...)
}

// API serves devices and operators. It is safe for concurrent use.
type API struct {
	cfg     Config
	limits  Limits
	log     *slog.Logger
	metrics *Metrics
	origins map[string]bool
	frames  frameBuffers
	bodies  *bodies
	rates   *pullRates
	// registry is nil where nobody is pushed to.
	registry *registry
	herd     *herd
	writers  writers
	// compress is shared by all answers.
	compress *compressors
	// handshakes is the first thing that a new socket has to pass: a herd that reconnects must cost
	// less than to let it in.
	handshakes *rate.Limiter

	pollAfter    atomic.Int64  // time.Duration; 0: devices are nudged
	readsPolling chan struct{} // of capacity 1; full while the order is being read

	// base ends with Run: engine calls of sessions live no longer.
	base     context.Context
	stopBase context.CancelFunc

	mu       sync.Mutex
	draining bool
	open     int // sessions, upgrades that become one, and waiting pulls
	sessions map[*session]struct{}
	byDevice map[deviceKey]*session // those that said hello; the newest of each device
	waiters  map[deviceKey]*waiter  // waiting pulls; the newest of each device
	byUser   map[string]int         // places that a user holds; sessions that said hello, and waiting pulls
	empty    chan struct{}          // closed when draining and open is 0
}

// deviceKey tells devices apart: ids are the devices' own, so two users may have chosen the same.
type deviceKey struct{ user, device string }

// New makes an API, or says what is wrong with the configuration.
func New(cfg Config) (*API, error) {
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("api: %w", err)
	}
	if cfg.Metrics == nil {
		m, err := NewMetrics(prometheus.NewRegistry())
		if err != nil {
			return nil, fmt.Errorf("api: %w", err)
		}
		cfg.Metrics = m
	}
	if cfg.Ready == nil {
		cfg.Ready = func() error { return nil }
	}
	a := &API{
		cfg:      cfg,
		limits:   cfg.Limits.withDefaults(),
		log:      cfg.Log,
		metrics:  cfg.Metrics,
		origins:  map[string]bool{},
		sessions: map[*session]struct{}{},
		byDevice: map[deviceKey]*session{},
		waiters:  map[deviceKey]*waiter{},
		byUser:   map[string]int{},
		empty:    make(chan struct{}),

		readsPolling: make(chan struct{}, 1),
	}
	var err error
	if a.compress, err = newCompressors(); err != nil {
		return nil, fmt.Errorf("api: %w", err)
	}
	a.bodies = newBodies(a.limits.BodyBytes)
	a.rates = newPullRates(a.limits.DevicePulls, a.limits.UserPulls)
	a.registry = newRegistry(cfg.Devices, a.limits.Registrations)
	a.herd = newHerd(cfg.StartOvers)
	a.handshakes = rate.NewLimiter(rate.Limit(a.limits.HandshakeRate), a.limits.HandshakeRate)
	a.base, a.stopBase = context.WithCancel(context.Background())
	for _, o := range cfg.Origins {
		a.origins[strings.ToLower(o)] = true
	}
	return a, nil
}

// Public is the handler of the public listener.
func (a *API) Public() http.Handler {
	mux := http.NewServeMux()
	a.health(mux)
	for path, m := range a.routes() {
		mux.Handle(path, m)
	}
	mux.HandleFunc("/", notFound)
	pulls := a.routes()[pathChanges]
	return a.guard(a.cors(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == pathChanges { // what is asked most need not be looked for
			pulls.ServeHTTP(w, r)
			return
		}
		mux.ServeHTTP(w, r)
	})))
}

const pathChanges = "/v1/changes"

// routes are the public listener's, besides health.
func (a *API) routes() map[string]methods {
	return map[string]methods{
		pathChanges:         {http.MethodGet: a.changes},
		"/v1/devices/{id}":  {http.MethodGet: a.getDevice, http.MethodPut: a.putDevice, http.MethodDelete: a.deleteDevice},
		"/v1/ack":           {http.MethodPost: a.ack},
		"/v1/events":        {http.MethodGet: a.events},
		"/v1/socket":        {http.MethodGet: a.socket},
		"/v1/openapi.yaml":  a.document(openAPI),
		"/v1/asyncapi.yaml": a.document(asyncAPI),
	}
}

// NewServer is an http.Server for one of the handlers, with deadlines for everything that a client
// could drag out. Sockets leave them behind at the upgrade and keep their own.
func NewServer(h http.Handler, addr string, log *slog.Logger) *http.Server {
	return &http.Server{
		Addr:              addr,
		Handler:           h,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       15 * time.Second,
		WriteTimeout:      time.Minute,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
}
