package device

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// Stats are for metrics.
type Stats struct {
	Due      map[string]int           // due devices by road
	Oldest   map[string]time.Duration // the age of the one that is due for longest, by road
	Silent   int                      // devices that are due for an hour or more, and not heard of since they were pushed to
	Disabled map[string]int           // devices that are not active, by reason
}

// statsSQL reads partial indexes, not the devices that are well.
const statsSQL = `
select 'due', road, count(*), extract(epoch from now() - min(due_since))::float8,
       count(*) filter (where pushes > 0 and due_since < now() - interval '1 hour')
  from nudge.due where next_at is not null group by road
union all
select 'disabled', coalesce(reason, ''), count(*), 0, 0 from nudge.devices where status <> 'active' group by reason`

// Stats reads them, in one statement.
func (s *Store) Stats(ctx context.Context) (Stats, error) {
	st := Stats{Due: map[string]int{}, Oldest: map[string]time.Duration{}, Disabled: map[string]int{}}
	rows, err := s.cfg.Pool.Query(ctx, statsSQL)
	if err != nil {
		return st, fmt.Errorf("count devices: %w", err)
	}
	var kind, of string
	var count, silent int
	var age float64
	_, err = pgx.ForEachRow(rows, []any{&kind, &of, &count, &age, &silent}, func() error {
		if kind == "disabled" {
			st.Disabled[of] = count
			return nil
		}
		st.Due[of], st.Oldest[of] = count, time.Duration(age*float64(time.Second))
		st.Silent += silent
		return nil
	})
	if err != nil {
		return st, fmt.Errorf("count devices: %w", err)
	}
	return st, nil
}

const (
	trimEvery = time.Minute
	keepWakes = 7 * 24 * time.Hour
	trimMost  = 10_000 // lines at a time
)

// trim drops old lines of the ledger.
func (s *Store) trim(ctx context.Context) error {
	for {
		tag, err := s.cfg.Pool.Exec(ctx, `
delete from nudge.wakes where nudge in (
  select nudge from nudge.wakes where sent_at < now() - $1::interval order by sent_at limit $2)`, keepWakes, trimMost)
		switch {
		case err != nil:
			return fmt.Errorf("trim the wake ledger: %w", err)
		case tag.RowsAffected() < trimMost:
			return nil
		}
	}
}
