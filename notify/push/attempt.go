package push

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"os"
	"strconv"
	"time"
)

// RetryAfter reads the header of that name, in either of its forms (RFC 9110, section 10.2.3). It is 0 if there is
// none, or it is nonsense.
func RetryAfter(h http.Header, now time.Time) time.Duration {
	v := h.Get("Retry-After")
	if s, err := strconv.Atoi(v); err == nil {
		return time.Duration(min(max(s, 0), int(mostAsked/time.Second))) * time.Second
	}
	if at, err := http.ParseTime(v); err == nil {
		return max(0, at.Sub(now))
	}
	return 0
}

// Broken is the answer when there is none: err is why. The error itself is not kept, since it may quote a URL, and a URL
// a token.
func Broken(err error) Answer {
	a := Answer{Outcome: Retry, Reason: "broken", Hint: "the connection broke before the answer"}
	var (
		dns         *net.DNSError
		op          *net.OpError
		certificate *tls.CertificateVerificationError
	)
	switch {
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded):
		a.Reason, a.Hint = "timeout", "the provider did not answer in time"
	case errors.Is(err, context.Canceled):
		a.Reason, a.Hint = "stopped", "the server was stopping"
	case errors.As(err, &certificate):
		a.Reason, a.Hint = "tls", "the provider's certificate is not trusted: is there a proxy in between, or is ca_file wrong?"
	case errors.As(err, &dns):
		a.Reason, a.Hint = "dns", "the provider's name was not found"
	case errors.As(err, &op) && op.Op == "dial":
		a.Reason, a.Hint = "dial", "no connection: is there a firewall in between?"
	}
	return a
}

// Status is a reason for an answer that gives none: its class, and the codes that say more.
func Status(code int) string {
	switch {
	case code >= 400 && code < 600:
		return strconv.Itoa(code)
	case code >= 300 && code < 400:
		return "redirect"
	default:
		return "garbage"
	}
}
