// Package tail keeps the newest stretch of the change log in memory, so that an up-to-date check
// and a pull of recent changes touch no database (I11).
//
// # The journey
//
//	bus ── frame ──► Apply ──► window ──► OnAdvance ──► hub
//	                   │ gap      ▲
//	                   ▼          │ stretch
//	                 worker ──► change log        pull ──► Since ──► window
//
// The window holds every change in (start, head], of every scope. A cursor in that range is
// answered exactly, and no entry for a scope means that nothing changed. The window's head moves
// only by a frame that follows it without a gap, or by a stretch that the worker read from the log;
// so the range never has a hole (I4, I7). Both are whole transactions, so the head is always a
// commit boundary (I5).
//
// # What can go wrong, and what happens then
//
//   - A frame is lost: the next one does not follow the head. The frames after the hole are kept
//     (boundedly) while the worker reads from the log; until then Since waits.
//   - The last frame is lost, or the bus is away (A7): nothing was heard for Config.Stale. The
//     worker asks the log where it stands, and Since does not answer before it has.
//   - A frame travels as heads only, or the hole is wider than a quarter of the memory budget (A22):
//     up to that much is read; beyond it the window starts anew, empty, at the log's head. Cursors
//     before that are the log's to answer.
//   - A cursor is ahead of the node, or of an epoch the node has not heard of (A13): the log is asked
//     once, and only then the cursor is refused.
//   - The epoch moves: a frame of a later epoch starts a new window. A frame of another epoch that is
//     not later by its counter proves nothing (the counter can repeat after a restore, A2), so it is dropped
//     and does not count as hearing; the log decides once the node is stale. What the log says is
//     adopted, whatever the numbers.
//   - The log is behind the window in the same epoch, as after a crash that took an unflushed end:
//     the window stays, because the log grows back identically (I3), and the case is counted.
//
// Frames must be published after their append is durable (I1): a cursor made from the tail's head
// then never passes the flushed log (A8).
package tail
