// Package push sends silent pushes to due devices: those that have not acknowledged a change in time.
//
//	Store.Claim ──► lane ──► workers ──► Sender ──► APNs, FCM, a Web Push service
//	                  ▲         │ answer
//	             pace, breaker ◄┴─► judge ──► settler ──► Store.Settle
//
// A lane is one sender (a provider, and there a team or project and an environment) with everything of its
// own: workers, pace, breaker, queue. Lanes share nothing but the store, so that a provider that is slow, dead
// or speaks garbage delays nobody else.
//
// What holds:
//
//  1. A device stays due until it acknowledged. Nothing here clears it: an accepted push only says when the
//     next one may go. Whatever is lost between two steps comes back when its claim's lease has passed.
//  2. No push starts that could not be answered and settled within its claim's lease; what waited too long is
//     let go.
//  3. No device is disabled on a doubtful answer (one that a wrong environment or key would bring about as well)
//     until the lane has seen what comes next. Many of them open the breaker, and disable nobody.
//  4. A token is in no log line, error or metric.
//
// What an answer means is decided in two places: a Sender knows its provider's words and says one Outcome; the
// lane (judge.go) knows the history and says what becomes of the device.
package push
