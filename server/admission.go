package main

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/nudgesync/nudge/notify/hub"
	"github.com/nudgesync/nudge/server/admit"
	"github.com/nudgesync/nudge/server/config"
)

// newQueue makes the line before the database.
func newQueue(d *databases, l *config.Limits, r prometheus.Registerer) (*admit.Queue, error) {
	m, err := admit.NewMetrics(r)
	if err != nil {
		return nil, err
	}
	places := d.places()
	return admit.New(admit.Config{
		Places: places, Snapshots: min(d.snapshots(l.Snapshots), max(1, places-1)), Waiting: l.Queue, Wait: l.QueueWait, Metrics: m,
	})
}

// capacity is how many pages the line lets through in a second, by where they are read.
func capacity(q *admit.Queue) func(hub.Source) float64 {
	return func(from hub.Source) float64 {
		if from == hub.Tables {
			return q.Rate(admit.Snapshot)
		}
		return q.Rate(admit.Foreground)
	}
}

// places is how many pulls may use the pools at once. One has a connection at a time, of the log's pool or of
// the snapshots', so none of them waits for a connection, and what is left over (a third of a pool, up to three
// connections) is the feed's, the tail's and retention's. Upkeep has a pool of its own.
func (d *databases) places() int {
	size := int(min(d.log.Config().MaxConns, d.snapshot.Config().MaxConns))
	return max(1, size-min(3, max(1, size/3)))
}
