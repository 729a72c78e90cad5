package changefeed

import (
	"github.com/prometheus/client_golang/prometheus"
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
	retained     prometheus.Gauge
	oldestOpen   prometheus.Gauge
	oldestReady  prometheus.Gauge
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
		retained:     prometheus.NewGauge(prometheus.GaugeOpts{Name: "nudge_feed_slot_retained_bytes", Help: "WAL that the server keeps for the slot (from its restart_lsn on), as the leader last saw it."}),
		oldestOpen:   prometheus.NewGauge(prometheus.GaugeOpts{Name: "nudge_feed_oldest_transaction_seconds", Help: "Age of the oldest writing transaction, which keeps WAL for the slot; those of other roles are seen with pg_read_all_stats only."}),
		oldestReady:  prometheus.NewGauge(prometheus.GaugeOpts{Name: "nudge_feed_oldest_prepared_seconds", Help: "Age of the oldest prepared transaction, which keeps WAL for the slot."}),
	}
	r.MustRegister(m.leader, m.failures, m.transactions, m.changes, m.malformed, m.epochs, m.gateWaits, m.appendTime, m.batchSize, m.unstored, m.position,
		m.retained, m.oldestOpen, m.oldestReady)
	return m
}
