package changefeed

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/nudgesync/nudge/changefeed/change"
	"github.com/nudgesync/nudge/changefeed/changelog"
	"github.com/nudgesync/nudge/changefeed/route"
)

// Config is what a Feed needs. The fields without a default are required.
type Config struct {
	DSN         string        // of the source, for the replication connection
	Source      *pgxpool.Pool // to the source's primary, for catalog, gate and heartbeats
	Log         *changelog.Log
	Routing     *route.Config
	Slot        string
	Publication string
	Name        string // of this node, shown as the leader's
	Logger      *slog.Logger
	Metrics     *Metrics
	// Publish hands an appended batch to the bus. It is called in log order, after the batch is durable,
	// and once a second with an empty frame that says where the log stands. It must not block for long.
	Publish func(context.Context, change.Frame)

	// SegmentAge is how long a segment of the log is appended to. Default: one day.
	SegmentAge time.Duration
	// WatchEvery is how often the catalog is compared with what is streamed. Default: 2 s.
	WatchEvery time.Duration
	// MaxBatch is the size in bytes of decoded changes from which the session stops reading until the
	// appender has caught up. Default: 32 MiB.
	MaxBatch int
	// SpillBytes is the memory that one transaction may take before its events go to a file. While such a
	// one is gathered, and while it is folded, about twice as much is in use. Default: 32 MiB.
	SpillBytes int
	// SpillDir is where that file is made; it has no name, and is gone with the process. It should not be
	// in memory (tmpfs). A transaction takes about as much as its rows as JSON, and as much again for those
	// rows that it touches more than once. Default: the system's directory for temporary files.
	SpillDir string
	// OriginSecret, if it is there, is what origins have to be signed with; others are ignored, and counted.
	// Default: any origin is believed.
	OriginSecret []byte
	// Witness is the path of a file that remembers the highest position handed out, so that a database that
	// was restored from a copy of its disk is noticed (A2). It must not be restored together with the
	// database. It is written at most once a second. Default: none.
	Witness string
	// Patience is how long source or log may leave one call without an answer, or an append without
	// progress, before the feed lets go of everything and starts over. Default: 30 seconds.
	Patience time.Duration
	// Failpoint, for tests, is called before and after each durable step; an error from it ends the
	// session there and then, as a crash would.
	Failpoint func(Step) error
}

// Step is a place where a test can make the feed fail.
type Step string

// The durable steps, each with a place before and after it.
const (
	BeforeDecode Step = "before-decode"
	AfterDecode  Step = "after-decode"
	BeforeSpill  Step = "before-spill" // before each file that a large transaction takes
	BeforeAppend Step = "before-append"
	AfterAppend  Step = "after-append"
	BeforeAck    Step = "before-ack"
	AfterAck     Step = "after-ack"
)

// Feed follows one slot. Of several feeds on one slot, the server lets one in; the others wait for it.
type Feed struct {
	cfg     Config
	wanted  []byte // cfg.Routing, encoded
	hash    uint64
	witness *witness // nil: none

	waiting   atomic.Pointer[waiting]     // what the slot's creation waits for
	published atomic.Pointer[publication] // as last found, while streaming
	looks     chan struct{}               // capacity 1: the watcher is asked to look
	pace      pace

	// Of Run and, while it streams, of tend.
	holder holder // of the slot, while this feed waits for it
	fence  fence
	server instance // of the last replication connection
}

// pace is how fast a feed starts over, and looks around.
type pace struct {
	least, most time.Duration // between two attempts: from, to
	busy        time.Duration // between two attempts while another feed holds the slot
	sender      time.Duration // wal_sender_timeout of the replication connection
	pulse       time.Duration // how often the source is asked for a sign of life while something is unstored
	sample      time.Duration // how often the slot is measured
	holder      time.Duration // how long somebody who is no feed may hold the slot, until that is said
}

// New checks the configuration and returns a feed.
func New(cfg Config) (*Feed, error) {
	switch {
	case cfg.Source == nil || cfg.Log == nil || cfg.Routing == nil || cfg.Logger == nil || cfg.Publish == nil || cfg.Metrics == nil:
		return nil, errors.New("changefeed: a required field of Config is nil")
	case cfg.Slot == "" || cfg.Publication == "":
		return nil, errors.New("changefeed: slot and publication must be named")
	}
	if cfg.SegmentAge == 0 {
		cfg.SegmentAge = 24 * time.Hour
	}
	if cfg.WatchEvery == 0 {
		cfg.WatchEvery = 2 * time.Second
	}
	if cfg.MaxBatch == 0 {
		cfg.MaxBatch = 32 << 20
	}
	if cfg.SpillBytes == 0 {
		cfg.SpillBytes = 32 << 20
	}
	if cfg.Patience == 0 {
		cfg.Patience = 30 * time.Second
	}
	if cfg.Failpoint == nil {
		cfg.Failpoint = func(Step) error { return nil }
	}
	f := &Feed{cfg: cfg, wanted: cfg.Routing.Encode(), hash: cfg.Routing.Hash(), looks: make(chan struct{}, 1), pace: pace{
		least: 100 * time.Millisecond, most: 10 * time.Second, busy: time.Second / 2,
		sender: walSenderTimeout, pulse: time.Second / 2, sample: 15 * time.Second, holder: 30 * time.Second,
	}}
	if cfg.Witness != "" {
		f.witness = &witness{path: cfg.Witness}
		f.cfg.Publish = func(ctx context.Context, frame change.Frame) {
			f.testify(f.witness.note(frame.Next)) // before it is handed out
			cfg.Publish(ctx, frame)
		}
	}
	return f, nil
}

