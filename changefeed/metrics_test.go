package changefeed_test

import (
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/nudgesync/nudge/changefeed"
)

// What a large transaction takes of the disk is counted, and given back.
func TestSpillIsCounted(t *testing.T) {
	r := newRig(t)
	metrics := prometheus.NewRegistry()
	r.start(func(c *changefeed.Config) {
		c.SpillBytes, c.SpillDir, c.Metrics = 64<<10, t.TempDir(), changefeed.NewMetrics(metrics)
	})
	r.settle()
	for name, v := range spillMetrics(t, metrics) {
		if v != 0 {
			t.Errorf("%s is %v before any", name, v)
		}
	}
	r.exec(`begin; insert into items select i, 1, 1, repeat('x', 100) from generate_series(1, 2000) i; update items set version = 2; commit`)
	r.settle() // its heartbeat is appended after the transaction's files are gone
	m := spillMetrics(t, metrics)
	if len(m) != 4 || m["nudge_feed_spilled_transactions_total"] != 1 || m["nudge_feed_spill_files_total"] < 2 ||
		m["nudge_feed_spill_written_bytes_total"] < 2000*100 || m["nudge_feed_spill_disk_bytes"] != 0 {
		t.Errorf("%v", m)
	}
}

func spillMetrics(t *testing.T, metrics *prometheus.Registry) map[string]float64 {
	t.Helper()
	families, err := metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]float64{}
	for _, f := range families {
		if strings.Contains(f.GetName(), "spill") {
			m := f.GetMetric()[0]
			out[f.GetName()] = m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	return out
}
