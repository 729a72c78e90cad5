// Package admit is the door before Postgres: whatever of a pull touches the database takes one of a fixed
// number of places first, and waits in line for it (DESIGN §8).
//
//	          line of each class, FIFO            places
//	pull ──► foreground  ▫▫▫▫▫▫▫▫▫▫▫ ─┐         ┌───────┐
//	         woken       ▫▫▫▫        ─┼─ next ─►│ ▪▪▪▪▪ │──► Postgres
//	         snapshot    ▫▫▫▫▫▫▫▫▫   ─┘         └───────┘
//	          │ full, hopeless, too late
//	          └──► Refusal: come back after
//
// # Who is next
//
// The most urgent class that waits; within a class whoever came first. A class that was passed over four times
// in a row is next, so that of six places each of the lower classes gets one at least, whatever comes above it.
//
// Snapshots have a ceiling of their own below that of all places, and so has a user: whoever holds as many
// places as one user may is passed over until one comes free. With the bound on how many of a user's wait, no
// search for the next one looks at more than a few hundred.
//
// # Who is refused
//
// Who would wait beyond the bound of the class or of the user; who has waited for as long as the class may; and
// who can be told at once that it would come to that: by how many are ahead and by how long places are held (a
// moving mean), or because no place has moved for that long. A refusal never waits for anything.
//
// A refusal says when to come back. The times are handed out like places in a line that stands outside: each is
// later than the one before it, up to a minute, at four times the rate that was measured to be served. So those who
// were refused come back spread out, and the places stay in use.
//
// # How
//
// One mutex; who waits does so in its own goroutine on a channel that is closed when it has its place. Nothing runs
// in the background. A place that comes free while its taker gives up is passed on.
package admit
