package changefeed

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
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
	if cfg.MaxBatch == 0 {
		cfg.MaxBatch = 32 << 20
	}
	if cfg.SpillBytes == 0 {
		cfg.SpillBytes = 32 << 20
	}
	if cfg.Failpoint == nil {
		cfg.Failpoint = func(Step) error { return nil }
	}
	f := &Feed{cfg: cfg, wanted: cfg.Routing.Encode(), hash: cfg.Routing.Hash()}
	if cfg.Witness != "" {
		f.witness = &witness{path: cfg.Witness}
		f.cfg.Publish = func(ctx context.Context, frame change.Frame) {
			f.testify(f.witness.note(frame.Next)) // before it is handed out
			cfg.Publish(ctx, frame)
		}
	}
	return f, nil
}

// Run follows the slot until ctx ends, and returns nil then. It starts over, with backoff, after every
// failure; what it could not do is logged and counted.
func (f *Feed) Run(ctx context.Context) error {
	const least, most = 100 * time.Millisecond, 10 * time.Second
	wait := least
	for ctx.Err() == nil {
		started := time.Now()
		err := f.follow(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if time.Since(started) > most {
			wait = least
		}
		var pgErr *pgconn.PgError
		busy := errors.Is(err, errSlotBusy) || errors.As(err, &pgErr) && pgErr.Code == "55006" // object_in_use
		f.cfg.Metrics.leader.Set(0)
		switch {
		case busy:
			f.cfg.Logger.Debug("another feed holds the slot", "slot", f.cfg.Slot)
			wait = time.Second / 2
		default:
			f.cfg.Metrics.failures.Inc()
			f.cfg.Logger.Warn("feed stopped, starting over", "error", err, "wait", wait)
		}
		select {
		case <-ctx.Done():
		case <-time.After(wait/2 + rand.N(wait)): // jitter: feeds of several nodes do not march in step
		}
		wait = min(2*wait, most)
	}
	return nil
}

// follow is one connection's life: connect, stream, fail.
func (f *Feed) follow(ctx context.Context) error {
	start, err := f.connect(ctx)
	if err != nil {
		return err
	}
	defer start.close()
	defer func() { f.testify(f.witness.flush()) }()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)

	state := start.writer.State()
	var durable atomic.Uint64
	durable.Store(uint64(state.Position))
	b := newBatches(f.cfg.MaxBatch)
	a := &appender{feed: f, writer: start.writer, batches: b, durable: &durable}
	s := &session{
		feed: f, conn: start.conn, batches: b, durable: &durable, routing: start.routing,
		relations: state.Relations, position: state.Position, epoch: state.Epoch,
		serverEnd: state.Position, // connect has seen that the server is there
	}
	done := make(chan error, 1)
	go func() {
		err := a.run(ctx)
		b.fail(err)
		start.close() // P7: whatever the server waits for, it no longer waits for us
		done <- err
	}()
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		if err := f.watchPublication(ctx); ctx.Err() == nil {
			cancel(err)
		}
	}()
	err = s.run(ctx)
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.Canceled) {
		err = cause // why the connection was closed, not that it was
	}
	cancel(err)
	start.close()
	appendErr := <-done
	<-watched
	b.discard()
	if appendErr != nil && !errors.Is(appendErr, context.Canceled) {
		err = appendErr
	}
	if errors.Is(err, changelog.ErrFenced) {
		return fmt.Errorf("replaced by another feed: %w", err)
	}
	return err
}

// testify says that the witness could not be written. The feed goes on: what is lost is a safeguard.
func (f *Feed) testify(err error) {
	if err != nil {
		f.cfg.Logger.Warn("the witness is out of date: a restored database may go unnoticed", "error", err)
	}
}

// createSpill makes a file for a transaction that is too large for memory.
func (f *Feed) createSpill() (route.File, error) {
	if err := f.cfg.Failpoint(BeforeSpill); err != nil {
		return nil, err
	}
	return f.cfg.Metrics.countSpill(route.TempFile(f.cfg.SpillDir))
}
