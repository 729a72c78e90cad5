package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/spf13/cobra"

	"github.com/nudgesync/nudge/internal/devpg"
	"github.com/nudgesync/nudge/server/attach"
	"github.com/nudgesync/nudge/server/auth"
	"github.com/nudgesync/nudge/server/config"
	"github.com/nudgesync/nudge/server/dev"
)

const (
	devDatabase   = "demo"
	devTokenTTL   = 12 * time.Hour
	devSessionTTL = time.Hour
	devStopWithin = 15 * time.Second
)

var errPostgresEnded = errors.New("the private Postgres ended unexpectedly")

// devCommand is one run of `nudge dev`.
type devCommand struct {
	*app

	// Flags.
	dsn       string
	fresh     bool
	ephemeral bool
	listen    string
	admin     string
	psql      string // the program

	// Set as it starts.
	source  string // the DSN in use
	keyFile string
}

func newDevCommand(a *app) *cobra.Command {
	d := &devCommand{app: a}
	cmd := &cobra.Command{
		Use:   "dev",
		Short: "Show it all on this machine: a private Postgres, a demo app, a page",
		Long: `Start a private Postgres with a small medication app in it, attach to it, serve, and show one
user's phone and tablet on a page.

The database is kept between runs, below $XDG_STATE_HOME/nudge. Nothing listens beyond loopback
unless --listen says so; whoever reaches the page can sign in as any of the demo's users.`,
		Example: "  nudge dev\n  nudge dev --ephemeral\n  nudge dev --dsn postgres://postgres@localhost/demo",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if d.dsn != "" && (d.fresh || d.ephemeral) {
				return &usageError{err: errors.New("--dsn uses a running database, so --fresh and --ephemeral have nothing to do"), command: cmd.CommandPath()}
			}
			if !cmd.Flags().Changed("listen") {
				d.listen = nextFree(cmd.Context(), d.listen, "")
			}
			if !cmd.Flags().Changed("admin") {
				d.admin = nextFree(cmd.Context(), d.admin, d.listen)
			}
			return d.run(cmd.Context())
		},
	}
	def := config.Default().Listen
	cmd.Flags().StringVar(&d.dsn, "dsn", "", "use this running Postgres (its owner's URL) instead of a private one")
	cmd.Flags().BoolVar(&d.fresh, "fresh", false, "throw the private database away first")
	cmd.Flags().BoolVar(&d.ephemeral, "ephemeral", false, "keep nothing: a private database in a temporary directory")
	cmd.Flags().StringVar(&d.listen, "listen", def.Public, "page and API; by default the next free port from here")
	cmd.Flags().StringVar(&d.admin, "admin", def.Admin, "metrics and operators; by default the next free port from here")
	cmd.Flags().StringVar(&d.psql, "psql", "psql", "the program in the line that changes a row")
	return cmd
}

// run starts everything and returns when ctx has ended and everything is stopped: the node first,
// then the page's connections, then Postgres.
func (d *devCommand) run(ctx context.Context) (err error) {
	d.keyFile = filepath.Join(filepath.Dir(devStatePath(d.app)), "dev.key")
	if err := dev.EnsureKey(d.keyFile); err != nil {
		return fail("dev_state", err, "keep a signing key")
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)

	d.source = d.dsn
	if d.dsn == "" {
		pg, startErr := d.startPostgres(ctx)
		if startErr != nil {
			return startErr
		}
		defer func() {
			stopCtx, done := context.WithTimeout(context.WithoutCancel(ctx), devStopWithin)
			defer done()
			err = errors.Join(err, pg.Stop(stopCtx))
		}()
		watched := make(chan struct{})
		defer func() { cancel(nil); <-watched }()
		go func() {
			defer close(watched)
			select {
			case <-pg.Exited():
				cancel(errPostgresEnded)
			case <-ctx.Done():
			}
		}()
	}
	cfg, err := d.nodeConfig()
	if err != nil {
		return err
	}
	if err := d.prepare(ctx, cfg); err != nil {
		return err
	}
	return d.serve(ctx, cfg)
}

