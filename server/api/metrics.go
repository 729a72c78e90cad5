package api

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics are the package's collectors. Labels take a few fixed values, never one that a client chose.
type Metrics struct {
	sessions    prometheus.Gauge
	waiting     prometheus.Gauge
	nudges      prometheus.Counter
	frames      *prometheus.CounterVec
	pulls       *prometheus.CounterVec
	pullSeconds *prometheus.HistogramVec
	closes      *prometheus.CounterVec
	refused     *prometheus.CounterVec

	answered map[answerLabels]answerMetrics // the pulls that are not refused: never changes
}

// answerLabels are the labels of an answered pull, and answerMetrics its collectors. To find those by their labels
// each time would cost a pull from memory a twentieth of its time.
type answerLabels struct{ source, code string }

type answerMetrics struct {
	count   prometheus.Counter
	seconds prometheus.Observer
}

// NewMetrics makes the collectors and registers them; an error means that their names are taken.
func NewMetrics(r prometheus.Registerer) (*Metrics, error) {
	m := &Metrics{
		sessions: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "nudge_sessions", Help: "Open sockets, also those that have not said hello, and event streams.",
		}),
		waiting: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "nudge_waiting_pulls", Help: "Pulls over HTTP that wait for something new.",
		}),
		nudges: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "nudge_nudges_total", Help: "Nudges written to sockets, after coalescing.",
		}),
		frames: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "nudge_frames_total", Help: "Frames from and to clients, by type.",
		}, []string{"from", "type"}),
		pulls: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "nudge_pulls_total", Help: "Pulls over HTTP and socket, by the source of the answer and its status or problem code.",
		}, []string{"source", "code"}),
		pullSeconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "nudge_pull_seconds", Help: "Time to answer a pull, by the source of the answer; without the time that it waited for something new.",
			Buckets: prometheus.ExponentialBuckets(0.0001, 2.5, 13), // 0.1 ms to 6 s
		}, []string{"source"}),
		closes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "nudge_session_closes_total", Help: `Ended sockets and event streams by our close code; "client" closed it, "lost" just ended.`,
		}, []string{"code"}),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "nudge_sockets_refused_total", Help: "Sockets and event streams that were refused, by problem code.",
		}, []string{"code"}),
	}
	for _, c := range []prometheus.Collector{m.sessions, m.waiting, m.nudges, m.frames, m.pulls, m.pullSeconds, m.closes, m.refused} {
		if err := r.Register(c); err != nil {
			return nil, err
		}
	}
	m.answered = map[answerLabels]answerMetrics{}
	for _, l := range []answerLabels{{"tail", "304"}, {"tail", "200"}, {"log", "304"}, {"log", "200"}, {"snapshot", "200"}} {
		m.answered[l] = answerMetrics{m.pulls.WithLabelValues(l.source, l.code), m.pullSeconds.WithLabelValues(l.source)}
	}
	return m, nil
}

func (m *Metrics) pulled(source, code string, took time.Duration) {
	if a, ok := m.answered[answerLabels{source, code}]; ok {
		a.count.Inc()
		a.seconds.Observe(took.Seconds())
		return
	}
	m.pulls.WithLabelValues(source, code).Inc()
	m.pullSeconds.WithLabelValues(source).Observe(took.Seconds())
}

func (m *Metrics) received(typ string) { m.frames.WithLabelValues("client", typ).Inc() }
func (m *Metrics) sent(typ string)     { m.frames.WithLabelValues("server", typ).Inc() }
