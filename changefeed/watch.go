package changefeed

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/nudgesync/nudge/changefeed/change"
	"github.com/nudgesync/nudge/changefeed/changelog"
	"github.com/nudgesync/nudge/changefeed/route"
)

// watcher looks at the catalog for what the WAL does not tell: tables that were dropped, renamed or made
// anew, columns of tables that nobody writes to, partitions that came, went or were truncated, types whose
// values read differently. It acts on none of it. It writes what it saw into the WAL, and the session acts on
// it there (A19), so that the log stays a function of the WAL (I3).
type watcher struct {
	feed *Feed
	key  []byte
	on   instance // where the stream is

	blind []string   // tables, as last seen
	told  change.LSN // where its last message stands; nothing is compared before the log has passed it
}

// run looks until ctx ends, at once and then every Config.WatchEvery, or when it is asked to. Its error ends
// the stream.
func (w *watcher) run(ctx context.Context) error {
	tick := time.NewTicker(w.feed.cfg.WatchEvery)
	defer tick.Stop()
	for {
		if err := w.feed.patiently(ctx, func(ctx context.Context, _ func()) error { return w.look(ctx) }); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		case <-w.feed.looks:
		}
	}
}

// look compares the catalog with the shapes in force, and tells the WAL what differs. A catalog or log that
// can't be read now is looked at again later.
func (w *watcher) look(ctx context.Context) error {
	f := w.feed
	state, err := f.cfg.Log.Feed(ctx)
	if err != nil {
		f.cfg.Logger.Debug("the watcher can't read the log's state", "error", err)
		return nil
	}
	if state.Position <= w.told || state.ConfigHash != f.hash {
		return nil // what was told is not in force yet
	}
	// The publication is read before the shapes and judged after them: what it may lack shows in those too, and is
	// told before the stream ends for it.
	pub, err := f.readPublication(ctx)
	if err != nil {
		return err
	}
	if err := pub.readOn(w.on); err != nil {
		return err
	}
	if err := w.lookAtIdentities(ctx); err != nil && ctx.Err() == nil {
		f.cfg.Logger.Warn("replica identities could not be looked at; trying again", "error", err)
	}
	sights, err := f.changedTables(ctx, state.Relations)
	if err == nil && len(sights) > 0 {
		w.told, err = f.tell(ctx, w.on, w.key, sights, nil)
	}
	if errors.Is(err, errTwoServers) {
		return err
	}
	if err != nil {
		if ctx.Err() == nil {
			f.cfg.Logger.Warn("the catalog could not be compared with what is streamed; trying again", "error", err)
		}
		return nil
	}
	if len(sights) > 0 {
		return nil // what devices must hear of comes first: an error ends the stream
	}
	return f.judge(pub)
}

// lookAtIdentities says which tables have lost their replica identity, or have one again (P11). The session sees
// that by itself, with the next change of the table. By then every change costs every device a reset, and
// somebody could have mended it.
func (w *watcher) lookAtIdentities(ctx context.Context) error {
	f := w.feed
	now, err := route.Blind(ctx, f.cfg.Source, f.cfg.Routing)
	if err != nil {
		return err
	}
	for _, name := range now {
		if !slices.Contains(w.blind, name) {
			f.cfg.Logger.Error("a table's replica identity, or that of a partition, does not say whose row is gone: every update and delete becomes a reset for every device until it is mended",
				"table", name, "hint", "run nudge check")
		}
	}
	for _, name := range w.blind {
		if !slices.Contains(now, name) {
			f.cfg.Logger.Info("a table's replica identity is mended", "table", name)
		}
	}
	w.blind = now
	f.cfg.Metrics.blind.Set(float64(len(now)))
	return nil
}

// Look has the watcher compare the catalog with what is streamed now, not only at its next turn. It does
// not wait for it, and does nothing while this feed does not stream.
func (f *Feed) Look() { signal(f.looks) }

// shapes are the configured tables as the catalog has them now, encoded.
func (f *Feed) shapes(ctx context.Context) (map[string]string, error) {
	seen, err := route.Look(ctx, f.cfg.Source, f.cfg.Publication, f.cfg.Routing.Names())
	if err != nil {
		return nil, err
	}
	out := make(map[string]string, len(seen))
	for name, sight := range seen {
		out[name] = sight.Shape.Encode()
	}
	return out, nil
}

// changedTables are the tables whose shape is not that of relations, the stored ones.
func (f *Feed) changedTables(ctx context.Context, relations map[string]string) ([]route.Sight, error) {
	names := f.cfg.Routing.Names()
	seen, err := route.Look(ctx, f.cfg.Source, f.cfg.Publication, names)
	if err != nil {
		return nil, err
	}
	stored := decodeShapes(relations)
	var out []route.Sight
	for _, name := range names {
		sight, old := seen[name], stored[name]
		sight.Shape.Truncated = old.Truncated
		if sight.Shape.Encode() == old.Encode() {
			continue
		}
		if err := f.findEmpty(ctx, sight, &old); err != nil {
			return nil, err
		}
		out = append(out, *sight)
	}
	return out, nil
}