// startPostgres starts the private cluster and makes the demo's database in it.
func (d *devCommand) startPostgres(ctx context.Context) (*devpg.Cluster, error) {
	dir := ""
	if !d.ephemeral {
		dir = d.clusterDir()
	}
	if dir != "" {
		if pid, ok := clusterRuns(dir); ok {
			return nil, fail("dev_running", nil, fmt.Sprintf("the database in %s is in use by process %d", dir, pid),
				"stop the other nudge dev first, or use --ephemeral")
		}
	}
	if d.fresh && dir != "" {
		if err := os.RemoveAll(dir); err != nil {
			return nil, fail("dev_state", err, "remove the old database")
		}
	}
	pg, err := devpg.Start(ctx, devpg.Options{Dir: dir, Fsync: dir != "", Logger: d.log})
	if err != nil {
		return nil, fail("dev_postgres", err, "start a private Postgres", "or name a running one with --dsn")
	}
	if _, err := exec.LookPath(d.psql); err != nil {
		d.psql = filepath.Join(pg.Bin(), "psql")
	}
	d.source = pg.DSN(devDatabase)
	if err := createDatabase(ctx, pg.DSN("postgres")); err != nil {
		stopCtx, done := context.WithTimeout(context.WithoutCancel(ctx), devStopWithin)
		defer done()
		return nil, errors.Join(err, pg.Stop(stopCtx))
	}
	return pg, nil
}

// clusterDir is where the private cluster is kept. Root's home is closed to the user that Postgres
// runs as then, so root has it where system services keep theirs.
func (d *devCommand) clusterDir() string {
	if os.Geteuid() == 0 && d.getenv("XDG_STATE_HOME") == "" {
		return "/var/lib/nudge/pg"
	}
	return filepath.Join(filepath.Dir(devStatePath(d.app)), "pg")
}

// clusterRuns returns the process that a cluster is in use by, if it is.
func clusterRuns(dir string) (pid int, ok bool) {
	data, err := os.ReadFile(filepath.Join(dir, "data", "postmaster.pid"))
	if err != nil {
		return 0, false
	}
	first, _, _ := bytes.Cut(data, []byte("\n"))
	pid, err = strconv.Atoi(string(first))
	return pid, err == nil && syscall.Kill(pid, 0) == nil
}

func createDatabase(ctx context.Context, maintenance string) error {
	conn, err := pgx.Connect(ctx, maintenance)
	if err != nil {
		return fail("dev_postgres", err, "connect to the private Postgres")
	}
	defer func() { _ = conn.Close(ctx) }()
	var there bool
	if err := conn.QueryRow(ctx, "select exists (select from pg_database where datname = $1)", devDatabase).Scan(&there); err != nil {
		return fail("dev_postgres", err, "look for the demo's database")
	}
	if there {
		return nil
	}
	if _, err := conn.Exec(ctx, "create database "+devDatabase); err != nil {
		return fail("dev_postgres", err, "create the demo's database")
	}
	return nil
}

// prepare brings the database to where serve can start: the app's schema and seed, then nudge's.
func (d *devCommand) prepare(ctx context.Context, cfg *config.Config) error {
	conn, err := pgx.Connect(ctx, d.source)
	if err != nil {
		return fail("dev_connect", err, "connect to the demo's database")
	}
	defer func() { _ = conn.Close(ctx) }()
	if err := dev.Prepare(ctx, conn, time.Now()); err != nil {
		if errors.Is(err, dev.ErrForeignTables) {
			return fail("dev_foreign_tables", err, "set up the demo", "name a database of its own: create database demo")
		}
		return fail("dev_prepare", err, "set up the demo")
	}
	spec, err := attachSpec(cfg)
	if err != nil {
		return err
	}
	plan, err := attach.Plan(ctx, conn, spec)
	if err != nil {
		return fail("dev_attach", err, "attach to the demo's database")
	}
	if err := attach.Apply(ctx, conn, plan, io.Discard); err != nil {
		return fail("dev_attach", err, "attach to the demo's database", "nudge check says what is missing")
	}
	return nil
}

// nodeConfig is the nudge.yaml that the demo would have.
func (d *devCommand) nodeConfig() (*config.Config, error) {
	cfg := config.Default()
	cfg.Source.DSN = config.Secret(d.source)
	cfg.Tables = map[string]config.Table{}
	for _, t := range dev.Tables() {
		cfg.Tables[t.Name] = config.Table{Owner: t.Owner}
	}
	cfg.Auth = config.Auth{
		Keys:     []config.AuthKey{{ID: devKeyID, Algorithm: auth.HS256, SecretFile: d.keyFile}},
		Issuer:   devIssuer,
		Audience: devAudience,
		Claims:   config.Claims{User: "sub", Device: devDeviceClaim},
	}
	cfg.Listen = config.Listen{Public: d.listen, Admin: d.admin}
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	return cfg, nil
}

