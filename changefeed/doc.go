// Package changefeed reads the app's logical replication stream, decides whose data changed, and appends
// it to the change log.
//
//	walsender ──► session ──► batch ──► appender ──► change log ──► Publish (bus)
//	    ▲      decode, route  grows while  gate, then       │
//	    │                     the appender one transaction  │ durable
//	    └──────────────── status: write = flush = apply ◄───┘
//
// Two goroutines a connection: the session owns the replication connection (P8) and decodes; the
// appender owns the log's writer. Between them is one batch that grows at transaction boundaries: the
// appender takes all of it whenever it is free, so it is group commit without a timer.
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
//   - I3: routing sees the WAL and the configuration. A new configuration is announced in the WAL, and
//     takes effect at that place in it (A8, A19).
//   - I6: gate.go. A transaction is appended once new snapshots see it.
//   - A2, P3, P5, P9, P13: epoch.go compares server, slot, publication and witness with what was stored; any
//     doubt is a new epoch. slot.go makes the slot, and says what that waits for.
//   - P7: after any failure of log or gate the replication connection closes at once, so that the
//     server's fast shutdown never waits for us.
package changefeed
