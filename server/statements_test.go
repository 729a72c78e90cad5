package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/nudgesync/nudge/clientsim/provider"
	"github.com/nudgesync/nudge/internal/devpg/pgtest"
	"github.com/nudgesync/nudge/server/config"
	"github.com/nudgesync/nudge/server/wire"
)

// Devices that are up to date, that pull what is in memory, or that acknowledge, cost no statement: what the
// database sees in a time is the same for a hundred times as many of them, also where all of them could be pushed to.
// Time is counted in the node's own
// upkeep, so that a slow machine does not matter. NUDGE_LONG makes it 100,000, and a minute.
func TestI11StatementsAreUpkeepAlone(t *testing.T) {
	few, many, least := 100, 10_000, 5
	if os.Getenv("NUDGE_LONG") != "" {
		few, many, least = 1000, 100_000, 60
	}
	proxy, node, providers := countedNode(t, "20")
	devices := make([]*countedDevice, 20)
	for i := range devices {
		devices[i] = &countedDevice{node: node, user: strconv.Itoa(i + 1)}
		devices[i].token = node.token(t, devices[i].user)
		devices[i].begin(t)
		devices[i].register(t, providers)
	}
	execute(t, node.site.admin, `insert into intakes select 100 + u * 10 + i, u, 'new' from generate_series(1, 20) u, generate_series(1, 3) i`)
	for _, d := range devices {
		d.awaitChanges(t)
	}

	busy := func(requests int) {
		var g errgroup.Group
		for i, d := range devices {
			g.Go(func() error {
				for j := i; j < requests; j += len(devices) {
					if err := d.ask(t.Context(), j/len(devices)); err != nil {
						return err
					}
				}
				return nil
			})
		}
		if err := g.Wait(); err != nil {
			t.Fatal(err)
		}
	}
	// The many first: they take how long they take.
	proxy.nextTick(t)
	before, tick := proxy.statements.Load(), proxy.ticks.Load()
	busy(many)
	for proxy.ticks.Load() < tick+int64(least) {
		proxy.nextTick(t)
	}
	ofMany, ticks := proxy.statements.Load()-before, proxy.ticks.Load()-tick
	proxy.nextTick(t)
	before, tick = proxy.statements.Load(), proxy.ticks.Load()
	busy(few)
	for proxy.ticks.Load() < tick+ticks {
		proxy.nextTick(t)
	}
	ofFew := proxy.statements.Load() - before
	t.Logf("%d statements for %d requests, %d for %d, in %d s of upkeep each", ofMany, many, ofFew, few, ticks)
	// What is due every few seconds falls into one window and not the other; and a node that is short of time
	// asks the log whether it missed anything. One statement for a hundred requests would be more than this.
	if ofMany > ofFew+ofFew/2+20 {
		t.Errorf("%d requests took %d statements, %d took %d", many, ofMany, few, ofFew)
	}
	if ofFew == 0 {
		t.Error("no statement was counted")
	}
}

