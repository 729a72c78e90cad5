package auth

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics are the package's collectors. Labels take a few fixed values.
type Metrics struct {
	fetches *prometheus.CounterVec
	keys    prometheus.Gauge
	ignored *prometheus.GaugeVec
	fetched prometheus.Gauge
	unknown *prometheus.CounterVec

	revocations prometheus.Gauge
	reads       *prometheus.CounterVec
	read        prometheus.Gauge
}

// NewMetrics makes the collectors and registers them; an error means that their names are taken.
func NewMetrics(r prometheus.Registerer) (*Metrics, error) {
	m := &Metrics{
		fetches: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "nudge_jwks_fetches_total", Help: "Fetches of the identity provider's keys, by what came of them.",
		}, []string{"result"}),
		keys: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "nudge_jwks_keys", Help: "Usable keys of the last good set.",
		}),
		ignored: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "nudge_jwks_keys_ignored", Help: "Keys of the last good set that are not used, by why.",
		}, []string{"reason"}),
		fetched: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "nudge_jwks_fetched_timestamp_seconds", Help: "When the last good set was fetched or confirmed. It stays in force for a day.",
		}),
		unknown: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "nudge_jwks_unknown_kid_total", Help: "Tokens whose key is not in force, by what they were told.",
		}, []string{"code"}),
		revocations: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "nudge_revocations", Help: "Revocations in force.",
		}),
		reads: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "nudge_revocation_reads_total", Help: "Looks for new revocations, by result: ok or failed.",
		}, []string{"result"}),
		read: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "nudge_revocations_read_timestamp_seconds", Help: "When revocations were last read. Five minutes later nobody is let in.",
		}),
	}
	var errs []error
	for _, c := range []prometheus.Collector{m.fetches, m.keys, m.ignored, m.fetched, m.unknown, m.revocations, m.reads, m.read} {
		errs = append(errs, r.Register(c))
	}
	return m, errors.Join(errs...)
}

func unregisteredMetrics() *Metrics {
	m, _ := NewMetrics(prometheus.NewRegistry()) // an empty registry takes any name
	return m
}
