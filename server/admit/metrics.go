package admit

import "github.com/prometheus/client_golang/prometheus"

// Metrics are the queue's collectors. Labels take a few fixed values.
type Metrics struct {
	waiting *prometheus.GaugeVec
	held    *prometheus.GaugeVec
	seconds *prometheus.HistogramVec
	refused *prometheus.CounterVec
}

// NewMetrics makes the collectors and registers them; an error means that their names are taken.
func NewMetrics(r prometheus.Registerer) (*Metrics, error) {
	m := &Metrics{
		waiting: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "nudge_queue_waiting", Help: "Pulls that wait for a place before the database, by class.",
		}, []string{"class"}),
		held: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "nudge_queue_held", Help: "Places before the database that are held, by class.",
		}, []string{"class"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "nudge_queue_wait_seconds", Help: "Time that pulls waited for the place that they got, by class.",
			Buckets: prometheus.ExponentialBuckets(0.0001, 4, 9), // 0.1 ms to 6.5 s
		}, []string{"class"}),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "nudge_queue_refused_total", Help: "Pulls that got no place before the database, by class and reason: full, hopeless, late, user.",
		}, []string{"class", "reason"}),
	}
	for _, c := range []prometheus.Collector{m.waiting, m.held, m.seconds, m.refused} {
		if err := r.Register(c); err != nil {
			return nil, err
		}
	}
	for c := range Class(classes) { // so that they show before the first storm
		m.waiting.WithLabelValues(c.String())
		m.held.WithLabelValues(c.String())
	}
	return m, nil
}
