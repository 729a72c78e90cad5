package webpush

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// errPrivate is that a subscription's host resolved to an address inside.
var errPrivate = errors.New("webpush: not a public address")

// guarded dials public addresses, and others for the hosts that are allowed to have them. The address is judged when it
// is connected to, so that a name cannot resolve to something else in between.
func guarded(allow []string) func(ctx context.Context, network, addr string) (net.Conn, error) {
	open := &net.Dialer{KeepAlive: 15 * time.Second}
	strict := &net.Dialer{KeepAlive: 15 * time.Second, Control: func(_, address string, _ syscall.RawConn) error {
		at, err := netip.ParseAddrPort(address)
		if err != nil || !public(at.Addr()) {
			return errPrivate
		}
		return nil
	}}
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		host, _, err := net.SplitHostPort(addr)
		if err != nil {
			return nil, fmt.Errorf("webpush: %w", err)
		}
		if slices.ContainsFunc(allow, func(a string) bool { return strings.EqualFold(a, host) }) {
			return open.DialContext(ctx, network, addr)
		}
		return strict.DialContext(ctx, network, addr)
	}
}

// inside are networks that are not public though netip has no word for them (IANA's special-purpose registries).
func inside() []netip.Prefix {
	var out []netip.Prefix
	for _, p := range []string{
		"0.0.0.0/8", "100.64.0.0/10", "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "198.18.0.0/15", "198.51.100.0/24",
		"203.0.113.0/24", "240.0.0.0/4", "168.63.129.16/32", // the last one is Azure's, to its machines alone
		"2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20",
	} {
		out = append(out, netip.MustParsePrefix(p))
	}
	return out
}

func public(a netip.Addr) bool {
	a = a.Unmap()
	// All that has been given out of IPv6 so far (RFC 4291, 2.4). The rest is special, or leads to IPv4 by other names.
	unicast := netip.MustParsePrefix("2000::/3")
	return a.IsGlobalUnicast() && !a.IsPrivate() && a.Zone() == "" && (a.Is4() || unicast.Contains(a)) &&
		!slices.ContainsFunc(inside(), func(p netip.Prefix) bool { return p.Contains(a) })
}

const (
	mostHosts  = 1000
	failures   = 5                // in a row until a host has a pause
	hostPause  = 30 * time.Second // of a host
	hostBusy   = time.Second      // until a host that is not trusted is tried again
	promptly   = 2 * time.Second  // a host that answers later is not trusted
	trustedFor = 24 * time.Hour   // without an answer
)

// hosts is what is known of the push services. One that answers promptly may have all workers, others only a few each,
// and half of them together: anyone may name as many hosts as there are names. Its methods may be called from any
// goroutine.
type hosts struct {
	few, half int

	mu        sync.Mutex
	by        map[string]*host
	strangers int // workers that are at hosts that were not trusted when they went
}

type host struct {
	busy   int
	failed int       // in a row
	until  time.Time // nothing is sent before
	prompt time.Time // when it answered promptly last
}

func newHosts(workers int) *hosts {
	return &hosts{few: max(1, workers/4), half: max(1, workers/2), by: map[string]*host{}}
}

// enter has a worker go to the host, or says how long its devices must wait.
func (h *hosts) enter(name string, now time.Time) (wait time.Duration, stranger bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	at := h.by[name]
	if at == nil {
		h.forget(now)
		if len(h.by) >= mostHosts {
			return hostPause, false
		}
		at = &host{}
		h.by[name] = at
	}
	stranger = now.Sub(at.prompt) > trustedFor
	switch {
	case now.Before(at.until):
		return at.until.Sub(now), stranger
	case stranger && (at.busy >= h.few || h.strangers >= h.half):
		return hostBusy, stranger
	}
	at.busy++
	if stranger {
		h.strangers++
	}
	return 0, stranger
}

// leave is called once for each enter that let somebody in, and with what it said of the host.
func (h *hosts) leave(name string, stranger bool, now time.Time, took time.Duration, worked bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	at := h.by[name]
	at.busy--
	if stranger {
		h.strangers--
	}
	switch {
	case worked && took <= promptly:
		at.failed, at.prompt = 0, now
	case worked:
		at.failed, at.prompt = 0, time.Time{}
	default:
		at.prompt = time.Time{}
		if at.failed++; at.failed >= failures {
			at.failed, at.until = 0, now.Add(hostPause)
		}
	}
}

// forget makes room when there are many hosts. Called with mu held.
func (h *hosts) forget(now time.Time) {
	if len(h.by) < mostHosts {
		return
	}
	for name, at := range h.by {
		if at.busy == 0 && now.After(at.until) {
			delete(h.by, name)
		}
	}
}
