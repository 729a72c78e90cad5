package main

import (
	"context"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/nudgesync/nudge/notify/device"
)

// statsEvery is how often devices are counted for metrics.
const statsEvery = 15 * time.Second

// pushMetrics are what is known of devices beyond their pushes.
type pushMetrics struct {
	pulled   *prometheus.HistogramVec
	due      *prometheus.GaugeVec
	oldest   *prometheus.GaugeVec
	silent   prometheus.Gauge
	disabled *prometheus.GaugeVec
	marked   prometheus.Counter
	marking  prometheus.Histogram
}

func newPushMetrics(r prometheus.Registerer) *pushMetrics {
	m := &pushMetrics{
		pulled: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "nudge_push_pulled_seconds", Help: "Time from a push's acceptance by its provider to the pull that it caused on this node, by road.",
			Buckets: prometheus.ExponentialBuckets(0.25, 4, 10), // 250 ms to 18 h
		}, []string{"road"}),
		due: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "nudge_push_due_devices", Help: "Devices that have not acknowledged a change, by road.",
		}, []string{"road"}),
		oldest: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "nudge_push_oldest_due_seconds", Help: "For how long the device has been due that is due for longest, by road.",
		}, []string{"road"}),
		silent: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "nudge_push_silent_devices", Help: "Devices that were pushed to, are due for an hour or more, and were not heard of.",
		}),
		disabled: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "nudge_push_disabled_devices", Help: "Devices that are not pushed to until they register again, by reason.",
		}, []string{"reason"}),
		marked: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "nudge_push_marked_total", Help: "Devices that became due, or due for something newer, in this node's passes.",
		}),
		marking: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "nudge_push_marking_seconds", Help: "Time of a pass over the log that marks due devices.",
			Buckets: prometheus.ExponentialBuckets(0.001, 2.5, 11), // 1 ms to 9.5 s
		}),
	}
	r.MustRegister(m.pulled, m.due, m.oldest, m.silent, m.disabled, m.marked, m.marking)
	return m
}

func (m *pushMetrics) pulledAfter(road string, after time.Duration) {
	m.pulled.WithLabelValues(road).Observe(after.Seconds())
}

func (m *pushMetrics) pass(p device.Pass, took time.Duration) {
	if p.Busy {
		return
	}
	m.marked.Add(float64(p.Marked))
	m.marking.Observe(took.Seconds())
}

// run counts devices until ctx ends.
func (m *pushMetrics) run(ctx context.Context, store *device.Store, log *slog.Logger) error {
	tick := time.NewTicker(statsEvery)
	defer tick.Stop()
	for {
		st, err := store.Stats(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			log.Debug("due devices are not counted", "error", err)
		default:
			m.set(st)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func (m *pushMetrics) set(st device.Stats) {
	m.due.Reset() // what is not there any more counts nothing
	m.oldest.Reset()
	m.disabled.Reset()
	for road, n := range st.Due {
		m.due.WithLabelValues(road).Set(float64(n))
		m.oldest.WithLabelValues(road).Set(st.Oldest[road].Seconds())
	}
	for reason, n := range st.Disabled {
		m.disabled.WithLabelValues(reason).Set(float64(n))
	}
	m.silent.Set(float64(st.Silent))
}
