package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/nudgesync/nudge/clientsim/oracle"
)

const (
	warmUp      = 60 * time.Second // for the first devices to show everything
	quietFor    = time.Second      // without a frame, and the fleet is quiet
	lookEvery   = 50 * time.Millisecond
	reachWithin = 5 * time.Second
)

// The demo's tables, as devices see them. Whether a server routes users is up to its configuration.
var (
	usersTable = oracle.Table{Name: "public.users", Owner: "id", Key: []string{"id"}}
	ownTables  = []oracle.Table{
		{Name: medicationsTable, Owner: "user_id", Key: []string{"id"}},
		{Name: intakesTable, Owner: "user_id", Key: []string{"id"}},
	}
	stockRule = oracle.Stock{Medications: medicationsTable, Intakes: intakesTable}
)

// simulation is one run: people, their devices, and what is counted.
type simulation struct {
	opts   *options
	target target
	minter *minter
	pool   *pgxpool.Pool
	client *http.Client
	stats  *stats
	rules  *oracle.Truth // the tables without rows: for judging a device by itself
	pocket *pocket       // nil if nobody hears by push
	pushes *pushes

	people  []*person
	members []*member

	begun chan struct{} // closed when writing starts
	start time.Time     // when that was; written before begun is closed
}

// newSimulation makes the users in the app's database. Nothing connects before play.
func newSimulation(ctx context.Context, opts *options, t target) (*simulation, error) {
	minter, err := newMinter(t.KeyFile)
	if err != nil {
		return nil, err
	}
	cfg, err := pgxpool.ParseConfig(t.DSN)
	if err != nil {
		return nil, fmt.Errorf("app's database: %w", err)
	}
	cfg.MaxConns = writers + 1
	cfg.ConnConfig.RuntimeParams["application_name"] = "clientsim"
	pool, err := pgxpool.NewWithConfig(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("app's database: %w", err)
	}
	s := &simulation{
		opts: opts, target: t, minter: minter, pool: pool, stats: newStats(), begun: make(chan struct{}),
		rules: oracle.NewTruth(append([]oracle.Table{usersTable}, ownTables...)),
		client: &http.Client{Transport: &http.Transport{
			Proxy: http.ProxyFromEnvironment, MaxIdleConnsPerHost: 64, IdleConnTimeout: time.Minute,
		}},
	}
	if err := s.reach(ctx); err != nil {
		s.close()
		return nil, err
	}
	if slices.ContainsFunc(opts.roads, func(r string) bool { return r != socket }) {
		if s.pocket, err = openPocket(ctx, t.Providers.Control, s.client); err != nil {
			s.close()
			return nil, err
		}
		s.pushes = newPushes(opts.apart)
	}
	if s.people, err = populate(ctx, pool, opts.users); err != nil {
		s.close()
		return nil, err
	}
	s.enlist()
	return s, nil
}

func (s *simulation) close() {
	if s.pocket != nil {
		s.pocket.close()
	}
	s.pool.Close()
	s.client.CloseIdleConnections()
}

// reach asks the server whether it is ready.
func (s *simulation) reach(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, reachWithin)
	defer cancel()
	status, err := s.request(ctx, http.MethodGet, s.target.URL, "readyz")
	if err != nil {
		return fmt.Errorf("no server at %s: %w", s.target.URL, err)
	}
	if status != http.StatusOK {
		return fmt.Errorf("the server at %s is not ready: /readyz says %d", s.target.URL, status)
	}
	return nil
}

func (s *simulation) request(ctx context.Context, method, base, path string) (int, error) {
	address, err := url.JoinPath(base, path)
	if err != nil {
		return 0, err
	}
	req, err := http.NewRequestWithContext(ctx, method, address, http.NoBody)
	if err != nil {
		return 0, err
	}
	resp, err := s.client.Do(req)
	if err != nil {
		return 0, err
	}
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 1<<20)) // so that the connection serves again
	return resp.StatusCode, resp.Body.Close()
}