// serve runs the node with the demo's page until ctx ends.
func (d *devCommand) serve(ctx context.Context, cfg *config.Config) error {
	verifier, err := newVerifier(cfg, nil, nil)
	if err != nil {
		return err
	}
	psql, err := dev.PsqlLine(d.psql, d.source)
	if err != nil {
		return err
	}
	db, err := dev.Open(ctx, d.source)
	if err != nil {
		return fail("dev_connect", err, "connect to the demo's database")
	}
	defer db.Close()
	page, err := dev.New(dev.Config{
		DB: db, Verifier: verifier, Psql: psql, Log: d.log,
		Sign: func(user, device string) (string, error) { return d.token(user, device, devSessionTTL) },
	})
	if err != nil {
		return err
	}

	var state []byte // as written; only Ready's goroutine, then this one, touches it
	ready := make(chan struct{})
	var readyErr error
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	err = serveNode(ctx, cfg, d.log, serveOptions{Page: page, Ready: func(public, admin string) {
		defer close(ready)
		if state, readyErr = d.announce(psql, public, admin); readyErr != nil {
			cancel(readyErr)
		}
	}})
	select {
	case <-ready:
		d.withdraw(state)
	default: // it never got that far
	}
	switch {
	case readyErr != nil:
		return readyErr
	case errors.Is(context.Cause(ctx), errPostgresEnded):
		return fail("dev_postgres", errPostgresEnded, "serve the demo", "its log is on stderr with --log-level debug")
	}
	return err
}

func (d *devCommand) token(user, device string, ttl time.Duration) (string, error) {
	s, err := devSigner(d.keyFile)
	if err != nil {
		return "", err
	}
	now := time.Now()
	return auth.Mint(s.key, auth.Claims{
		Issuer: s.issuer, Audience: s.audience, Issued: now, Expires: now.Add(ttl),
		Named: map[string]string{s.user: user, s.device: device},
	})
}

// announce writes dev.json and tells the person what to do. It returns what it wrote.
func (d *devCommand) announce(psql, public, admin string) ([]byte, error) {
	page := "http://" + public
	state, err := json.MarshalIndent(devState{
		URL: page, Admin: "http://" + admin, DSN: d.source, SigningKeyFile: d.keyFile, Providers: map[string]any{},
	}, "", "  ")
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(devStatePath(d.app), state, 0o600); err != nil {
		return nil, fail("dev_state", err, "write dev.json")
	}
	token, err := d.token(strconv.Itoa(dev.DemoUser), "", devTokenTTL)
	if err != nil {
		return nil, err
	}
	kept := "in " + d.clusterDir() + ", kept; --fresh throws it away"
	switch {
	case d.dsn != "":
		kept = "the one of --dsn"
	case d.ephemeral:
		kept = "in a temporary directory, gone at the end"
	}
	_, err = fmt.Fprintf(d.stdout, `
nudge is running. Ctrl-C stops it.

  Database   %s
  Admin      http://%s

  Pull as a device of user %d does (the token is good for %.0f hours):

TOKEN=%s
curl -H "Authorization: Bearer $TOKEN" -H "Nudge-Device: curl" %s/v1/changes

  Change a row behind its back, and watch both devices:

%s

  Or send a crowd:

go run ./clientsim run --users 200 --devices 3 --rate 200 --duration 30s

  The page   %s/
`, kept, admin, dev.DemoUser, devTokenTTL.Hours(), token, page, psql, page)
	return state, err
}

// withdraw removes dev.json, unless another nudge dev has put its own there.
func (d *devCommand) withdraw(state []byte) {
	path := devStatePath(d.app)
	if now, err := os.ReadFile(path); err == nil && bytes.Equal(now, state) {
		_ = os.Remove(path) // a stale one is noticed when nobody answers there
	}
}

// nextFree is addr, or addr with the next port that nobody listens on and that is not taken's. When
// all fail it is addr, and listening there says why.
func nextFree(ctx context.Context, addr, taken string) string {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return addr
	}
	first, err := strconv.Atoi(port)
	if err != nil {
		return addr
	}
	var lc net.ListenConfig
	for p := first; p < first+100; p++ {
		next := net.JoinHostPort(host, strconv.Itoa(p))
		if next == taken {
			continue
		}
		if l, err := lc.Listen(ctx, "tcp", next); err == nil {
			_ = l.Close()
			return next
		}
	}
	return addr
}