// findEmpty looks which partitions of a sight are new and hold nothing, and leaves out of it what tells nothing
// new. A partition without a single page never had a row that is still there; unlike a SELECT, its size can be
// asked for without a right to its rows. On 14, which goes on to treat a table that was attached as the table that
// it was (P12), only what was made as a partition counts.
func (f *Feed) findEmpty(ctx context.Context, sight *route.Sight, old *route.Shape) error {
	var attached []uint32
	for id, part := range sight.Shape.Parts {
		was, known := old.Parts[id]
		switch {
		case !known || was.Attached != part.Attached:
			attached = append(attached, id)
			delete(sight.Writers, id)
		case was.File == part.File:
			delete(sight.Writers, id)
		}
	}
	if len(attached) == 0 {
		return nil
	}
	rows, err := f.cfg.Source.Query(ctx, `
select p.oid from unnest($1::oid[]) p(oid)
 where pg_relation_size(p.oid) = 0
   and (current_setting('server_version_num')::int >= 150000 or exists (
       select from pg_inherits i
         join pg_attribute a on a.attrelid = i.inhrelid and a.attnum = -1
        where i.inhrelid = p.oid and i.xmin = a.xmin))
 order by p.oid`, attached)
	if err != nil {
		return fmt.Errorf("look at new partitions: %w", err)
	}
	if sight.Empty, err = pgx.CollectRows(rows, pgx.RowTo[uint32]); err != nil {
		return fmt.Errorf("look at new partitions: %w", err)
	}
	return nil
}

// tell writes sights into the WAL, in one transaction, with a new configuration if there is one. It returns
// where that stands: the log holds it once its position is past it.
func (f *Feed) tell(ctx context.Context, on instance, key []byte, sights []route.Sight, config *uint64) (at change.LSN, err error) {
	err = pgx.BeginFunc(ctx, f.cfg.Source, func(tx pgx.Tx) error {
		var xid int64
		var here instance
		if err := tx.QueryRow(ctx, `select pg_current_xact_id()::text::bigint, `+instanceSQL).Scan(&xid, &here); err != nil {
			return err
		}
		if err := on.same(here); err != nil { // another server's WAL is not what is streamed
			return err
		}
		emit := func(prefix string, content []byte) error {
			var lsn string
			err := tx.QueryRow(ctx, `select pg_logical_emit_message(true, $1, $2::bytea)::text`, prefix, content).Scan(&lsn)
			if err != nil {
				return err
			}
			at, err = change.ParseLSN(lsn)
			return err
		}
		for i := range sights {
			content, err := sealSight(key, uint32(xid), &sights[i])
			if err != nil {
				return err
			}
			if err := emit(schemaPrefix, content); err != nil {
				return err
			}
		}
		if config != nil {
			return emit(configPrefix, []byte(configContent(*config)))
		}
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("write a message into the WAL: %w", err)
	}
	return at, nil
}

// announce has the WAL say that the configuration is this feed's from there on, and what its tables are. It
// takes effect at that place; what was written before is routed as it was then (A8).
func (f *Feed) announce(ctx context.Context, on instance, key []byte, state *changelog.State) error {
	sights, err := f.changedTables(ctx, state.Relations)
	if err != nil {
		return err
	}
	_, err = f.tell(ctx, on, key, sights, &f.hash)
	return err
}

// sealSight is a sight as the content of a message. Anyone with a connection can emit one (P23), so it is
// signed, for its own transaction: a copy in another one is worth nothing.
func sealSight(key []byte, xid uint32, sight *route.Sight) ([]byte, error) {
	text, err := json.Marshal(sight)
	if err != nil {
		return nil, err
	}
	return append(signature(key, xid, text), text...), nil
}

// openSight reads the content of a message; not ok if it is none of ours.
func openSight(key []byte, xid uint32, content []byte) (s route.Sight, ok bool) {
	if len(content) < sha256.Size {
		return s, false
	}
	text := bytes.Clone(content[sha256.Size:]) // content aliases the read buffer (P27)
	if !hmac.Equal(content[:sha256.Size], signature(key, xid, text)) {
		return s, false
	}
	return s, json.Unmarshal(text, &s) == nil
}

func signature(key []byte, xid uint32, text []byte) []byte {
	mac := hmac.New(sha256.New, key)
	_, _ = mac.Write(binary.BigEndian.AppendUint32(nil, xid)) // never fails
	_, _ = mac.Write(text)
	return mac.Sum(nil)
}
