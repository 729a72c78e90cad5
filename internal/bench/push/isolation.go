package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nudgesync/nudge/internal/bench"
)

// onPace is how much of the pace a sender that nothing disturbs has to keep.
const onPace = 0.97

// isolation lets one provider after the other be silent, and then dead, and measures the others.
func (r *runner) isolation(ctx context.Context, s *stock) error {
	worst := bench.Result{Metric: "push.isolation", Unit: "pushes/s", Better: "higher", Must: 0.95}
	for _, ill := range allRoads() {
		if err := s.due(ctx); err != nil {
			return err
		}
		res, err := r.ill(ctx, s, ill.name)
		if err != nil {
			return fmt.Errorf("%s is ill: %w", ill.name, err)
		}
		if worst.Note == "" || res.Ratio < worst.Ratio {
			worst.Subject, worst.Floor, worst.Ratio, worst.Note = res.Subject, res.Floor, res.Ratio, res.Note
		}
		if res.Broken != "" {
			worst.Broken = res.Broken
		}
	}
	r.results = append(r.results, worst)
	return nil
}

// ill is how the others do while one is ill, the worst of them.
func (r *runner) ill(ctx context.Context, s *stock, road string) (worst bench.Result, err error) {
	p, err := r.send(ctx, job{DSN: s.dsn(), Rate: r.paced})
	if err != nil {
		return worst, err
	}
	defer func() {
		err = errors.Join(err, r.fakes.line(context.WithoutCancel(ctx), road, "up"), p.Stop())
	}()
	if _, err := p.rates(ctx, 2*time.Second); err != nil { // connect
		return worst, err
	}
	before, err := p.rates(ctx, r.phase)
	if err != nil {
		return worst, err
	}
	var broken string
	for other, rate := range before {
		if rate < onPace*r.paced { // it would be easy to keep
			broken = fmt.Sprintf("before anything was ill, %s came to %.0f pushes a second of %.0f: the machine is too busy", other, rate, r.paced)
		}
	}
	for _, line := range []string{"silent", "dead"} {
		if err := r.fakes.line(ctx, road, line); err != nil {
			return worst, err
		}
		during, err := p.rates(ctx, r.phase)
		if err != nil {
			return worst, err
		}
		for other, rate := range during {
			ratio := rate / before[other]
			err := r.say("%-22s %-8s %-6s  %-8s %5.0f pushes/s, before %5.0f  %.3f\n", "push.isolation", road, line, other, rate, before[other], ratio)
			if err != nil {
				return worst, err
			}
			if other != road && (worst.Note == "" || ratio < worst.Ratio) {
				worst = bench.Result{
					Subject: rate, Floor: before[other], Ratio: ratio,
					Note: fmt.Sprintf("the worst of all pairs: %s while %s was %s, each paced at %.0f a second", other, road, line, r.paced),
				}
			}
		}
	}
	worst.Broken = broken
	return worst, nil
}

// rates are the pushes a second that are accepted for so long, by road.
func (s sending) rates(ctx context.Context, d time.Duration) (map[string]float64, error) {
	from, err := s.counts()
	if err != nil {
		return nil, err
	}
	began := time.Now()
	select {
	case <-time.After(d):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	to, err := s.counts()
	took := time.Since(began).Seconds()
	out := map[string]float64{}
	for road, n := range to.Accepted {
		out[road] = float64(n-from.Accepted[road]) / took
	}
	return out, err
}
