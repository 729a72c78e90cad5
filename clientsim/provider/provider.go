package provider

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// Name is a provider, in faults and in the activity log. Sandbox is APNs' other host, OAuth the token
// endpoint that FCM's senders use.
type Name string

// The providers.
const (
	APNs    Name = "apns"
	Sandbox Name = "apns-sandbox"
	FCM     Name = "fcm"
	OAuth   Name = "oauth"
	WebPush Name = "webpush"
)

// Team is an Apple developer team with one signing key.
type Team struct {
	ID     string
	KeyID  string
	Topics []string // bundle ids of its apps
}

// Config says what to simulate. The zero Config is one team (TEAM000001, app com.example.app), one
// Firebase project (demo), and free ports on 127.0.0.1.
type Config struct {
	Seed uint64 // makes tokens, budgets and chance repeat

	// Addresses to listen on; they must be of loopback. Empty: a free port of 127.0.0.1.
	APNsAddr, SandboxAddr, FCMAddr, WebPushAddr, ControlAddr string

	Teams    []Team
	Projects []string // Firebase projects, each with a service account

	// FCMWithoutAuth lets FCM take messages without an access token, for senders that are tested without one.
	FCMWithoutAuth bool

	// BadTokens is how many BadDeviceToken answers within 10 s make APNs end a connection. Default 50.
	BadTokens int

	// LogSize is how many entries the activity log keeps. Default 10,000.
	LogSize int

	// Logger hears of what goes wrong in the simulation itself. Default: discarded.
	Logger *slog.Logger
}

func (c *Config) complete() error {
	if len(c.Teams) == 0 {
		c.Teams = []Team{{ID: "TEAM000001", KeyID: "KEY0000001", Topics: []string{"com.example.app"}}}
	}
	if len(c.Projects) == 0 {
		c.Projects = []string{"demo"}
	}
	if c.BadTokens == 0 {
		c.BadTokens = 50
	}
	if c.LogSize == 0 {
		c.LogSize = 10_000
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.BadTokens < 1 || c.LogSize < 1 {
		return errors.New("providers: BadTokens and LogSize: want at least 1")
	}
	ids := make(map[string]bool)
	for _, t := range c.Teams {
		if t.ID == "" || t.KeyID == "" || ids[t.KeyID] {
			return fmt.Errorf("providers: team %q: want an id, and a key id of its own", t.ID)
		}
		ids[t.KeyID] = true
	}
	for _, addr := range []*string{&c.APNsAddr, &c.SandboxAddr, &c.FCMAddr, &c.WebPushAddr, &c.ControlAddr} {
		if *addr == "" {
			*addr = "127.0.0.1:0"
		}
		host, _, err := net.SplitHostPort(*addr)
		if err != nil {
			return fmt.Errorf("providers: %w", err)
		}
		if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
			return fmt.Errorf("providers: %s is not loopback", *addr)
		}
	}
	return nil
}

// Providers are the simulated providers and phones, at work. All methods are safe for concurrent use.
type Providers struct {
	APNsURL    string // https
	SandboxURL string
	FCMURL     string // the SDK's endpoint is this and "/v1"
	TokenURL   string // in the service accounts' files
	WebPushURL string // origin of the subscriptions' endpoints
	ControlURL string // http

	CA       []byte // PEM: what a sender has to trust
	APNsKeys []*APNsKey
	Accounts []*FCMAccount
	VAPID    VAPID

	world  *world
	faults *faults
	gates  map[Name]*gate
	hosts  []*apnsServer
	logger *slog.Logger
	stop   context.CancelFunc
	work   sync.WaitGroup

	mu     sync.Mutex
	closed bool // no handler may begin any more
}

// Start starts all providers. They end with ctx or [Providers.Close].
func Start(ctx context.Context, cfg Config) (*Providers, error) {
	if err := cfg.complete(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	p := &Providers{
		faults: newFaults(cfg.Seed), gates: make(map[Name]*gate), logger: cfg.Logger, stop: cancel,
	}
	if err := p.start(ctx, cfg); err != nil {
		p.Close()
		return nil, fmt.Errorf("providers: %w", err)
	}
	return p, nil
}

func (p *Providers) start(ctx context.Context, cfg Config) error {
	ca, leaf, err := newAuthority()
	if err != nil {
		return err
	}
	p.CA = ca
	listeners := make(map[Name]net.Listener)
	const controlName Name = "control"
	for name, addr := range map[Name]string{
		APNs: cfg.APNsAddr, Sandbox: cfg.SandboxAddr, FCM: cfg.FCMAddr, WebPush: cfg.WebPushAddr, controlName: cfg.ControlAddr,
	} {
		l, err := new(net.ListenConfig).Listen(ctx, "tcp", addr)
		if err != nil {
			return err
		}
		// Whatever fails from here on, and in the end, this closes the listener.
		context.AfterFunc(ctx, func() { _ = l.Close() })
		listeners[name] = l
		if name != controlName {
			p.gates[name] = newGate(l)
		}
	}
	url := func(name Name) string { return "https://" + listeners[name].Addr().String() }
	p.APNsURL, p.SandboxURL, p.FCMURL, p.WebPushURL = url(APNs), url(Sandbox), url(FCM), url(WebPush)
	p.TokenURL = p.FCMURL + "/token"
	p.ControlURL = "http://" + listeners[controlName].Addr().String()
	if err := p.makeKeys(cfg); err != nil {
		return err
	}

	p.world = newWorld(ctx, cfg)
	p.world.vapidKey, p.world.pushURL = p.VAPID.Public, p.WebPushURL+"/push/"
	p.work.Go(func() { p.world.clock.run(ctx) })

	conns := new(atomic.Int64)
	for name, env := range map[Name]string{APNs: Production, Sandbox: SandboxEnvironment} {
		s := &apnsServer{
			name: name, env: env, world: p.world, faults: p.faults, keys: p.APNsKeys, limit: cfg.BadTokens, conns: conns,
			open: make(map[*h2conn]struct{}),
		}
		p.hosts = append(p.hosts, s)
		l := tls.NewListener(p.gates[name], &tls.Config{
			MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{leaf}, NextProtos: []string{"h2"},
		})
		p.work.Go(func() { s.serve(ctx, l) })
	}
	fcm := &fcmServer{
		world: p.world, faults: p.faults, accounts: p.Accounts, open: cfg.FCMWithoutAuth, projects: make(map[string]*bucket),
		oauth: &oauth{
			world: p.world, faults: p.faults, accounts: p.Accounts, uri: p.TokenURL, tokens: make(map[string]access),
		},
	}
	secure := &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{leaf}, NextProtos: []string{"h2", "http/1.1"}}
	p.serve(ctx, tls.NewListener(p.gates[FCM], secure), fcm.handler())
	web := &webpushServer{world: p.world, faults: p.faults, origin: p.WebPushURL}
	p.serve(ctx, tls.NewListener(p.gates[WebPush], secure), web.handler())
	p.serve(ctx, listeners[controlName], (&control{Providers: p}).handler())
	return nil
}

