package main

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/nudgesync/nudge/changefeed/changelog"
)

// retention drops what is older than the log keeps.
type retention struct {
	journal *changelog.Log
	keep    time.Duration
	log     *slog.Logger
	dropped prometheus.Counter
	age     prometheus.Gauge
}

func newRetention(journal *changelog.Log, keep time.Duration, log *slog.Logger, metrics prometheus.Registerer) *retention {
	r := &retention{
		journal: journal, keep: keep, log: log,
		dropped: prometheus.NewCounter(prometheus.CounterOpts{Name: "nudge_log_segments_dropped_total", Help: "Segments of the change log that this node dropped, being older than log.retention."}),
		age:     prometheus.NewGauge(prometheus.GaugeOpts{Name: "nudge_log_horizon_age_seconds", Help: "How far back the change log reaches: a device that was away for longer starts over. Looked at once a minute."}),
	}
	metrics.MustRegister(r.dropped, r.age)
	return r
}

// run looks every minute until ctx ends.
func (r *retention) run(ctx context.Context) error {
	tick := time.NewTicker(time.Minute)
	defer tick.Stop()
	for now := time.Now(); ; {
		r.retain(ctx, now)
		select {
		case <-ctx.Done():
			return nil
		case now = <-tick.C:
		}
	}
}

func (r *retention) retain(ctx context.Context, now time.Time) {
	dropped, err := r.journal.Retain(ctx, now.Add(-r.keep))
	if err != nil && ctx.Err() == nil {
		r.log.Warn("old changes were not dropped; trying again in a minute", "error", err)
	}
	if dropped > 0 {
		r.log.Info("dropped old changes", "segments", dropped)
	}
	r.dropped.Add(float64(dropped))
	age, err := r.journal.HorizonAge(ctx)
	switch {
	case err == nil:
		r.age.Set(age.Seconds())
	case !errors.Is(err, changelog.ErrNoEpoch) && ctx.Err() == nil:
		r.log.Debug("the horizon's age is not known", "error", err)
	}
}
