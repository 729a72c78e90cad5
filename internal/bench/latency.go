package bench

import (
	"slices"
	"time"
)

// Latencies are those of a run, from the moments at which something was meant to begin.
type Latencies []time.Duration

// Percentile is the latency that p per cent do not exceed, in milliseconds; 0 if there is none. It sorts.
func (l Latencies) Percentile(p float64) float64 {
	if len(l) == 0 {
		return 0
	}
	slices.Sort(l)
	i := int(p / 100 * float64(len(l)))
	return float64(l[min(i, len(l)-1)].Nanoseconds()) / 1e6
}
