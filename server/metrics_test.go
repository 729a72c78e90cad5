package main

import (
	"bufio"
	"context"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nudgesync/nudge/internal/devpg/pgtest"
	"github.com/nudgesync/nudge/server/config"
)

// An idle node shows what may go wrong at zero; and the settings of spilling and of origins reach the feed.
func TestMetricsOfANode(t *testing.T) {
	s := newSite(t, pgtest.Database(t))
	s.env = append(s.env, "NUDGE_LIMITS_SPILL_BYTES=1MiB", "NUDGE_LIMITS_SPILL_DIR="+t.TempDir(), "NUDGE_SOURCE_ORIGIN_SECRET="+signingKey)
	s.attach(t)
	cfg, _, err := config.Load(config.Source{Path: s.yaml, Env: s.env})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ready, ended := make(chan string, 1), make(chan error, 1)
	go func() {
		ended <- serveNode(ctx, cfg, slog.New(slog.DiscardHandler), serveOptions{Ready: func(_, admin string) { ready <- admin }})
	}()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	admin := <-ready

	const spilled, ignored = "nudge_feed_spilled_transactions_total", `nudge_feed_origins_ignored_total{reason="unsigned"}`
	idle := metricsOf(t, admin)
	for _, name := range []string{
		spilled, ignored, `nudge_feed_origins_ignored_total{reason="forged"}`, `nudge_feed_origins_ignored_total{reason="malformed"}`,
		"nudge_feed_spill_files_total", "nudge_feed_spill_written_bytes_total", "nudge_feed_spill_disk_bytes", "nudge_log_segments_dropped_total",
	} {
		if v, ok := idle[name]; !ok || v != 0 {
			t.Errorf("%s is %v, shown: %v", name, v, ok)
		}
	}
	if _, ok := idle["nudge_log_horizon_age_seconds"]; !ok {
		t.Error("no nudge_log_horizon_age_seconds")
	}

	execute(t, s.admin, `begin; select nudge.origin('phone'); insert into intakes select i, 7, repeat('x', 1000) from generate_series(10, 2000) i; commit`)
	for now := idle; now[spilled] != 1 || now[ignored] != 1; now = metricsOf(t, admin) {
		select {
		case <-t.Context().Done():
			t.Fatal(now)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// metricsOf is /metrics, by name and labels as they are printed.
func metricsOf(t *testing.T, admin string) map[string]float64 {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+admin+"/metrics", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	out := map[string]float64{}
	for lines := bufio.NewScanner(res.Body); lines.Scan(); {
		name, value, _ := strings.Cut(lines.Text(), " ")
		if v, err := strconv.ParseFloat(value, 64); err == nil {
			out[name] = v
		}
	}
	return out
}
