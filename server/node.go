package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/nudgesync/nudge/changefeed"
	"github.com/nudgesync/nudge/changefeed/change"
	"github.com/nudgesync/nudge/changefeed/changelog"
	"github.com/nudgesync/nudge/changefeed/route"
	"github.com/nudgesync/nudge/changefeed/snapshot"
	"github.com/nudgesync/nudge/changefeed/tail"
	"github.com/nudgesync/nudge/notify/bus"
	"github.com/nudgesync/nudge/notify/hub"
	"github.com/nudgesync/nudge/server/admit"
	"github.com/nudgesync/nudge/server/api"
	"github.com/nudgesync/nudge/server/auth"
	"github.com/nudgesync/nudge/server/config"
	"github.com/nudgesync/nudge/server/pull"
)

// serveOptions are what `serve` and `dev` do differently.
type serveOptions struct {
	// Page, if not nil, serves every path of the public listener that is not the API's.
	Page http.Handler
	// Ready is called once, with the addresses listened on, when the node answers.
	Ready func(public, admin string)
}

// What a node waits for before it serves.
var (
	errNotWarm   = errors.New("memory: warming up from the change log")
	errOldConfig = errors.New("configuration: the change log is still written under another one")

	errNoRevocations = errors.New("revocations: they can't be read")
)

// How long the parts of a clean stop may take.
const (
	drainFor    = 10 * time.Second
	shutdownFor = 5 * time.Second
)

// node is a running node's parts, in the order of the journey.
type node struct {
	cfg     *config.Config
	log     *slog.Logger
	db      *databases
	routing *route.Config
	journal *changelog.Log
	feed    *changefeed.Feed
	bus     bus.Bus
	tail    *tail.Tail
	hub     *hub.Hub
	api     *api.API
	metrics *prometheus.Registry
	pushing *pushing // nil where nobody is pushed to

	verifier    *auth.Verifier
	remote      *auth.Remote // nil without auth.jwks_url
	revocations *auth.Revocations

	subscribed chan struct{} // closed once frames come
}

// serveNode runs a node until ctx ends. It listens before it connects, so that a taken port is known at
// once, and answers "starting" until it can serve.
//
// It stops in this order: sockets are sent away and new ones refused; running requests are answered and
// the public listener closes; pushes that are under way are answered and settled; the feed stops, then the bus and
// the tail, which depend on nothing but it; what was heard of devices is written, by then all of it; the admin
// listener, so that the stop can be watched; last the database's pools.
func serveNode(ctx context.Context, cfg *config.Config, log *slog.Logger, opt serveOptions) (err error) {
	lc := net.ListenConfig{Control: controlListener}
	public, err := listen(ctx, &lc, "listen.public", cfg.Listen.Public)
	if err != nil {
		return err
	}
	defer func() { _ = public.Close() }()
	admin, err := listen(ctx, &lc, "listen.admin", cfg.Listen.Admin)
	if err != nil {
		return err
	}
	defer func() { _ = admin.Close() }()

	n, err := newNode(ctx, cfg, log)
	if err != nil {
		return err
	}
	defer n.db.close()

	// Everything below runs under a context of its own, so that the stop's order is ours.
	base := context.WithoutCancel(ctx)
	failed := make(chan error, 16)
	feed := start(base, failed, n.feed.Run)
	reading := start(base, failed, n.runTail, n.runBus, n.runAuth, newRetention(n.journal, cfg.Log.Retention, log, n.metrics).run)
	hearing := start(base, failed, n.pushing.hears()...)
	pushes := start(base, failed, n.pushing.runs()...)
	serving := start(base, failed, n.api.Run)

	publicServer := api.NewServer(withPage(n.api.Public(), opt.Page), cfg.Listen.Public, log)
	adminServer := api.NewServer(n.api.Admin(), cfg.Listen.Admin, log)
	servers := start(base, failed,
		func(context.Context) error { return serveHTTP(publicServer, public) },
		func(context.Context) error { return serveHTTP(adminServer, admin) })

	starting := start(ctx, failed, func(ctx context.Context) error {
		return n.callWhenReady(ctx, func() {
			if opt.Ready != nil {
				opt.Ready(public.Addr().String(), admin.Addr().String())
			}
		})
	})
	select {
	case <-ctx.Done():
		log.Info("stopping")
	case err = <-failed:
		log.Error("stopping: a part failed", "error", err)
	}

	starting()
	drain, cancel := context.WithTimeout(base, drainFor)
	defer cancel()
	if e := n.api.Drain(drain); e != nil {
		log.Warn("not every socket left in time", "error", e)
	}
	shutdown, cancel := context.WithTimeout(base, shutdownFor)
	defer cancel()
	if e := publicServer.Shutdown(shutdown); e != nil {
		_ = publicServer.Close()
	}
	serving()
	pushes()
	feed()
	reading()
	hearing()
	if e := adminServer.Shutdown(shutdown); e != nil {
		_ = adminServer.Close()
	}
	servers()
	log.Info("stopped")
	return err
}