// However many devices start over at once, the node's connections stay below what it may have.
func TestI11ConnectionsStayBelowTheirCap(t *testing.T) {
	const most = 8
	proxy, node, _ := countedNode(t, strconv.Itoa(most))
	var g errgroup.Group
	for i := range 60 {
		d := &countedDevice{node: node, user: strconv.Itoa(i + 1)}
		d.token = node.token(t, d.user)
		g.Go(func() error {
			status, _, _, err := d.get(t.Context(), "")
			if err == nil && status != http.StatusOK && status != http.StatusServiceUnavailable {
				err = fmt.Errorf("status %d", status)
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	if peak := proxy.peak.Load(); peak > most || peak < 2 {
		t.Errorf("%d connections, at most %d allowed", peak, most)
	}
}

// countedSite is a node that serves.
type countedSite struct {
	site   *site
	public string
	client *http.Client
}

// countedNode runs a node that pushes and whose way to Postgres is counted. It may have so many connections.
func countedNode(t *testing.T, connections string) (*countingProxy, *countedSite, *provider.Providers) {
	t.Helper()
	s := newSite(t, pgtest.Database(t))
	providers := configurePush(t, s)
	s.attach(t)
	proxy := newCountingProxy(t, s.admin)
	s.env = append(s.env, "NUDGE_SOURCE_DSN="+proxy.dsn, "NUDGE_SOURCE_MAX_CONNECTIONS="+connections, "NUDGE_LIMITS_SNAPSHOTS=50")
	cfg, _, err := config.Load(config.Source{Path: s.yaml, Env: s.env})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ready, ended := make(chan string, 1), make(chan error, 1)
	go func() {
		ended <- serveNode(ctx, cfg, slog.New(slog.DiscardHandler), serveOptions{Ready: func(public, _ string) { ready <- public }})
	}()
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 100}}
	t.Cleanup(func() {
		client.CloseIdleConnections()
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	select {
	case public := <-ready:
		return proxy, &countedSite{site: s, public: public, client: client}, providers
	case err := <-ended:
		ended <- nil
		t.Fatal(err)
	}
	return nil, nil, nil
}

func (n *countedSite) token(t *testing.T, user string) string {
	t.Helper()
	r := n.site.nudge(t, "token", "--user", user)
	if r.status != exitOK {
		t.Fatalf("%+v", r)
	}
	return strings.TrimSpace(r.stdout)
}

// countedDevice has its first cursor, behind three changes, and its last one.
type countedDevice struct {
	node        *countedSite
	user, token string
	first, last string
}

func (d *countedDevice) name() string { return "phone-" + d.user }

// register has the device be pushed to.
func (d *countedDevice) register(t *testing.T, providers *provider.Providers) {
	t.Helper()
	phone, err := providers.AddPhone(provider.PhoneConfig{Platform: provider.Android, App: "com.example.app"})
	if err != nil {
		t.Fatal(err)
	}
	body, err := json.Marshal(wire.Registration{
		Road: wire.RoadFCM, Target: &wire.Target{Kind: wire.KindToken, Value: phone.Target().Value}, App: "com.example.app", Cursor: d.first,
	})
	if err != nil {
		t.Fatal(err)
	}
	if status, _, answer, err := d.send(t.Context(), http.MethodPut, "/v1/devices/"+d.name(), string(body), ""); err != nil || status != http.StatusOK {
		t.Fatal(status, answer, err)
	}
}

func (d *countedDevice) send(ctx context.Context, method, path, body, etag string) (status int, cursor, answer string, err error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://"+d.node.public+path, strings.NewReader(body))
	if err != nil {
		return 0, "", "", err
	}
	req.Header.Set("Authorization", "Bearer "+d.token)
	req.Header.Set(wire.HeaderDevice, d.name())
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	if etag != "" {
		req.Header.Set("If-None-Match", `"`+etag+`"`)
	}
	res, err := d.node.client.Do(req)
	if err != nil {
		return 0, "", "", err
	}
	defer func() { _ = res.Body.Close() }()
	b, err := io.ReadAll(res.Body)
	return res.StatusCode, res.Header.Get(wire.HeaderCursor), string(b), err
}

func (d *countedDevice) get(ctx context.Context, since string) (status int, cursor, answer string, err error) {
	return d.send(ctx, http.MethodGet, "/v1/changes?since="+since, "", "")
}

// begin receives everything.
func (d *countedDevice) begin(t *testing.T) {
	t.Helper()
	for more := true; more; {
		status, cursor, answer, err := d.get(t.Context(), d.first)
		if err != nil || status != http.StatusOK {
			t.Fatal(status, answer, err)
		}
		d.first, more = cursor, strings.Contains(answer, `"has_more":true`)
	}
}

func (d *countedDevice) awaitChanges(t *testing.T) {
	t.Helper()
	for d.last == "" {
		status, cursor, answer, err := d.send(t.Context(), http.MethodGet, "/v1/changes?wait=10s&since="+d.first, "", "")
		if err != nil || status != http.StatusOK {
			t.Fatal(status, answer, err)
		}
		if strings.Count(answer, `"op":"upsert"`) == 3 {
			d.last = cursor
		}
	}
}

// ask is one of a check, a pull of three changes, and an acknowledgement.
func (d *countedDevice) ask(ctx context.Context, i int) (err error) {
	var status, want int
	var answer string
	switch i % 3 {
	case 0:
		want = http.StatusNotModified
		status, _, answer, err = d.send(ctx, http.MethodGet, "/v1/changes", "", d.last)
	case 1:
		want = http.StatusOK
		status, _, answer, err = d.get(ctx, d.first)
		if err == nil && strings.Count(answer, `"op":"upsert"`) != 3 {
			return fmt.Errorf("a pull of three changes brought %s", answer)
		}
	case 2:
		want = http.StatusNoContent
		status, _, answer, err = d.send(ctx, http.MethodPost, "/v1/ack", `{"cursor":"`+d.last+`"}`, "")
	}
	if err == nil && status != want {
		err = fmt.Errorf("status %d, want %d: %s", status, want, answer)
	}
	return err
}

// nextTick waits for the next round of what the node does every second.
func (p *countingProxy) nextTick(t *testing.T) {
	t.Helper()
	for seen := p.ticks.Load(); p.ticks.Load() == seen; {
		select {
		case <-p.ticked:
		case <-time.After(time.Minute):
			t.Fatal("no upkeep for a minute")
		}
	}
}

// countingProxy stands before Postgres and counts.
type countingProxy struct {
	dsn string

	statements atomic.Int64 // executed: Query and Execute messages
	ticks      atomic.Int64 // statements that read nudge.settings, which a node does every second
	ticked     chan struct{}
	open, peak atomic.Int64 // connections
}
