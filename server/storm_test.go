package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/nudgesync/nudge/internal/devpg/pgtest"
	"github.com/nudgesync/nudge/server/wire"
)

// The storm: users with ten devices each, all of them at once.
const (
	stormUsers   = 200
	stormDevices = 10
)

// I11: 2,000 devices with expired cursors pull at once from a node that may have eight connections. It never has
// more; whoever it refuses is told when to come back, and has everything once it did; and a device that needs but
// a stretch of the log is served meanwhile.
func TestI11StormOfExpiredCursors(t *testing.T) {
	s := newSite(t, pgtest.Database(t))
	s.env = append(s.env, "NUDGE_SOURCE_MAX_CONNECTIONS=8", "NUDGE_LIMITS_TAIL_BYTES=1MiB", "NUDGE_LIMITS_QUEUE=200",
		"NUDGE_LIMITS_DEVICE_PULLS=100000", "NUDGE_LIMITS_USER_PULLS=100000") // what refuses is to be the queue
	execute(t, s.admin, fmt.Sprintf(`insert into intakes select i, i, 'row of ' || i from generate_series(1001, %d) i`, 1000+stormUsers))
	r := s.serve(t)
	transport := &http.Transport{MaxIdleConnsPerHost: stormUsers * stormDevices}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport}

	var storm []*stormDevice
	for user := 1001; user <= 1000+stormUsers; user++ {
		first := &stormDevice{t: t, client: client, url: r.url, user: strconv.Itoa(user), token: r.token(strconv.Itoa(user)), name: "0"}
		first.pullAll()
		for i := range stormDevices {
			d := *first
			d.name, d.rows = strconv.Itoa(i), nil
			storm = append(storm, &d)
		}
	}
	behind := &stormDevice{t: t, client: client, url: r.url, user: "7", token: r.token("7"), name: "behind"}
	execute(t, s.admin, `insert into intakes values (3, 8, 'behind which all of them are')`)
	behind.pullAll()
	r.trimAll()
	behind.pullAll() // stands in the log from here on, and soon not in the tail
	execute(t, s.admin, `insert into intakes values (4, 7, 'another')`)
	for i := range 8 {
		execute(t, s.admin, fmt.Sprintf(`insert into intakes select %d + i, 9, repeat('x', 1000) from generate_series(1, 300) i`, 10_000*(i+1)))
	}
	fromLog := func() float64 {
		return metricsOf(t, strings.TrimPrefix(r.admin, "http://"))[`nudge_pulls_total{code="200",source="log"}`]
	}
	for before := fromLog(); fromLog() == before; {
		d := *behind
		d.pullAll()
	}

	watched := watchConnections(t, s.admin)
	var served, refused, during atomic.Int64
	var everybody sync.WaitGroup
	before := fromLog()
	for _, d := range storm {
		everybody.Go(func() {
			refused.Add(int64(d.pullAll()))
			if want := `"row of ` + d.user + `"`; len(d.rows) != 1 || !strings.Contains(d.rows[0], want) {
				t.Errorf("device %s of user %s has %v", d.name, d.user, d.rows)
			}
			served.Add(1)
		})
	}
	over := make(chan struct{})
	go func() { everybody.Wait(); close(over) }()
	for storming := true; storming; {
		d := *behind
		d.rows = nil
		d.pullAll()
		if len(d.rows) != 1 || !strings.Contains(d.rows[0], `"another"`) {
			t.Errorf("from the log came %v", d.rows)
		}
		if served.Load() < int64(len(storm)) {
			during.Add(1)
		}
		select {
		case <-over:
			storming = false
		default:
		}
	}
	most := watched()
	t.Logf("%d devices, %d refusals, %d pulls from the log meanwhile, %d connections", len(storm), refused.Load(), during.Load(), most)
	if most > 8 {
		t.Errorf("%d connections", most)
	}
	if refused.Load() == 0 {
		t.Error("nobody was refused: that was no storm")
	}
	if n := during.Load(); n == 0 || fromLog()-before < float64(n) {
		t.Errorf("%d pulls came through while others waited, %v from the log", n, fromLog()-before)
	}
}

// stormDevice pulls over HTTP, and follows hints.
type stormDevice struct {
	t                      *testing.T
	client                 *http.Client
	url, user, token, name string
	cursor                 string
	rows                   []string
}

// pullAll pulls until there is no more, and returns how often it was refused.
func (d *stormDevice) pullAll() (refused int) {
	for {
		page, after := d.pull()
		if d.t.Failed() {
			return refused
		}
		if page == nil {
			refused++
			select {
			case <-time.After(after):
			case <-d.t.Context().Done():
			}
			continue
		}
		d.cursor = page.Cursor
		for _, c := range page.Changes {
			if c.Op == wire.OpUpsert {
				d.rows = append(d.rows, string(c.Row))
			}
		}
		if !page.HasMore {
			return refused
		}
	}
}

// pull is one request: a page, or when to come back.
func (d *stormDevice) pull() (*wire.Page, time.Duration) {
	req, err := http.NewRequestWithContext(d.t.Context(), http.MethodGet, d.url+"/v1/changes?"+url.Values{"since": {d.cursor}}.Encode(), http.NoBody)
	if err != nil {
		d.t.Error(err)
		return nil, 0
	}
	req.Header.Set("Authorization", "Bearer "+d.token)
	req.Header.Set(wire.HeaderDevice, d.name)
	res, err := d.client.Do(req)
	if err != nil {
		d.t.Error(err)
		return nil, 0
	}
	body, err := io.ReadAll(res.Body)
	var page wire.Page
	var problem wire.Problem
	if res.StatusCode == http.StatusOK {
		err = errors.Join(err, res.Body.Close(), json.Unmarshal(body, &page))
	} else {
		err = errors.Join(err, res.Body.Close(), json.Unmarshal(body, &problem))
	}
	after, noHint := strconv.Atoi(res.Header.Get("Retry-After"))
	switch {
	case err != nil:
		d.t.Error(err)
	case res.StatusCode == http.StatusOK:
		return &page, 0
	case res.StatusCode != http.StatusServiceUnavailable || problem.Code != wire.Overloaded || noHint != nil || after < 1:
		d.t.Errorf("%d %s, Retry-After %q", res.StatusCode, body, res.Header.Get("Retry-After"))
	}
	return nil, time.Duration(problem.RetryAfterMS) * time.Millisecond
}

// trimAll drops what is in the log.
func (r *running) trimAll() {
	r.t.Helper()
	req, err := http.NewRequestWithContext(r.t.Context(), http.MethodPost, r.admin+"/v1/admin/log/trim", http.NoBody)
	if err != nil {
		r.t.Fatal(err)
	}
	res, err := r.client.Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	if err := res.Body.Close(); err != nil || res.StatusCode != http.StatusNoContent {
		r.t.Fatal(res.Status, err)
	}
}

// watchConnections counts the connections to the database, without its own, until the returned one is called, which
// says how many there were at most.
func watchConnections(t *testing.T, dsn string) (most func() int) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	highest := make(chan int, 1)
	go func() {
		n := 0
		for ctx.Err() == nil {
			var now int
			err := conn.QueryRow(t.Context(), `select count(*) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()
				and backend_type in ('client backend', 'walsender')`).Scan(&now)
			if err != nil {
				t.Error(err)
				break
			}
			n = max(n, now)
		}
		_ = conn.Close(context.WithoutCancel(ctx))
		highest <- n
	}()
	return func() int { cancel(); return <-highest }
}
