package main

import (
	"context"
	"errors"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/nudgesync/nudge/clientsim/provider"
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
	source    string // the DSN in use
	keyFile   string
	providers *provider.Providers
}

func newDevCommand(a *app) *cobra.Command {
	d := &devCommand{app: a}
	cmd := &cobra.Command{
		Use:   "dev",
		Short: "Show it all on this machine: a private Postgres, a demo app, a page",
		Long: `Start a private Postgres with a small medication app in it, attach to it, serve, and show one
user's phone and tablet on a page, beside a phone in a pocket that only a push can wake. Apple's and Google's push
services are simulated here too ("clientsim providers" says what they can do), so nothing leaves this machine.

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
// then the page's connections, then the simulated push services, then Postgres.
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
	if d.providers, err = d.startProviders(context.WithoutCancel(ctx)); err != nil {
		return err
	}
	defer d.providers.Close()
	cfg, err := d.nodeConfig()
	if err != nil {
		return err
	}
	if err := d.prepare(ctx, cfg); err != nil {
		return err
	}
	return d.serve(ctx, cfg)
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
	var err error
	if cfg.Push, err = d.pushConfig(d.providers); err != nil {
		return nil, err
	}
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
		Sign:   func(user, device string) (string, error) { return d.token(user, device, devSessionTTL) },
		Phones: d.providers, Explain: d.explain(db, cfg.Source.Slot),
	})
	if err != nil {
		return err
	}
	// The node waits for requests when it stops, and the page has one under way that waits for news.
	defer context.AfterFunc(ctx, page.Close)()

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