func (p *Providers) makeKeys(cfg Config) error {
	for _, team := range cfg.Teams {
		key, err := newAPNsKey(team)
		if err != nil {
			return err
		}
		p.APNsKeys = append(p.APNsKeys, key)
	}
	for _, project := range cfg.Projects {
		account, err := newFCMAccount(project, p.TokenURL)
		if err != nil {
			return err
		}
		p.Accounts = append(p.Accounts, account)
	}
	var err error
	p.VAPID, err = newVAPID()
	return err
}

type connKey struct{}

// serve runs an HTTP server until ctx ends.
func (p *Providers) serve(ctx context.Context, l net.Listener, h http.Handler) {
	srv := &http.Server{
		Handler: p.counted(h), ReadHeaderTimeout: 10 * time.Second,
		ErrorLog:    slog.NewLogLogger(p.logger.Handler(), slog.LevelDebug),
		BaseContext: func(net.Listener) context.Context { return ctx },
		ConnContext: func(ctx context.Context, c net.Conn) context.Context { return context.WithValue(ctx, connKey{}, c) },
	}
	context.AfterFunc(ctx, func() { _ = srv.Close() })
	p.work.Go(func() {
		if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
			p.logger.Error("server ended", "error", err)
		}
	})
}

// counted has Close wait for what h is doing: that of net/http does not.
func (p *Providers) counted(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.mu.Lock()
		if p.closed {
			p.mu.Unlock()
			panic(http.ErrAbortHandler)
		}
		p.work.Add(1)
		p.mu.Unlock()
		defer p.work.Done()
		h.ServeHTTP(w, r)
	})
}

// Close stops everything and waits for it, the phones' apps too.
func (p *Providers) Close() {
	p.stop()
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.work.Wait()
	if p.world != nil {
		p.world.work.Wait()
		p.world.hooks.CloseIdleConnections()
	}
}

// Roots is a pool that holds [Providers.CA] alone.
func (p *Providers) Roots() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(p.CA)
	return pool
}

// Log is the activity log.
func (p *Providers) Log() *Log { return p.world.log }

// Now is the simulation's time.
func (p *Providers) Now() time.Time { return p.world.clock.now() }

// Advance moves the simulation's clock on by d and plays what happens meanwhile: budgets and quotas recover,
// windows open, pushes expire.
func (p *Providers) Advance(d time.Duration) { p.world.clock.advance(d) }

// Skew sets how far the providers' idea of the senders' time is ahead of it (or, below 0, behind): a
// sender whose clock is wrong. It judges provider tokens, assertions and VAPID, and dates a 410.
func (p *Providers) Skew(d time.Duration) { p.world.skew.Store(int64(d)) }

// AddFault has a provider misbehave from now on, and returns the fault's id. Faults that were added earlier are
// tried first.
func (p *Providers) AddFault(f Fault) (int64, error) { return p.faults.add(f) }

// Faults returns the faults there are.
func (p *Providers) Faults() []Fault { return p.faults.all() }

// RemoveFault ends a fault, or all for 0, and reports whether there was one.
func (p *Providers) RemoveFault(id int64) bool { return p.faults.remove(id) }

// SetLine changes the network of a provider: its present connections and those to come.
func (p *Providers) SetLine(name Name, line Line) error {
	g := p.gates[name]
	if g == nil {
		return fmt.Errorf("line: %q is not apns, apns-sandbox, fcm or webpush", name)
	}
	switch line {
	case LineUp, LineDead, LineSilent:
	default:
		return fmt.Errorf("line: %q is not up, dead or silent", line)
	}
	g.set(line)
	return nil
}

// Goaway has both hosts of APNs ask their clients to go, for a reason such as "Shutdown".
func (p *Providers) Goaway(reason string) {
	for _, s := range p.hosts {
		s.goaway(reason)
	}
}
