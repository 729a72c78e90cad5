// Package snapshot reads the rows that a user owns from the app's live tables, page by page in key order,
// on the source's primary or on a read replica.
//
// A snapshot starts from a position read before its first page; whatever is committed later is replayed
// from the log over it. I6 makes that exact on the primary: a commit that the log holds at the start is
// visible to every page.
//
// A page may also hold what the log does not have yet, or, under asynchronous commit, what a crash can
// still take back. So every page says how far the WAL went when it was read (Page.Floor), is handed out
// only once the WAL is flushed up to there, and the device is told that it is complete only when the log
// has passed it (A5).
//
// # On a replica
//
// A replica is behind, and it need not be a replica of ours. Before each page, on the page's connection and in
// an earlier statement, a Reader looks where the server stands, and it looks again behind the page:
//
//	the same system, database, timeline    or the page is of another history
//	replayed strictly past the position    the position may be where a commit's record begins, and the
//	                                       replay position is where the last replayed record ends (A24)
//	no older transaction open              as on the primary (A4). A standby counts every id up to the
//	                                       newest that it met in the WAL as open until it replays the end,
//	                                       also a prepared one's; subtransactions are younger than theirs
//
// The timeline is that of the WAL that the replica receives: the only one that a standby tells at once. It is
// asked for again behind the page because it never goes back: what was replayed in between came along the
// same one. A replica that receives nothing is waited for; one that has been promoted is not read.
//
// The floor of its page is its replay position, a little further on: see standbyFloor. Nothing has to be
// flushed: a primary sends only what it has flushed, and a standby passes on only what it was sent.
//
// A heartbeat needs the primary. One is needed before a page only if the replica stands exactly at the
// position: then nothing may follow by itself.
//
// A page that can't be had from the replica (ErrBehind, ErrForeign) is not read from the primary instead. Who
// names a replica wants the primary left alone, most of all when everybody starts at once; and the role that
// the primary is followed with need not be allowed to read a row. The device asks again.
//
// The cursor says nothing of where its pages came from: any node may go on with it, on a replica or not.
package snapshot
