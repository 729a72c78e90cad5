package changefeed

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/nudgesync/nudge/changefeed/route"
)

// Metrics are the feed's; main registers them.
type Metrics struct {
	leader       prometheus.Gauge
	failures     prometheus.Counter
	transactions prometheus.Counter
	changes      prometheus.Counter
	malformed    prometheus.Counter
	epochs       *prometheus.CounterVec
	gateWaits    prometheus.Counter
	appendTime   prometheus.Histogram
	batchSize    prometheus.Histogram
	unstored     prometheus.Gauge
	position     prometheus.Gauge
	origins      *prometheus.CounterVec
	spilled      prometheus.Counter
	spillFiles   prometheus.Counter
	spillBytes   prometheus.Counter
	spillDisk    prometheus.Gauge
	retained     prometheus.Gauge
	oldestOpen   prometheus.Gauge
	oldestReady  prometheus.Gauge
	blind        prometheus.Gauge
}

// NewMetrics registers the feed's metrics.
func NewMetrics(r prometheus.Registerer) *Metrics {
	m := &Metrics{
		leader:       prometheus.NewGauge(prometheus.GaugeOpts{Name: "nudge_feed_leader", Help: "1 while this node streams the slot."}),
		failures:     prometheus.NewCounter(prometheus.CounterOpts{Name: "nudge_feed_failures_total", Help: "Times the feed had to start over."}),
		transactions: prometheus.NewCounter(prometheus.CounterOpts{Name: "nudge_feed_transactions_total", Help: "Transactions received."}),
		changes:      prometheus.NewCounter(prometheus.CounterOpts{Name: "nudge_feed_changes_total", Help: "Changes appended to the log."}),
		malformed:    prometheus.NewCounter(prometheus.CounterOpts{Name: "nudge_feed_malformed_total", Help: "Tuples or tables that could not be routed, each answered by a reset."}),
		epochs:       prometheus.NewCounterVec(prometheus.CounterOpts{Name: "nudge_feed_epochs_total", Help: "Epochs begun, by reason."}, []string{"reason"}),
		gateWaits:    prometheus.NewCounter(prometheus.CounterOpts{Name: "nudge_feed_gate_waits_total", Help: "Times a decoded commit was not visible yet (I6)."}),
		appendTime:   prometheus.NewHistogram(prometheus.HistogramOpts{Name: "nudge_feed_append_seconds", Help: "Duration of one append.", Buckets: prometheus.ExponentialBuckets(0.0002, 2, 16)}),
		batchSize:    prometheus.NewHistogram(prometheus.HistogramOpts{Name: "nudge_feed_batch_changes", Help: "Changes per append.", Buckets: prometheus.ExponentialBuckets(1, 4, 10)}),
		unstored:     prometheus.NewGauge(prometheus.GaugeOpts{Name: "nudge_feed_unstored_bytes", Help: "WAL that the server has sent or mentioned and that is not stored yet."}),
		position:     prometheus.NewGauge(prometheus.GaugeOpts{Name: "nudge_feed_position_bytes", Help: "LSN up to which the log is complete."}),
		origins:      prometheus.NewCounterVec(prometheus.CounterOpts{Name: "nudge_feed_origins_ignored_total", Help: "Origin messages that were not believed, by reason: malformed, unsigned, forged."}, []string{"reason"}),
		spilled:      prometheus.NewCounter(prometheus.CounterOpts{Name: "nudge_feed_spilled_transactions_total", Help: "Transactions appended from disk, being too large for memory."}),
		spillFiles:   prometheus.NewCounter(prometheus.CounterOpts{Name: "nudge_feed_spill_files_total", Help: "Files made for transactions too large for memory."}),
		spillBytes:   prometheus.NewCounter(prometheus.CounterOpts{Name: "nudge_feed_spill_written_bytes_total", Help: "Bytes written to such files."}),
		spillDisk:    prometheus.NewGauge(prometheus.GaugeOpts{Name: "nudge_feed_spill_disk_bytes", Help: "Bytes in such files now."}),
		retained:     prometheus.NewGauge(prometheus.GaugeOpts{Name: "nudge_feed_slot_retained_bytes", Help: "WAL that the server keeps for the slot (from its restart_lsn on), as the leader last saw it."}),
		oldestOpen:   prometheus.NewGauge(prometheus.GaugeOpts{Name: "nudge_feed_oldest_transaction_seconds", Help: "Age of the oldest writing transaction, which keeps WAL for the slot; those of other roles are seen with pg_read_all_stats only."}),
		oldestReady:  prometheus.NewGauge(prometheus.GaugeOpts{Name: "nudge_feed_oldest_prepared_seconds", Help: "Age of the oldest prepared transaction, which keeps WAL for the slot."}),
		blind:        prometheus.NewGauge(prometheus.GaugeOpts{Name: "nudge_feed_blind_tables", Help: "Tables whose replica identity lacks owner or key (P11): each update and delete of one resets it for every device."}),
	}
	for _, reason := range []string{originMalformed, originUnsigned, originForged} {
		m.origins.WithLabelValues(reason)
	}
	r.MustRegister(m.leader, m.failures, m.transactions, m.changes, m.malformed, m.epochs, m.gateWaits, m.appendTime, m.batchSize, m.unstored, m.position,
		m.origins, m.spilled, m.spillFiles, m.spillBytes, m.spillDisk, m.retained, m.oldestOpen, m.oldestReady, m.blind)
	return m
}

// follow clears what only a leader knows.
func (m *Metrics) follow() {
	for _, g := range []prometheus.Gauge{m.retained, m.oldestOpen, m.oldestReady, m.unstored, m.blind} {
		g.Set(0)
	}
}

// countSpill counts a new file and, from then on, what is written to it.
func (m *Metrics) countSpill(f route.File, err error) (route.File, error) {
	if err != nil {
		return nil, err
	}
	m.spillFiles.Inc()
	return &countedFile{File: f, metrics: m}, nil
}

// countedFile is used by one goroutine at a time.
type countedFile struct {
	route.File
	metrics *Metrics
	size    float64
}

func (f *countedFile) Write(b []byte) (int, error) {
	n, err := f.File.Write(b)
	f.size += float64(n)
	f.metrics.spillBytes.Add(float64(n))
	f.metrics.spillDisk.Add(float64(n))
	return n, err
}

func (f *countedFile) Close() error {
	f.metrics.spillDisk.Sub(f.size)
	f.size = 0
	return f.File.Close()
}
