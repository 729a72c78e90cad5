package main

import (
	"context"
	"fmt"
	"time"

	"github.com/nudgesync/nudge/internal/bench"
)

// marks measures marking: a batch of changes of so many users, of three devices each, is appended and then marked.
func (r *runner) marks(ctx context.Context, s *stock, metric string, users int) error {
	res := bench.Result{Metric: metric, Unit: "ms", Better: "lower"}
	marker := s.store.NewMarker(nil)
	var subjects, floors []float64
	var statements int64
	first := 0
	for pair := range r.pairs + 1 { // the first warms up
		if err := s.settle(ctx); err != nil {
			return err
		}
		began := time.Now()
		if err := s.append(ctx, first, users); err != nil {
			return err
		}
		appended, before := time.Now(), s.statements.n.Load()
		pass, err := marker.Mark(ctx)
		if err != nil {
			return err
		}
		marked := time.Now()
		statements = s.statements.n.Load() - before
		if pass.Busy || pass.More || pass.Changes != batch || pass.Marked != users*roads {
			return fmt.Errorf("%s: of %d changes of %d users: %+v", metric, batch, users, pass)
		}
		first += users
		if pair == 0 {
			continue
		}
		ms := func(d time.Duration) float64 { return d.Seconds() * 1e3 }
		subjects, floors = append(subjects, ms(marked.Sub(appended))), append(floors, ms(appended.Sub(began)))
		err = r.say("%-22s %d  marked in %5.1f ms  appended in %5.1f ms\n", metric, pair, ms(marked.Sub(appended)), ms(appended.Sub(began)))
		if err != nil {
			return err
		}
	}
	res.Note = fmt.Sprintf("%d devices became due, of %d; %d statements, begin and commit among them", users*roads, s.users*roads, statements)
	r.results = append(r.results, bench.Pairs(res, subjects, floors))
	return nil
}