// newNode connects to the database and puts the parts together. Nothing runs yet.
func newNode(ctx context.Context, cfg *config.Config, log *slog.Logger) (_ *node, err error) {
	n := &node{cfg: cfg, log: log, metrics: prometheus.NewRegistry(), subscribed: make(chan struct{})}
	n.metrics.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	if n.db, err = openDatabases(ctx, cfg); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			n.db.close()
		}
	}()
	if err := n.authenticate(); err != nil {
		return nil, err
	}
	if err := checkSource(ctx, cfg, log); err != nil {
		return nil, err
	}
	if n.routing, err = resolveRouting(ctx, n.db.source, cfg); err != nil {
		return nil, err
	}
	n.journal = changelog.Open(n.db.log, cfg.Source.Slot)
	key, err := n.journal.Key(ctx, "cursor")
	if err != nil {
		return nil, fail("check_migrations", err, "use schema nudge", "run nudge attach, or nudge migrate for a log in a database of its own")
	}

	n.hub = hub.New()
	n.bus = plantBus(bus.NewLocal())
	if n.pushing, err = newPushing(cfg, n.db.push, log, n.metrics); err != nil {
		return nil, err
	}
	n.tail, err = tail.New(tail.Config{
		Log: journal{n.journal}, MaxBytes: int64(cfg.Limits.TailBytes), Logger: log,
		OnAdvance: func(f change.Frame) { // after the window has it: a nudge never precedes what it announces
			n.hub.Deliver(f)
			n.pushing.advanced()
		},
	})
	if err != nil {
		return nil, err
	}
	rows, err := snapshot.New(snapshot.Config{
		Pool: n.db.snapshot, Primary: n.db.source, Routing: n.routing, Publication: cfg.Source.Publication, Logger: log,
		Changed: func() { n.feed.Look() },
	})
	if err != nil {
		return nil, err
	}
	queue, err := newQueue(n.db, &cfg.Limits, n.metrics)
	if err != nil {
		return nil, err
	}
	engine, err := pull.New(pull.Config{
		Tail: n.tail, Log: n.journal, Rows: rows, Queue: queue, Routing: n.routing, Key: key, Logger: log,
		PageRows: cfg.Limits.PageRows, PageBytes: int(cfg.Limits.PageBytes),
	})
	if err != nil {
		return nil, err
	}
	apiMetrics, err := api.NewMetrics(n.metrics)
	if err != nil {
		return nil, err
	}
	apiConfig := api.Config{
		Engine: engine, Verifier: n.verifier, Hub: plantHub(n.hub), Origins: cfg.Listen.Origins, AdminHosts: cfg.Listen.AdminHosts, Log: log,
		Ready: n.ready, Waiting: func() error { return n.feed.Waiting() },
		Trim: n.trim, Revoke: n.revoke, Metrics: apiMetrics, Polling: pollOrder{n.db.upkeep},
		StartOvers:     func() float64 { return queue.Rate(admit.Snapshot) },
		MetricsHandler: promhttp.HandlerFor(n.metrics, promhttp.HandlerOpts{}),
		Limits: api.Limits{
			HandshakeRate: cfg.Limits.HandshakeRate, MaxSockets: cfg.Limits.MaxSockets,
			MaxUserSockets: cfg.Limits.MaxUserSockets,
			DevicePulls:    cfg.Limits.DevicePulls, UserPulls: cfg.Limits.UserPulls,
			DrainRate: cfg.Limits.HandshakeRate, // whoever takes the sockets over admits no more
		},
		Explain: newExplainer(n.db.log, cfg.Source.Slot, log).Explain,
	}
	if n.pushing != nil {
		apiConfig.Devices, apiConfig.Hears, apiConfig.Reaches = n.pushing.store, n.pushing.inbox, cfg.Push.Reaches
	}
	if n.api, err = api.New(apiConfig); err != nil {
		return nil, err
	}
	if err := probeSpill(cfg.Limits.SpillDir); err != nil {
		return nil, err
	}
	n.feed, err = changefeed.New(changefeed.Config{
		DSN: string(cfg.Source.DSN), Source: n.db.source, Log: n.journal, Routing: n.routing,
		Slot: cfg.Source.Slot, Publication: cfg.Source.Publication, Name: nodeName(), Logger: log,
		SpillBytes: int(cfg.Limits.SpillBytes), SpillDir: cfg.Limits.SpillDir, OriginSecret: []byte(cfg.Source.OriginSecret),
		Metrics: changefeed.NewMetrics(n.metrics), SegmentAge: segmentAge(cfg.Log.Retention), Witness: cfg.Log.Witness,
		Publish: func(ctx context.Context, f change.Frame) {
			if err := n.bus.Publish(ctx, f); err != nil {
				log.Warn("a frame was not published; nodes read it from the log", "error", err)
			}
		},
	})
	return n, err
}

