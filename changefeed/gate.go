package changefeed

import (
	"context"
	"fmt"
)

// widenSQL makes the full transaction id of a decoded one's 32 bits (x.id): the one nearest to the snapshot's
// xmax, in either direction. The snapshot's own upper bits would be wrong around a wraparound (A14).
const widenSQL = `(xmax + ((x.id - (xmax & 4294967295) + 6442450944) & 4294967295) - 2147483648)`

// gateSQL numbers the first transaction of the list that a new snapshot can't see yet, 0 if it sees all.
const gateSQL = `
with s as (select pg_current_snapshot() as snap),
     m as (select snap, pg_snapshot_xmax(snap)::text::bigint as xmax from s)
select coalesce(min(x.n) filter (where not pg_visible_in_snapshot(
         ` + widenSQL + `::text::xid8, snap)), 0), ` + instanceSQL + `
  from m, unnest($1::bigint[]) with ordinality x(id, n)`

// visible returns how many of the leading transactions new snapshots on the primary can see (I6). A
// commit can be decoded before that: while a synchronous standby is away it is flushed, and not visible.
func (a *appender) visible(ctx context.Context, txs []transaction) (int, error) {
	xids := make([]int64, 0, len(txs))
	index := make([]int, 0, len(txs))
	for i := range txs {
		if txs[i].xid != 0 && txs[i].routed() {
			xids = append(xids, int64(txs[i].xid))
			index = append(index, i)
		}
	}
	if len(xids) == 0 {
		return len(txs), nil
	}
	var first int
	var on instance
	if err := a.feed.cfg.Source.QueryRow(ctx, gateSQL, xids).Scan(&first, &on); err != nil {
		return 0, fmt.Errorf("visibility gate: %w", err)
	}
	if err := a.on.same(on); err != nil {
		return 0, fmt.Errorf("visibility gate: %w", err)
	}
	if first == 0 {
		return len(txs), nil
	}
	return index[first-1], nil
}
