package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nudgesync/nudge/changefeed/change"
	"github.com/nudgesync/nudge/changefeed/changelog"
	"github.com/nudgesync/nudge/internal/devpg/pgtest"
	"github.com/nudgesync/nudge/migrations"
)

func TestTailCommand(t *testing.T) {
	dsn := pgtest.Database(t)
	if _, err := migrations.Up(t.Context(), dsn); err != nil {
		t.Fatal(err)
	}
	pool := pgtest.Pool(t, dsn)
	w, _ := changelog.Open(pool, "nudge").Writer(t.Context(), "test", time.Hour)
	epoch := change.Epoch(0).Next()
	err := w.NewEpoch(t.Context(), changelog.State{Epoch: epoch, Position: 100, Config: []byte("{}"), Reason: "first start"})
	if err != nil {
		t.Fatal(err)
	}
	write := func(lsn change.LSN, scope change.Scope, op change.Op, row string) {
		t.Helper()
		c := change.Change{Pos: change.Position{Epoch: epoch, LSN: lsn, Seq: 1}, Scope: scope, Table: "public.notes", Op: op, CommittedAt: time.Unix(0, 0)}
		if op == change.Reset {
			c.Reason = change.ReasonTruncate
		} else {
			c.Key, c.Row = []byte(`{"id":1}`), []byte(row)
		}
		if err := w.Append(t.Context(), changelog.Batch{Next: lsn + 1, Changes: []change.Change{c}}); err != nil {
			t.Fatal(err)
		}
	}
	write(110, "user:7", change.Upsert, "{\"id\":1,\"doc\":{\"a\":\n1}}")
	write(120, "user:8", change.Upsert, `{"id":2}`)
	write(130, change.All, change.Reset, "")

	file := filepath.Join(t.TempDir(), "nudge.yaml")
	yaml := "version: 1\nsource: {dsn: \"" + dsn + "\"}\ntables: {public.notes: {owner: user_id}}\n"
	if err := os.WriteFile(file, []byte(yaml), 0o600); err != nil {
		t.Fatal(err)
	}
	var out, errs bytes.Buffer
	if code := run(t.Context(), []string{"tail", "--config", file, "--all", "--once", "--scope", "user:7"}, nil, &out, &errs, nil); code != exitOK {
		t.Fatalf("exit %d: %s", code, &errs)
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(lines) != 2 || !strings.Contains(lines[0], `"doc":{"a":1}`) || !strings.Contains(lines[1], `"reason":"truncate"`) {
		t.Errorf("the scope's changes, one a line:\n%s", &out)
	}

	// Following: only what is new, as it comes, until it is told to stop.
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	r, pipe := io.Pipe()
	ended := make(chan int, 1)
	go func() {
		ended <- run(ctx, []string{"tail", "--config", file}, nil, pipe, io.Discard, nil)
		_ = pipe.Close()
	}()
	// It has begun once it has a connection; what is written from then on, again and again, comes.
	scanner := bufio.NewScanner(r)
	got := make(chan string)
	go func() {
		defer close(got)
		for scanner.Scan() {
			got <- scanner.Text()
		}
	}()
	var line string
	for lsn := change.LSN(140); line == ""; lsn += 10 {
		write(lsn, "user:7", change.Upsert, `{"id":3}`)
		select {
		case line = <-got:
		case <-time.After(100 * time.Millisecond):
		}
	}
	var v tailLine
	if err := json.Unmarshal([]byte(line), &v); err != nil || v.Scope != "user:7" || v.Op != "upsert" || string(v.Row) != `{"id":3}` {
		t.Errorf("%s: %v", line, err)
	}
	stop()
	for range got {
		continue
	}
	if code := <-ended; code != exitOK {
		t.Errorf("exit %d", code)
	}
}
