package api_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/nudgesync/nudge/changefeed/change"
	"github.com/nudgesync/nudge/changefeed/changelog"
	"github.com/nudgesync/nudge/changefeed/route"
	"github.com/nudgesync/nudge/changefeed/snapshot"
	"github.com/nudgesync/nudge/changefeed/tail"
	"github.com/nudgesync/nudge/notify/hub"
	"github.com/nudgesync/nudge/server/admit"
	"github.com/nudgesync/nudge/server/api"
	"github.com/nudgesync/nudge/server/auth"
	"github.com/nudgesync/nudge/server/pull"
	"github.com/nudgesync/nudge/server/wire"
)

const (
	benchUsers = 2000 // who pull in turn
	benchTable = "public.intakes"
	benchRow   = `{"id":"1","user_id":"7","medication_id":"1","status":"taken","dose":1.50,"note":"after breakfast"}`
)

// emptyDatabase has no rows and a log without changes: it is what pulls from memory ask nothing of.
type emptyDatabase struct {
	pull.Log

	at change.Frame
}

func (d emptyDatabase) State(context.Context) (change.Frame, error) { return d.at, nil }

func (d emptyDatabase) Newest(context.Context, int64) (change.Position, error) { return d.at.Next, nil }

func (d emptyDatabase) Stretch(context.Context, change.Position, change.Position, func(change.Change) error) error {
	return nil
}

func (d emptyDatabase) Feed(context.Context) (changelog.State, error) {
	return changelog.State{Epoch: d.at.Epoch, Position: d.at.Next.LSN, Horizon: d.at.Next.LSN, ConfigHash: d.at.Config}, nil
}

func (d emptyDatabase) Page(context.Context, string, string, []string, snapshot.Standing, int, int) (snapshot.Page, error) {
	return snapshot.Page{Done: true}, nil
}

func (d emptyDatabase) Beat(context.Context) error { return nil }

// forgetful takes an answer as net/http does, and keeps nothing but its status.
type forgetful struct {
	header http.Header
	status int
}

func (f *forgetful) Header() http.Header              { return f.header }
func (f *forgetful) WriteHeader(status int)           { f.status = status }
func (f *forgetful) Write(p []byte) (int, error)      { return len(p), nil }
func (f *forgetful) SetWriteDeadline(time.Time) error { return nil }

// benchNode is the public listener's handler over a real engine, tail and verifier, and a way to have the tail
// hear of changes.
func benchNode(b *testing.B) (handler http.Handler, key auth.Key, apply func([]change.Change)) {
	b.Helper()
	must := func(err error) {
		b.Helper()
		if err != nil {
			b.Fatal(err)
		}
	}
	log := slog.New(slog.DiscardHandler)
	routing := &route.Config{Tables: map[string]route.Rule{benchTable: {Owner: "user_id", Key: []string{"id"}}}}
	at := change.Position{Epoch: 1 << 32, LSN: 1000}
	db := emptyDatabase{at: change.Frame{Epoch: at.Epoch, Config: routing.Hash(), Prev: at, Next: at}}

	moved := make(chan struct{}, 1)
	memory, err := tail.New(tail.Config{
		Log: db, Stale: 24 * time.Hour, Logger: log, OnAdvance: func(change.Frame) { moved <- struct{}{} },
	})
	must(err)
	ctx, cancel := context.WithCancel(context.Background())
	ran := make(chan struct{})
	go func() {
		defer close(ran)
		_ = memory.Run(ctx) // it ends with ctx
	}()
	b.Cleanup(func() { cancel(); <-ran })
	<-moved // it is warm

	queue, err := admit.New(admit.Config{Places: 1})
	must(err)
	engine, err := pull.New(pull.Config{
		Tail: memory, Log: db, Rows: db, Queue: queue, Routing: routing, Key: make([]byte, 32), Logger: log,
	})
	must(err)
	key, err = auth.ParseKey("", auth.HS256, []byte(strings.Repeat("k", 32)))
	must(err)
	verifier, err := auth.New(auth.Config{Keys: []auth.Key{key}})
	must(err)
	a, err := api.New(api.Config{
		Engine: engine, Verifier: verifier, Hub: hub.New(), Log: log,
		Limits: api.Limits{DevicePulls: 1e9, UserPulls: 1e9},
	})
	must(err)
	return a.Public(), key, func(changes []change.Change) {
		next := at
		for i := range changes {
			next.LSN += 8
			changes[i].Pos = change.Position{Epoch: at.Epoch, LSN: next.LSN - 4, Seq: 1}
		}
		memory.Apply(change.Frame{Epoch: at.Epoch, Config: routing.Hash(), Prev: at, Next: next, Changes: changes})
		<-moved
		at = next
	}
}

// benchPulls asks with the cursor of another device each time; prepare turns that into the request.
func benchPulls(b *testing.B, changes, status int, prepare func(r *http.Request, cursor string)) {
	b.Helper()
	handler, key, apply := benchNode(b)
	requests := make([]*http.Request, benchUsers)
	var written []change.Change
	for i := range requests {
		user := fmt.Sprint(i)
		token, err := auth.Mint(key, auth.Claims{
			Issued: time.Now(), Expires: time.Now().Add(time.Hour), Named: map[string]string{"sub": user},
		})
		if err != nil {
			b.Fatal(err)
		}
		r := httptest.NewRequestWithContext(b.Context(), http.MethodGet, "/v1/changes", http.NoBody)
		r.Header.Set("Authorization", "Bearer "+token)
		r.Header.Set(wire.HeaderDevice, "phone")
		first := &forgetful{header: http.Header{}}
		handler.ServeHTTP(first, r)
		cursor := first.header.Get(wire.HeaderCursor)
		if first.status >= 400 || cursor == "" {
			b.Fatalf("the first pull: %d %v", first.status, first.header)
		}
		prepare(r, cursor)
		requests[i] = r
		for n := range changes {
			written = append(written, change.Change{
				Scope: change.User(user), Table: benchTable, Op: change.Upsert,
				Key: fmt.Appendf(nil, `{"id":"%d"}`, n), Row: []byte(benchRow),
			})
		}
	}
	if len(written) > 0 {
		apply(written)
	}
	w := &forgetful{header: http.Header{}}
	b.ReportAllocs()
	n := 0
	for b.Loop() {
		clear(w.header)
		w.status = http.StatusOK
		handler.ServeHTTP(w, requests[n%benchUsers])
		if w.status != status {
			b.Fatalf("answered %d %v", w.status, w.header)
		}
		n++
	}
}

// BenchmarkChangesUpToDate is a device that holds everything and asks with its validator.
func BenchmarkChangesUpToDate(b *testing.B) {
	benchPulls(b, 0, http.StatusNotModified, func(r *http.Request, cursor string) { r.Header.Set("If-None-Match", `"`+cursor+`"`) })
}

// BenchmarkChanges3 is a device that is sent three changes.
func BenchmarkChanges3(b *testing.B) {
	benchPulls(b, 3, http.StatusOK, func(r *http.Request, cursor string) { r.URL.RawQuery = "since=" + cursor })
}