// Run follows the slot until ctx ends, and returns nil then. It starts over after every failure, later
// each time until something was appended again; what it could not do is logged and counted.
func (f *Feed) Run(ctx context.Context) error {
	wait := f.pace.least
	for ctx.Err() == nil {
		started := time.Now()
		appended, err := f.follow(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if appended || time.Since(started) > f.pace.most {
			wait = f.pace.least
		}
		pause := wait
		var pgErr *pgconn.PgError
		busy := errors.Is(err, errSlotBusy) || errors.As(err, &pgErr) && pgErr.Code == "55006" // object_in_use
		f.cfg.Metrics.leader.Set(0)
		switch {
		case busy:
			f.cfg.Logger.Debug("another feed holds the slot", "slot", f.cfg.Slot)
			f.cfg.Metrics.follow()
			pause = f.pace.busy
		default:
			f.cfg.Metrics.failures.Inc()
			f.cfg.Logger.Warn("feed stopped, starting over", "error", err, "wait", wait)
			f.measureInFailure(ctx)
			wait = min(2*wait, f.pace.most)
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause/2 + rand.N(pause)): // jitter: feeds of several nodes do not march in step
		}
	}
	return nil
}

// follow is one connection's life: connect, stream, fail. It reports whether it appended anything.
func (f *Feed) follow(ctx context.Context) (appended bool, err error) {
	start, err := f.connect(ctx)
	if err != nil {
		return false, err
	}
	defer start.close()
	defer func() { f.testify(f.witness.flush()) }()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)

	state := start.writer.State()
	var durable atomic.Uint64
	durable.Store(uint64(state.Position))
	b := newBatches(f.cfg.MaxBatch)
	release := make(chan struct{}, 1)
	a := &appender{feed: f, writer: start.writer, batches: b, durable: &durable, on: start.server.on}
	s := &session{
		feed: f, conn: start.conn, batches: b, durable: &durable, routing: start.routing,
		key: start.key, forgetful: start.server.version < 150000, shapes: decodeShapes(state.Relations),
		position: state.Position, epoch: state.Epoch,
		serverEnd: state.Position, // connect has seen that the server is there
		release:   release, released: state.Position,
	}
	// The first to fail ends them all, and its error is the one that counts. P7: the connection closes at
	// once, so that whatever the server waits for, it no longer waits for us.
	fail := func(err error) {
		cancel(err)
		start.close()
	}
	var others sync.WaitGroup
	others.Go(func() {
		err := a.run(ctx)
		b.fail(err)
		fail(err)
	})
	others.Go(func() { fail(f.tend(ctx, b, release)) })
	others.Go(func() { fail((&watcher{feed: f, key: start.key, on: start.server.on}).run(ctx)) })
	fail(s.run(ctx))
	others.Wait()
	b.discard()
	appended = change.LSN(durable.Load()) != state.Position
	err = context.Cause(ctx)
	if errors.Is(err, changelog.ErrFenced) {
		return appended, fmt.Errorf("replaced by another feed: %w", err)
	}
	return appended, err
}

// patiently makes one call to source or log, and gives it up after Config.Patience: a network can go
// silent, and a server stand still, without an end of the connection. The call may use progress to say that
// it goes on.
func (f *Feed) patiently(ctx context.Context, call func(ctx context.Context, progress func()) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	over := time.AfterFunc(f.cfg.Patience, func() { cancel(errNoAnswer) })
	defer over.Stop()
	err := call(ctx, func() { over.Reset(f.cfg.Patience) })
	if err != nil && errors.Is(context.Cause(ctx), errNoAnswer) {
		return fmt.Errorf("%w for %s: %w", errNoAnswer, f.cfg.Patience, err)
	}
	return err
}

// testify says that the witness could not be written. The feed goes on: what is lost is a safeguard.
func (f *Feed) testify(err error) {
	if err != nil {
		f.cfg.Logger.Warn("the witness is out of date: a restored database may go unnoticed", "error", err)
	}
}

// errNoAnswer: a database left a call without an answer.
var errNoAnswer = errors.New("no answer")

// createSpill makes a file for a transaction that is too large for memory.
func (f *Feed) createSpill() (route.File, error) {
	if err := f.cfg.Failpoint(BeforeSpill); err != nil {
		return nil, err
	}
	return f.cfg.Metrics.countSpill(route.TempFile(f.cfg.SpillDir))
}