// play is the run: connect, write, settle, compare. errVerdict says that devices were wrong.
func (s *simulation) play(ctx context.Context, stdout, stderr io.Writer) error {
	fleet, leave := context.WithCancel(ctx)
	var running sync.WaitGroup
	// Stop order: the writers have ended below; then the devices, then the screen.
	defer running.Wait()
	defer leave()
	for _, m := range s.members {
		running.Go(func() { m.run(fleet) })
	}
	if s.pocket != nil {
		running.Go(func() { s.follow(fleet) })
	}
	screen := s.watch(fleet, stderr, &running)

	screen.say("connecting")
	if err := s.awaitFirst(ctx); err != nil {
		return err
	}
	s.start = time.Now()
	close(s.begun)
	screen.say("writing")
	running.Go(func() { s.trim(fleet) })
	if err := s.trouble(ctx, fleet, &running); err != nil {
		return err
	}
	s.write(ctx, s.start)
	screen.say("settling")
	settled := s.settle(ctx)
	if ctx.Err() != nil {
		return errors.New("interrupted: nothing was compared")
	}
	screen.say("comparing")
	sum, err := s.judge(ctx)
	if err != nil {
		return err
	}
	sum.Settled = settled
	leave()
	running.Wait()
	return s.publish(sum, stdout)
}

// awaitFirst waits until every device that is there from the start shows its rows.
func (s *simulation) awaitFirst(ctx context.Context) error {
	deadline := time.NewTimer(warmUp)
	defer deadline.Stop()
	for n, m := range s.members {
		if m.lives[0].from > 0 {
			continue
		}
		select {
		case <-m.synced:
		case <-m.ended:
			return fmt.Errorf("device %s: %w", m.id, m.halted())
		case <-ctx.Done():
			return errors.New("interrupted: nothing was written")
		case <-deadline.C:
			err := fmt.Errorf("after %v device %s (%d of %d) still shows nothing", warmUp, m.id, n+1, len(s.members))
			return errors.Join(err, s.stats.lastLost())
		}
	}
	return nil
}

// waitShare waits for a moment of the run, given as a share of its duration.
func (s *simulation) waitShare(ctx context.Context, share float64) error {
	select {
	case <-s.begun:
	case <-ctx.Done():
		return ctx.Err()
	}
	return waitUntil(ctx, s.start.Add(time.Duration(share*float64(s.opts.duration))))
}

// trim has the server forget the log up to now, while some devices are away.
func (s *simulation) trim(ctx context.Context) {
	why := ""
	if s.target.Admin == "" {
		why = "no admin listener was named"
	} else if s.waitShare(ctx, trimAt) == nil {
		status, err := s.request(ctx, http.MethodPost, s.target.Admin, "v1/admin/log/trim")
		switch {
		case err != nil:
			why = "trimming the log failed: " + err.Error()
		case status >= http.StatusMultipleChoices:
			why = fmt.Sprintf("trimming the log failed: HTTP %d", status)
		}
	}
	s.stats.mu.Lock()
	defer s.stats.mu.Unlock()
	s.stats.trim = why
}

// settle waits until every device is idle, shows every write it was expected to, and no frame came
// for a while. It reports whether that was reached in time. It makes nobody pull.
func (s *simulation) settle(ctx context.Context) bool {
	deadline := time.Now().Add(s.opts.settle)
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	later := time.NewTicker(recoverEvery)
	defer later.Stop()
	for {
		if s.quiet() && time.Since(time.Unix(0, s.stats.traffic.Load())) >= quietFor {
			return true
		}
		select {
		case now := <-look.C:
			if now.After(deadline) {
				return false
			}
		case <-later.C:
			if s.pocket != nil {
				s.later(ctx)
			}
		case <-ctx.Done():
			return false
		}
	}
}

func (s *simulation) quiet() bool {
	for _, m := range s.members {
		if !m.quiet() {
			return false
		}
	}
	return true
}

// judge compares every device with the source.
func (s *simulation) judge(ctx context.Context) (*summary, error) {
	held := make([]oracle.Held, len(s.members))
	tables := ownTables
	for i, m := range s.members {
		held[i] = m.held(m.current().Snapshot())
		for _, r := range held[i].Rows {
			if r.Table == usersTable.Name && len(tables) == len(ownTables) {
				tables = append([]oracle.Table{usersTable}, ownTables...)
			}
		}
	}
	users := make([]string, len(s.people))
	for i, p := range s.people {
		users[i] = p.id
	}
	var truth *oracle.Truth
	err := s.pool.AcquireFunc(ctx, func(c *pgxpool.Conn) (err error) {
		truth, err = oracle.Read(ctx, c.Conn(), tables, users)
		return err
	})
	if err != nil {
		return nil, err
	}
	sum := s.summarise(truth, held)
	if s.pushes == nil {
		return sum, nil
	}
	failed, err := s.pocket.failed(ctx)
	if err != nil {
		return nil, err
	}
	sum.Push = s.pushes.summary(s.members, failed)
	sum.OK = sum.OK && sum.Push.ok()
	return sum, nil
}
