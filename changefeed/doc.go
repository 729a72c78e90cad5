// Package changefeed reads the app's logical replication stream, decides whose data changed, and appends
// it to the change log.
//
//	walsender ──► session ──► batch ──► appender ──► change log ──► Publish (bus)
//	    ▲      decode, route  grows while  gate, then       │
//	    │                     the appender one transaction  │ durable
//	    └──────────────── status: write = flush = apply ◄───┘
//
// Three goroutines a connection: the session owns the replication connection (P8) and decodes; the
// appender owns the log's writer; the third watches the source beside the stream (pulse.go). Between the
// first two is one batch that grows at transaction boundaries: the appender takes all of it whenever it is
// free, so it is group commit without a timer. While it is at work the session lets what arrives gather, for 2 ms at
// most (rest.go).
//
// A transaction that is too large for memory (Config.SpillBytes) is gathered in temporary files without
// names, folded there, and streamed into one append (P21).
//
// What holds:
//
//   - I1, P1: the positions reported to the server are the durable one, nothing else. A keepalive's WAL
//     end is adopted only when nothing received is unstored, is stored before it is reported, and only
//     once it is far enough to be worth a commit (A10).
//   - I2, P10: changelog.Writer fences; a redelivered transaction stands below the stored position and
//     is skipped.
//   - I3: routing sees the WAL, the configuration and the stored shapes of tables. A new configuration is
//     announced in the WAL, and takes effect at that place in it (A8). So is what the watcher, a third
//     goroutine, sees in the catalog and the WAL does not tell (A19): signed with a key that the log has,
//     which two feeds over one WAL must share to write the same log.
//   - I6: gate.go. A transaction is appended once new snapshots see it.
//   - A2, P3, P5, P9, P13: epoch.go compares server, slot, publication and witness with what was stored; any
//     doubt is a new epoch. slot.go makes the slot, and says what that waits for.
//   - P4: much WAL that held nothing for us is let go of by the server, because we bring it to (pulse.go).
//   - P7, A21: after any failure of log or gate the replication connection closes at once, so that the
//     server's fast shutdown never waits for us. A log that stands still fails nothing; so while anything is
//     unstored, the source is asked for a sign of life beside the stream (pulse.go).
//   - P8: no call waits for ever: each to source or log ends after Config.Patience, a long append after that
//     long without progress; the stream's own silence ends after twice wal_sender_timeout. Only the making of
//     a slot may take as long as the oldest open transaction.
//   - P9: what keeps the feed, its successor or every snapshot waiting is named by Waiting and said once. A slot that
//     was there before the first start is refused, unless this log noted that it was about to make it.
//   - P10: who finds the slot free ends what its predecessor left open in the log, so that a feed that was
//     stopped in mid-append locks nobody out.
package changefeed
