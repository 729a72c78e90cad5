// Package provider simulates Apple's, Google's and the browsers' push services, and phones behind them,
// so that a sender can be tested against their refusals, quotas and moods. It is a stranger to nudge: any
// sender may use it, from Go with [Start], or over HTTP with "clientsim providers".
//
//	sender ──h2, TLS──► APNs, sandbox   ┐                   ┌► app runs (Wake, wake_url)
//	       ──h2, TLS──► FCM, its tokens ├► judge, accept ──►│  phone: held, dropped, shown
//	       ──h2, TLS──► Web Push        ┘     │             └► by its platform's rules
//	                                          ▼
//	test ────HTTP─────► control API ──► faults, lines, switches, clock, activity log
//
// The providers check what the real ones check and answer in their words (apns.go, fcm.go, webpush.go).
// APNs has an HTTP/2 server of its own (h2.go), for one stream until a valid token and for GOAWAY with a reason.
// Phones follow platform.go: what the real platform does not promise, the seed decides. Where Apple or a
// push service publishes no number (requests for one token, bad tokens a connection survives), ours is a guess, and
// is called one.
//
// Time. Phones, quotas and lifetimes follow one clock: real time, plus what [Providers.Advance] added. What a
// sender compares with its own clock (a provider token's age, an assertion, VAPID's exp, a 410's timestamp)
// follows real time plus [Providers.Skew]: so an hour can be skipped without all senders' tokens expiring, and
// a sender's clock can be wrong without the phones noticing.
//
// Misbehaviour. A [Fault] is played on requests: by token prefix, by number, by chance. A [Line] is the
// network of a whole provider: dead or silent.
//
// The control API, on loopback, in JSON; "clientsim providers --help" lists the bodies:
//
//	GET    /                       addresses, teams, projects
//	POST   /phones                 a PhoneConfig, and count
//	GET    /phones/{id}            PATCH changes Switches
//	POST   /phones/{id}/{act}      launch, rotate, reinstall, uninstall, restore {"lag"}
//	POST   /faults                 a Fault; GET lists; DELETE /faults and /faults/{id}
//	POST   /lines/{name}/{line}    up, dead, silent
//	POST   /goaway                 {"reason"}
//	GET    /clock                  POST {"advance", "skew"}
//	GET    /log                    ?since=&wait=&provider=&event=&phone=&nudge=: entries
//	GET    /stats                  counters
package provider
