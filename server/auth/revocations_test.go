package auth_test

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/nudgesync/nudge/internal/devpg/pgtest"
	"github.com/nudgesync/nudge/migrations"
	"github.com/nudgesync/nudge/server/auth"
	"github.com/nudgesync/nudge/server/wire"
)

func database(t *testing.T) *pgxpool.Pool {
	t.Helper()
	dsn := pgtest.Database(t)
	if _, err := migrations.Up(t.Context(), dsn); err != nil {
		t.Fatal(err)
	}
	return pgtest.Pool(t, dsn)
}

// reader is a node's Revocations.
type reader struct {
	*auth.Revocations
	metrics *prometheus.Registry
	log     *logged
	changed chan struct{}
	stop    func()
	ahead   atomic.Int64 // of the clock, in nanoseconds
}

// read starts one, and waits until it knows what is there.
func read(t *testing.T, pool *pgxpool.Pool) *reader {
	t.Helper()
	r := &reader{metrics: prometheus.NewRegistry(), log: &logged{}, changed: make(chan struct{}, 100)}
	m, err := auth.NewMetrics(r.metrics)
	if err != nil {
		t.Fatal(err)
	}
	r.Revocations = auth.NewRevocations(auth.RevocationsConfig{
		Pool: pool, OnChange: func() { r.changed <- struct{}{} }, Metrics: m,
		Now: func() time.Time { return time.Now().Add(time.Duration(r.ahead.Load())) },
		Log: slog.New(slog.NewJSONHandler(r.log, nil)),
	})
	if err := r.Check(auth.Identity{User: "7"}); codeOf(err) != wire.TokenUnverifiable || r.Ready() {
		t.Errorf("before anything was read: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx) }()
	r.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	t.Cleanup(r.stop)
	r.hasten(t)
	if !r.Ready() {
		t.Fatal("not ready after a look")
	}
	return r
}

func (r *reader) hasten(t *testing.T) {
	t.Helper()
	if err := r.Hasten(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, r *auth.Revocations, rev auth.Revocation) auth.Revocation {
	t.Helper()
	rev, err := r.Write(t.Context(), rev)
	if err != nil {
		t.Fatal(err)
	}
	return rev
}

// A revocation reaches another node by itself. It refuses whom it names, by what was issued up to then.
func TestRevocationsReachEveryNode(t *testing.T) {
	pool := database(t)
	here := read(t, pool)
	for _, tc := range []struct {
		rev  auth.Revocation
		hit  []auth.Identity
		miss []auth.Identity
	}{
		{
			auth.Revocation{User: "7"},
			[]auth.Identity{{User: "7"}, {User: "7", Device: "phone", JTI: "a"}},
			[]auth.Identity{{User: "8"}, {User: "77"}, {User: "x", Device: "7"}},
		},
		{
			auth.Revocation{User: "9", Device: "phone"},
			[]auth.Identity{{User: "9", Device: "phone"}},
			[]auth.Identity{{User: "9"}, {User: "9", Device: "tablet"}, {User: "10", Device: "phone"}},
		},
		{
			auth.Revocation{JTI: "j1"},
			[]auth.Identity{{User: "11", JTI: "j1"}, {User: "12", Device: "phone", JTI: "j1"}},
			[]auth.Identity{{User: "11"}, {User: "11", JTI: "j2"}, {User: "j1"}},
		},
	} {
		issued := time.Now().Add(-time.Minute)
		for _, id := range append(tc.hit, tc.miss...) {
			if id.Issued = issued; here.Check(id) != nil {
				t.Fatalf("%+v is refused before anything was written", id)
			}
		}
		// Written by somebody who reads none: the command, or another node.
		rev := write(t, auth.NewRevocations(auth.RevocationsConfig{Pool: pool}), tc.rev)
		<-here.changed
		for _, id := range tc.hit {
			id.Issued = issued
			if err := here.Check(id); codeOf(err) != wire.TokenRevoked {
				t.Errorf("%+v after %+v: %v", id, tc.rev, err)
			}
			if id.Issued = rev.At; here.Check(id) == nil {
				t.Errorf("%+v: issued in the moment of the revocation, and let in", id)
			}
			if id.Issued = (time.Time{}); here.Check(id) == nil {
				t.Errorf("%+v: doesn't say when it was issued, and let in", id)
			}
			id.Issued = rev.At.Add(time.Second)
			if err := here.Check(id); (err == nil) != (tc.rev.JTI == "") {
				t.Errorf("%+v issued after %+v: %v", id, tc.rev, err)
			}
		}
		for _, id := range tc.miss {
			id.Issued = issued
			if err := here.Check(id); err != nil {
				t.Errorf("%+v after %+v: %v", id, tc.rev, err)
			}
		}
	}
	// A node that starts later knows them, too.
	there := read(t, pool)
	if err := there.Check(auth.Identity{User: "7", Issued: time.Now().Add(-time.Minute)}); codeOf(err) != wire.TokenRevoked {
		t.Errorf("on a node that started later: %v", err)
	}
	if len(there.changed) != 1 {
		t.Error("nobody was told to look again after the start")
	}
}

// The verifier asks at every use, of a token that it knows as of one that it does not.
func TestRevokedTokens(t *testing.T) {
	pool := database(t)
	r := read(t, pool)
	key := parse(t, "", auth.HS256, secret)
	v, err := auth.New(auth.Config{Keys: []auth.Key{key}, DeviceClaim: "did", Revoked: r.Check})
	if err != nil {
		t.Fatal(err)
	}
	mint := func(issued time.Time) string {
		t.Helper()
		token, err := auth.Mint(key, auth.Claims{Issued: issued, Expires: time.Now().Add(time.Hour), Named: map[string]string{"sub": "7", "did": "phone"}})
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	known, unknown := mint(time.Now().Add(-time.Minute)), mint(time.Now().Add(-time.Minute))
	ahead := mint(time.Now().Add(auth.Leeway / 2)) // by an issuer whose clock is ahead
	id, err := v.Verify(t.Context(), known)
	if err == nil {
		_, err = v.Verify(t.Context(), ahead)
	}
	if err != nil || v.Check(id) != nil {
		t.Fatal(err)
	}
	write(t, r.Revocations, auth.Revocation{User: "7", Device: "phone"})
	r.hasten(t)
	for what, token := range map[string]string{"known": known, "unknown": unknown, "ahead of its time": ahead} {
		for range 2 {
			if _, err := v.Verify(t.Context(), token); codeOf(err) != wire.TokenRevoked {
				t.Errorf("%s: %v", what, err)
			}
		}
	}
	if err := v.Check(id); codeOf(err) != wire.TokenRevoked {
		t.Errorf("who was let in: %v", err)
	}
	if _, err := v.Verify(t.Context(), mint(time.Now().Add(2*time.Second))); err != nil {
		// Its iat counts as now, which is after the revocation.
		t.Errorf("who signed in again: %v", err)
	}
}

// A second revocation takes the first one's place under a new number, and never makes it end sooner.
func TestRevokedAgain(t *testing.T) {
	r := read(t, database(t))
	soon, late := time.Now().Add(time.Hour), time.Now().Add(2*time.Hour)
	first := write(t, r.Revocations, auth.Revocation{User: "7", Until: late})
	second := write(t, r.Revocations, auth.Revocation{User: "7", Until: soon})
	if second.Seq <= first.Seq || !second.At.After(first.At) || second.Until.Sub(late).Abs() > time.Millisecond {
		t.Errorf("%+v after %+v", second, first)
	}
	third := write(t, r.Revocations, auth.Revocation{User: "7"})
	if fourth := write(t, r.Revocations, auth.Revocation{User: "7", Until: late}); !third.Until.IsZero() || !fourth.Until.IsZero() {
		t.Errorf("for good, and then %+v", fourth)
	}
	r.hasten(t)
	if err := r.Check(auth.Identity{User: "7", Issued: third.At}); codeOf(err) != wire.TokenRevoked {
		t.Errorf("issued between two revocations: %v", err)
	}
}

// A node that first sees a token late can't know that its iat ran ahead of the revocation: who dates that so is sure.
func TestRevocationIsDated(t *testing.T) {
	r := read(t, database(t))
	at := time.Now().Add(auth.Leeway)
	first := write(t, r.Revocations, auth.Revocation{User: "7", At: at})
	if second := write(t, r.Revocations, auth.Revocation{User: "7"}); !second.At.Equal(first.At) || first.At.Sub(at).Abs() > time.Millisecond {
		t.Errorf("a second one, of now, moved it from %s to %s", first.At, second.At)
	}
	write(t, r.Revocations, auth.Revocation{User: "8", At: time.Now().Add(-time.Hour)})
	r.hasten(t)
	for _, c := range []struct {
		user    string
		issued  time.Duration
		revoked bool
	}{{"7", auth.Leeway - time.Second, true}, {"7", auth.Leeway + time.Second, false}, {"8", -2 * time.Hour, true}, {"8", -time.Minute, false}} {
		err := r.Check(auth.Identity{User: c.user, Issued: time.Now().Add(c.issued)})
		if (codeOf(err) == wire.TokenRevoked) != c.revoked {
			t.Errorf("user %s, issued %s from now: %v", c.user, c.issued, err)
		}
	}
}

func TestRevocationIsValidated(t *testing.T) {
	r := auth.NewRevocations(auth.RevocationsConfig{})
	for name, rev := range map[string]auth.Revocation{
		"nobody": {}, "a device of nobody": {Device: "phone"}, "a user and a jti": {User: "7", JTI: "j"}, "a device and a jti": {Device: "d", JTI: "j"},
		"over": {User: "7", Until: time.Now()}, "a long user": {User: strings.Repeat("7", 256)}, "a NUL": {JTI: "\x00"}, "no UTF-8": {User: "7", Device: "\xff"},
		"in an hour": {User: "7", At: time.Now().Add(time.Hour)}, "a dated jti": {JTI: "j", At: time.Now()},
		"the end of time": {User: "7", Until: time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC)},
	} {
		if _, err := r.Write(t.Context(), rev); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// A number becomes visible only after every lower one: a node never asks for those again.
func TestRevocationNumbersAppearInOrder(t *testing.T) {
	pool := database(t)
	r := read(t, pool)
	tx, err := pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(context.Background()) }()
	if _, err := tx.Exec(t.Context(), `insert into nudge.revocations (user_id, device, jti, at) values ('1', '', '', now())`); err != nil {
		t.Fatal(err)
	}
	// Another writer comes while the first has its number and has not committed.
	second := make(chan error, 1)
	go func() {
		_, err := r.Write(context.Background(), auth.Revocation{User: "2"})
		second <- err
	}()
	until(t, "the second writer to wait", func() bool {
		var n int
		err := pool.QueryRow(t.Context(), `select count(*) from pg_locks where relation = 'nudge.revocations'::regclass and not granted`).Scan(&n)
		return err == nil && n == 1 || len(second) > 0
	})
	r.hasten(t)
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-second; err != nil {
		t.Fatal(err)
	}
	r.hasten(t)
	for _, user := range []string{"1", "2"} {
		if err := r.Check(auth.Identity{User: user}); codeOf(err) != wire.TokenRevoked {
			t.Errorf("user %s: %v", user, err)
		}
	}
}

// A look at a quiet table is one statement, and reads no row; many revocations are read once.
func TestALookCostsOneStatement(t *testing.T) {
	pool := database(t)
	if _, err := pool.Exec(t.Context(), `insert into nudge.revocations (user_id, device, jti, at) select 'u' || n, '', '', now() from generate_series(1, 10000) n`); err != nil {
		t.Fatal(err)
	}
	cfg := pool.Config().Copy()
	var c counter
	cfg.ConnConfig.Tracer = &c
	traced, err := pgxpool.NewWithConfig(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer traced.Close()
	r := read(t, traced)
	before := c.count()
	for range 10 {
		r.hasten(t)
	}
	r.stop()
	// Run may have looked by itself in between, at most once a second.
	if n := c.count().minus(before); n.statements < 10 || n.statements > 15 || n.rows != 0 {
		t.Errorf("10 looks took %+v", n)
	}
}

// What has ended is dropped, once nodes with slow clocks agree; the rest stays.
func TestEndedRevocationsAreDropped(t *testing.T) {
	pool := database(t)
	if _, err := pool.Exec(t.Context(), `insert into nudge.revocations (user_id, device, jti, at, until) values
		('ended', '', '', now(), now() - interval '61 min'), ('just ended', '', '', now(), now() - interval '59 min'),
		('lasts', '', '', now(), now() + interval '1 min'), ('for good', '', '', now(), null)`); err != nil {
		t.Fatal(err)
	}
	r := read(t, pool)
	for user, code := range map[string]wire.Code{"ended": "", "just ended": "", "lasts": wire.TokenRevoked, "for good": wire.TokenRevoked} {
		if err := r.Check(auth.Identity{User: user}); codeOf(err) != code {
			t.Errorf("%s: %v", user, err)
		}
	}
	if err := auth.Trim(t.Context(), r.Revocations); err != nil {
		t.Fatal(err)
	}
	var left string
	if err := pool.QueryRow(t.Context(), `select string_agg(user_id, ', ' order by user_id) from nudge.revocations`).Scan(&left); err != nil || left != "for good, just ended, lasts" {
		t.Errorf("left are %s (%v)", left, err)
	}
}

// A node that can't read lets people in for a while, and then nobody; once it can, it reads everything
// anew, since the numbers may be those of another server.
func TestRevocationsAway(t *testing.T) {
	pool := database(t)
	r := read(t, pool)
	write(t, r.Revocations, auth.Revocation{User: "7"})
	r.hasten(t)
	for range len(r.changed) {
		<-r.changed
	}
	execute := func(sql string) {
		t.Helper()
		if _, err := pool.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	execute(`alter table nudge.revocations rename to away`)
	for range 2 {
		if err := r.Hasten(t.Context()); err == nil {
			t.Error("hastened, though there is nothing to read")
		}
	}
	if err := r.Check(auth.Identity{User: "8"}); err != nil || !r.Ready() {
		t.Errorf("a moment later: %v", err)
	}
	if err := r.Check(auth.Identity{User: "7"}); codeOf(err) != wire.TokenRevoked {
		t.Errorf("what is known stays known: %v", err)
	}
	r.ahead.Store(int64(auth.BlindAfter + time.Second))
	if err := r.Check(auth.Identity{User: "8"}); codeOf(err) != wire.TokenUnverifiable || r.Ready() {
		t.Errorf("after five minutes: %v", err)
	}
	if got := r.log.lines(slog.LevelWarn); len(got) != 1 {
		t.Errorf("logged %q, want one line", got)
	}
	// The standby that takes over never had number 1.
	r.ahead.Store(0)
	execute(`alter table nudge.away rename to revocations`)
	execute(`truncate nudge.revocations restart identity`)
	execute(`insert into nudge.revocations (user_id, device, jti, at) values ('9', '', '', now())`)
	r.hasten(t)
	if err := r.Check(auth.Identity{User: "9"}); codeOf(err) != wire.TokenRevoked {
		t.Errorf("a number that it had read before: %v", err)
	}
	if err := r.Check(auth.Identity{User: "8"}); err != nil || !r.Ready() {
		t.Errorf("recovered: %v", err)
	}
	if err := r.Check(auth.Identity{User: "7"}); err != nil {
		t.Errorf("of the row that is gone: %v", err)
	}
}

// Who hastens a node that does not run, or no longer, does not hang.
func TestHastenEnds(t *testing.T) {
	r := auth.NewRevocations(auth.RevocationsConfig{})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := r.Hasten(ctx); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}
