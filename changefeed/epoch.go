package changefeed

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/jackc/pglogrepl"

	"github.com/nudgesync/nudge/changefeed/change"
	"github.com/nudgesync/nudge/changefeed/changelog"
)

// ReasonOperator is why an epoch ends that an operator ended (nudge epoch new).
const ReasonOperator = "asked for by an operator"

// facts are what connect compares with the log.
type facts struct {
	server      server
	system      pglogrepl.IdentifySystemResult
	slot        slot
	publication publication
	seen        change.Position // by the witness; zero if there is none
}

// doubt says why the log and what the feed finds can't be one unbroken history; "" if they are. The result
// becomes a metric's label: it is one of a few.
func (f *facts) doubt(fresh bool, s changelog.State) string {
	var stored publication
	known := json.Unmarshal(s.Publication, &stored) == nil
	switch {
	case fresh:
		return "first start"
	case s.Doubt != "":
		return s.Doubt
	case s.SystemID != f.system.SystemID:
		return "another database system"
	case s.Timeline != f.system.Timeline:
		return "another timeline" // a promotion or a restore (P5)
	case s.Database != f.system.DBName:
		return "another database"
	case s.Position > change.LSN(f.system.XLogPos):
		return "the server is behind the log" // restored to an earlier place
	case ahead(f.seen, s.Head()):
		return "the log is behind its witness" // restored on the same timeline (A2)
	case !f.slot.exists:
		return "the slot is gone"
	case f.slot.lost() != "":
		return f.slot.lost()
	case f.slot.confirmed > s.Position:
		return "the slot is ahead of the log" // somebody advanced it, or the log was restored (P3)
	case known && stored.differs(f.publication) != "":
		return stored.differs(f.publication)
	}
	return ""
}

// ahead reports whether the witness saw more than the log has: in its epoch, or an epoch that the log has
// not come to. An epoch that counts alike and is another one was begun in doubt, after a restore: no
// device's cursor outlived that.
func ahead(seen, head change.Position) bool {
	return seen.Epoch == head.Epoch && seen.LSN > head.LSN || seen.Epoch.Count() > head.Epoch.Count()
}

// claim makes sure that the slot is ours to drop. At the first start nothing says so but what was noted before it
// was made: a crash may have come between that and the epoch.
func (f *Feed) claim(ctx context.Context, sl slot, first bool) error {
	if first && sl.exists {
		claimed, err := f.cfg.Log.Claimed(ctx)
		if err != nil {
			return err
		}
		if !claimed {
			return fmt.Errorf("check_slot: slot %q is there, and this log has never read it: it may be somebody else's; name another one in source.slot, or, if nobody needs it: select pg_drop_replication_slot(%s)",
				f.cfg.Slot, quoteLiteral(f.cfg.Slot))
		}
	}
	return f.cfg.Log.Claim(ctx)
}

// newEpoch makes the slot anew, and begins the log's next epoch where it starts.
func (f *Feed) newEpoch(ctx context.Context, w *changelog.Writer, found facts, reason string) error {
	whole := ctx
	ctx, cancel := context.WithTimeout(whole, f.cfg.Patience)
	defer cancel()
	if err := f.claim(ctx, found.slot, w.State().Epoch == 0); err != nil {
		return err
	}
	if found.slot.exists {
		if _, err := f.cfg.Source.Exec(ctx, `select pg_drop_replication_slot($1)`, f.cfg.Slot); err != nil {
			return fmt.Errorf("drop slot: %w", err)
		}
	}
	start, err := f.createSlot(whole, found.server) // as long as the oldest open transaction
	if err != nil {
		return err
	}
	ctx, cancelBegin := context.WithTimeout(whole, f.cfg.Patience)
	defer cancelBegin()
	fence, err := f.nextXID(ctx)
	if err != nil {
		return err
	}
	// The publication must be older than the slot (P13); it was read before.
	now, err := f.readPublication(ctx)
	if err != nil {
		return err
	}
	if why := found.publication.differs(now); why != "" {
		return fmt.Errorf("check_publication: %s, while the slot was made", why)
	}
	f.published.Store(&found.publication)
	// The shapes that devices will see in their snapshots at the earliest: another one in the stream is a
	// reset, also the first time (P14).
	relations, err := f.shapes(ctx)
	if err != nil {
		return err
	}
	// Counted from the witness too: an epoch that was handed out before does not come again.
	before := w.State().Epoch
	epoch := max(before, found.seen.Epoch).Next()
	err = w.NewEpoch(ctx, changelog.State{
		Epoch: epoch, Position: start, SystemID: found.system.SystemID, Timeline: found.system.Timeline, Database: found.system.DBName,
		ConfigHash: f.hash, Config: f.wanted, Relations: relations, SnapshotFence: fence, Reason: reason,
		Publication: found.publication.encode(),
	})
	if err != nil {
		return err
	}
	f.cfg.Metrics.epochs.WithLabelValues(reason).Inc()
	if before == 0 {
		f.cfg.Logger.Info("the first epoch begins", "epoch", epoch.String(), "slot", f.cfg.Slot)
	} else {
		f.cfg.Logger.Warn("a new epoch begins: every device starts over with a reset", "reason", reason, "epoch", epoch.String(), "slot", f.cfg.Slot)
	}
	return nil
}
