package push

import "github.com/prometheus/client_golang/prometheus"

// Metrics are the dispatcher's collectors. Labels take a few fixed values: senders are the configured lanes,
// reasons the providers' known ones.
type Metrics struct {
	attempts *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
	breaker  *prometheus.GaugeVec
	claimed  *prometheus.CounterVec
	mints    *prometheus.CounterVec
}

// NewMetrics makes the collectors and registers them; an error means that their names are taken.
func NewMetrics(r prometheus.Registerer) (*Metrics, error) {
	m := &Metrics{
		attempts: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "nudge_push_attempts_total", Help: "Pushes that were sent, by sender, outcome and the provider's reason.",
		}, []string{"sender", "outcome", "reason"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "nudge_push_answer_seconds", Help: "Time until the provider answered, or the attempt was given up, by sender.",
			Buckets: prometheus.ExponentialBuckets(0.001, 2.5, 11), // 1 ms to 9.5 s
		}, []string{"sender"}),
		breaker: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "nudge_push_breaker_state", Help: "The sender's breaker: 0 closed, 1 half-open, 2 open.",
		}, []string{"sender"}),
		claimed: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "nudge_push_claimed_total", Help: "Due devices that were claimed, by sender.",
		}, []string{"sender"}),
		mints: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "nudge_push_mints_total", Help: "Provider tokens that were signed, by APNs team.",
		}, []string{"team"}),
	}
	for _, c := range []prometheus.Collector{m.attempts, m.seconds, m.breaker, m.claimed, m.mints} {
		if err := r.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// Mints counts the provider tokens of an APNs team.
func (m *Metrics) Mints(team string) prometheus.Counter { return m.mints.WithLabelValues(team) }
