// Package devpg runs a private Postgres from the binaries that the machine has: for tests and for
// `nudge dev`. It listens on loopback alone, trusts whoever connects, and does not outlive the
// process that started it (on Linux; elsewhere a process that is killed leaves its server behind).
package devpg

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// Superuser is the role that owns the cluster. It has no password: the server trusts loopback.
const Superuser = "postgres"

// Options says what to start. The zero value is a throwaway cluster for tests.
type Options struct {
	// Dir holds the cluster. It is made if missing and kept by Stop, and can be started again. Empty:
	// a temporary directory that Stop removes.
	Dir string
	// Port on 127.0.0.1; 0 takes a free one.
	Port int
	// Settings go into the configuration after devpg's own, so they win; ALTER SYSTEM wins over both.
	Settings map[string]string
	// Fsync makes commits survive a crash of the machine. Without it they survive a crash of Postgres.
	Fsync bool
	// Logger receives the server's own log: FATAL and PANIC as errors, the rest at debug level, also
	// what it says to clients that come too early or stay too long. Nil discards it.
	Logger *slog.Logger
}

// Cluster is a running Postgres. Its methods may be called from several goroutines.
type Cluster struct {
	opts   Options
	bin    string // directory of the binaries
	root   string // Dir, or the temporary directory
	remove bool   // root is ours to remove
	owner  *account
	port   int
	log    *slog.Logger

	mu   sync.Mutex // held while starting and stopping
	proc *process   // nil: stopped
}

// ErrPortTaken is what Start returns, wrapped, when Options.Port is in use.
var ErrPortTaken = errors.New("port is taken")

// Start makes the cluster if Dir holds none, starts it, and returns once it accepts connections. ctx
// bounds the start, not the server's life.
func Start(ctx context.Context, opts Options) (*Cluster, error) {
	bin, err := BinDir(ctx)
	if err != nil {
		return nil, err
	}
	c := &Cluster{opts: opts, bin: bin, root: opts.Dir, port: opts.Port, log: opts.Logger}
	if c.log == nil {
		c.log = slog.New(slog.DiscardHandler)
	}
	if c.owner, err = unprivileged(); err != nil {
		return nil, err
	}
	if err := c.prepare(ctx); err != nil {
		c.cleanup()
		return nil, err
	}
	if err := c.startOnPort(ctx); err != nil {
		c.cleanup()
		return nil, err
	}
	return c, nil
}

// DSN is the superuser's URL of a database.
func (c *Cluster) DSN(database string) string {
	u := url.URL{
		Scheme:   "postgres",
		User:     url.User(Superuser),
		Host:     net.JoinHostPort("127.0.0.1", strconv.Itoa(c.port)),
		Path:     "/" + database,
		RawQuery: "sslmode=disable",
	}
	return u.String()
}

// Port is the one on 127.0.0.1; it stays the same over Restart.
func (c *Cluster) Port() int { return c.port }

// Dir holds the cluster.
func (c *Cluster) Dir() string { return c.root }

// Bin is the directory of the binaries that the cluster runs from: psql, pg_dump and the like.
func (c *Cluster) Bin() string { return c.bin }

// Exited is closed when the server that runs now has ended, for whatever reason.
func (c *Cluster) Exited() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.proc == nil {
		ended := make(chan struct{})
		close(ended)
		return ended
	}
	return c.proc.exited
}

// Stop is a fast shutdown: clients are disconnected, everything is flushed, then a temporary Dir is
// removed. When ctx ends first, the server is ended as by Kill and ctx's error returned. Stopping a
// stopped cluster does nothing.
func (c *Cluster) Stop(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	err := c.stop(ctx)
	c.cleanup()
	return err
}

// Kill ends the server at once, without a checkpoint: the next start recovers from the WAL, as after a
// crash. It returns when the process is gone. Dir stays, also a temporary one, until Stop.
func (c *Cluster) Kill() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.kill()
}

// Restart stops the server if it runs, as Stop does, and starts it on the same port and directory.
func (c *Cluster) Restart(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.stop(ctx); err != nil {
		return err
	}
	return c.start(ctx)
}

func (c *Cluster) stop(ctx context.Context) error {
	if c.proc == nil {
		return nil
	}
	if err := c.proc.signal(syscall.SIGINT); err != nil {
		return fmt.Errorf("stop postgres: %w", err)
	}
	select {
	case <-c.proc.exited:
		c.proc = nil
		return nil
	case <-ctx.Done():
		return errors.Join(fmt.Errorf("stop postgres: %w", context.Cause(ctx)), c.kill())
	}
}

func (c *Cluster) kill() error {
	if c.proc == nil {
		return nil
	}
	if err := c.proc.signal(syscall.SIGQUIT); err != nil {
		return fmt.Errorf("kill postgres: %w", err)
	}
	<-c.proc.exited
	c.proc = nil
	return nil
}

func (c *Cluster) cleanup() {
	if c.remove {
		_ = os.RemoveAll(c.root) // the system cleans its temporary directory too
	}
}

// startOnPort takes a free port if none is given. Somebody else may take it before Postgres does, so
// a taken one is tried again elsewhere.
func (c *Cluster) startOnPort(ctx context.Context) error {
	if c.opts.Port != 0 {
		return c.start(ctx)
	}
	var err error
	for range 5 {
		if c.port, err = freePort(ctx); err != nil {
			return err
		}
		if err = c.start(ctx); !errors.Is(err, ErrPortTaken) {
			return err
		}
	}
	return err
}

// start spawns the server and waits until it accepts connections. On error nothing runs.
func (c *Cluster) start(ctx context.Context) error {
	if err := portFree(ctx, c.port); err != nil {
		return err
	}
	p, err := c.spawn(c.program("postgres"), "-D", c.data(), "-p", strconv.Itoa(c.port))
	if err != nil {
		return fmt.Errorf("start postgres: %w", err)
	}
	c.proc = p
	cfg, err := pgconn.ParseConfig(c.DSN("postgres"))
	if err != nil {
		return errors.Join(err, c.kill())
	}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		conn, err := pgconn.ConnectConfig(ctx, cfg)
		if err == nil {
			_ = conn.Close(ctx)
			return nil
		}
		select {
		case <-p.exited:
			c.proc = nil
			return fmt.Errorf("postgres ended while starting (%w): %s", p.err, p.output.tail())
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("postgres is not ready: %w; it said: %s", context.Cause(ctx), p.output.tail()), c.kill())
		case <-tick.C:
		}
	}
}

// program is the path of one of Postgres's binaries.
func (c *Cluster) program(name string) string { return filepath.Join(c.bin, name) }

// freePort picks below the range that systems hand out to outgoing connections, so that a port which
// is free now is still free after a Restart.
func freePort(ctx context.Context) (int, error) {
	var err error
	for range 50 {
		port := 20000 + rand.IntN(12000)
		if err = portFree(ctx, port); err == nil {
			return port, nil
		}
	}
	return 0, fmt.Errorf("find a free port: %w", err)
}

func portFree(ctx context.Context, port int) error {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("127.0.0.1:%d: %w", port, ErrPortTaken)
	case err != nil:
		return fmt.Errorf("listen on 127.0.0.1:%d: %w", port, err)
	}
	return l.Close()
}
