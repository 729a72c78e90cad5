package wire

// Close codes. 4500–4999: stop until the app or user did something. All others, also unknown ones and
// a connection that ends without a code: reconnect with backoff. The close reason is for people
// and logs (see CloseReason); programs read the code.
const (
	CloseNotText      = 1003 // a binary frame: the protocol is text
	CloseNotUTF8      = 1007
	CloseTooBig       = 1009 // a frame above MaxClientFrame
	CloseInternal     = 1011 // an error on our side
	CloseDrain        = 1012 // this node goes away
	CloseOverload     = 1013 // overload, or a token that can't be verified now: keep it, try again
	CloseTokenExpired = 4001
	CloseHelloTimeout = 4002
	CloseTooSlow      = 4003
	CloseRate         = 4029
	CloseBadToken     = 4501
	CloseRevoked      = 4502
	CloseProtocolOld  = 4503
	CloseReplaced     = 4504 // the same device opened another socket
)

// Cause is why a socket was closed: the Code of a problem, or one of these.
const (
	CauseNotText      = "not_text"
	CauseNotUTF8      = "not_utf8"
	CauseHelloTimeout = "hello_timeout"
	CauseTooSlow      = "too_slow"
	CauseMaxAge       = "max_age"
	CauseReplaced     = "replaced"
)

// closeHints are for the causes that are no problem of HTTP, and for those whose hint is another there.
var closeHints = map[string]string{
	CauseNotText:         "Send text frames; a binary one is never served.",
	CauseNotUTF8:         "Send frames as valid UTF-8.",
	CauseHelloTimeout:    "Send hello within 5 s of the upgrade.",
	CauseTooSlow:         "Take frames as they come, then reconnect.",
	CauseMaxAge:          "Reconnect; sockets are renewed from time to time.",
	CauseReplaced:        "The same device opened another socket; use that one.",
	string(TooLarge):     "Keep frames at 16 KiB or less.",
	string(RateLimited):  "Open fewer sockets, send at most 600 frames a minute; reconnect later.",
	string(Overloaded):   "Reconnect later, with backoff.",
	string(Starting):     "Reconnect later, with backoff.",
	string(DatabaseAway): "Reconnect later, with backoff.",
}

// CloseReason is the reason that a close frame carries for a cause: "cause: what to do about it". It fits
// the 123 bytes of RFC 6455 §5.5.
func CloseReason(cause string) string {
	hint, ok := closeHints[cause]
	if !ok {
		hint = kinds[Code(cause)].hint
	}
	if hint == "" {
		return cause
	}
	return cause + ": " + hint
}