// probeSpill makes a file where large transactions go, so that the first of them is not who finds out.
func probeSpill(dir string) error {
	f, err := route.TempFile(dir)
	if err == nil {
		err = f.Close()
	}
	if err != nil {
		return fail("spill_dir", err, "make a file in limits.spill_dir", "name a directory on a disk that this user may write to")
	}
	return nil
}

// journal is the change log as the tail knows it.
type journal struct{ *changelog.Log }

// Stretch says tail.ErrGone where the log says its own.
func (j journal) Stretch(ctx context.Context, after, upto change.Position, fn func(change.Change) error) error {
	err := j.Log.Stretch(ctx, after, upto, fn)
	if errors.Is(err, changelog.ErrGone) {
		return fmt.Errorf("%w: %w", tail.ErrGone, err)
	}
	return err
}

// segmentAge has retention drop the log in about thirty parts.
func segmentAge(retention time.Duration) time.Duration {
	return min(max(retention/30, time.Minute), 24*time.Hour)
}

// runTail keeps the window. Until the feed has begun the log's first epoch there is nothing to warm up
// from.
func (n *node) runTail(ctx context.Context) error {
	select {
	case <-n.subscribed: // first, so that no frame falls between warm-up and subscription (A7)
	case <-ctx.Done():
		return nil
	}
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for n.logIsEmpty(ctx) {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
	return n.tail.Run(ctx) // it retries by itself
}

func (n *node) logIsEmpty(ctx context.Context) bool {
	_, err := n.journal.Feed(ctx)
	return errors.Is(err, changelog.ErrNoEpoch)
}

func (n *node) runBus(ctx context.Context) error {
	ready := sync.OnceFunc(func() { close(n.subscribed) })
	return again(ctx, n.log, "bus", func(ctx context.Context) error { return n.bus.Subscribe(ctx, ready, n.tail.Apply) })
}

// again runs a part until ctx ends, starting it over after a failure.
func again(ctx context.Context, log *slog.Logger, part string, run func(context.Context) error) error {
	for {
		err := run(ctx)
		if ctx.Err() != nil {
			return nil
		}
		log.Debug("a part starts over", "part", part, "error", err)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// ready names what the node waits for.
func (n *node) ready() error {
	head, ok := n.tail.Head()
	switch {
	case !ok:
		return errors.Join(errNotWarm, n.feed.Waiting())
	case head.Config != n.routing.Hash():
		return errors.Join(errOldConfig, n.feed.Waiting())
	case !n.revocations.Ready():
		return errNoRevocations
	}
	return n.verifier.Ready()
}

// trim drops what is in the log now, and this node's memory of it.
func (n *node) trim(ctx context.Context) error {
	if err := n.journal.Trim(ctx); err != nil {
		return err
	}
	n.tail.Cut()
	return nil
}

func (n *node) callWhenReady(ctx context.Context, fn func()) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for n.ready() != nil {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
	fn()
	return nil
}

// start runs functions until the returned one is called, which waits for them. An error of one that was
// not asked to stop goes to failed.
func start(base context.Context, failed chan<- error, fns ...func(context.Context) error) (stop func()) {
	ctx, cancel := context.WithCancel(base)
	var wg sync.WaitGroup
	for _, fn := range fns {
		wg.Go(func() {
			if err := fn(ctx); err != nil && ctx.Err() == nil {
				failed <- err
			}
		})
	}
	return func() { cancel(); wg.Wait() }
}

func listen(ctx context.Context, lc *net.ListenConfig, key, addr string) (net.Listener, error) {
	l, err := lc.Listen(ctx, "tcp", addr)
	if err != nil {
		return nil, fail("listen_failed", err, "listen on "+key, "another process has the port, or the address is not this machine's: change "+key+" in nudge.yaml")
	}
	return l, nil
}

func serveHTTP(s *http.Server, l net.Listener) error {
	if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// nodeName is how operators see this process.
func nodeName() string {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	return fmt.Sprintf("%s/%d", host, os.Getpid())
}
