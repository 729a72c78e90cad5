package apns

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"
)

// Idle connections are asked for a sign of life: a black-holed one costs the sum of these.
const (
	pingAfter   = 5 * time.Second
	pingTimeout = 3 * time.Second
)

// connections is the one connection to Apple, and its replacement when it ends. Apple allows a single stream until
// a request with a valid provider token succeeded, so others wait until then; after that as many as the server
// says. Its methods may be called from any goroutine.
type connections struct {
	transport *http.Transport
	address   string
	kick      chan struct{} // a connection's state changed by itself

	mu      sync.Mutex
	current *connection
	dialing bool
	changed chan struct{} // closed and replaced whenever somebody who waits may have luck
	closed  bool
}

type connection struct {
	*http.ClientConn
	warm bool // a request has succeeded
	busy int
}

func newConnections(address string, tlsConfig *tls.Config) *connections {
	var only http.Protocols
	only.SetHTTP2(true)
	return &connections{
		transport: &http.Transport{
			Proxy:       http.ProxyFromEnvironment,
			DialContext: (&net.Dialer{KeepAlive: 15 * time.Second}).DialContext, TLSClientConfig: tlsConfig, Protocols: &only,
			HTTP2: &http.HTTP2Config{SendPingTimeout: pingAfter, PingTimeout: pingTimeout, WriteByteTimeout: pingAfter + pingTimeout},
		},
		address: address, kick: make(chan struct{}, 1), changed: make(chan struct{}),
	}
}

var errClosed = errors.New("apns: the sender is closed")

// roundTrip sends the request on the connection. The answer's body must be read and closed before settled is called.
func (p *connections) roundTrip(req *http.Request) (resp *http.Response, settled func(worked bool), err error) {
	c, err := p.acquire(req.Context())
	if err != nil {
		return nil, nil, err
	}
	resp, err = c.RoundTrip(req)
	if err != nil {
		p.release(c, false, req.Context().Err() == nil)
		return nil, nil, err
	}
	return resp, func(worked bool) { p.release(c, worked, false) }, nil
}

// acquire waits for a free stream, on a new connection if the old one takes no more.
func (p *connections) acquire(ctx context.Context) (*connection, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		if p.closed {
			return nil, errClosed
		}
		if c := p.current; c != nil && (c.warm || c.busy == 0) {
			if c.Reserve() == nil {
				c.busy++
				return c, nil
			}
			// All streams are taken, or it was told to go. With none of ours it is the latter, and if
			// it is closed it is of no use to anybody.
			if c.busy == 0 || c.Err() != nil {
				p.retire(c)
			}
		}
		if p.current == nil && !p.dialing {
			if err := p.connect(ctx); err != nil {
				return nil, err
			}
			continue
		}
		changed := p.changed
		p.mu.Unlock()
		select {
		case <-changed:
		case <-p.kick:
		case <-ctx.Done():
		}
		p.mu.Lock()
		if err := ctx.Err(); err != nil {
			return nil, fmt.Errorf("apns: waiting for a stream: %w", err)
		}
		if changed == p.changed {
			p.wake() // it was the kick, which only one hears
		}
	}
}

// connect replaces the connection. Called with mu held, which it lets go meanwhile.
func (p *connections) connect(ctx context.Context) error {
	p.dialing = true
	p.mu.Unlock()
	cc, err := p.transport.NewClientConn(ctx, "https", p.address)
	p.mu.Lock()
	p.dialing = false
	p.wake()
	if err != nil {
		return fmt.Errorf("apns: connecting: %w", err)
	}
	cc.SetStateHook(func(*http.ClientConn) { // it may be called with mu held
		select {
		case p.kick <- struct{}{}:
		default:
		}
	})
	p.current = &connection{ClientConn: cc}
	if p.closed {
		p.retire(p.current)
	}
	return nil
}

// release gives a stream back. A request that worked warms the connection; a broken one ends it.
func (p *connections) release(c *connection, worked, broken bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	c.busy--
	c.warm = c.warm || worked
	if broken && c == p.current {
		p.retire(c)
	}
	if c != p.current && c.busy == 0 {
		_ = c.Close()
	}
	p.wake()
}

// retire has the next request open a new connection; those under way end on the old one. Called with mu held.
func (p *connections) retire(c *connection) {
	p.current = nil
	if c.busy == 0 {
		_ = c.Close()
	}
}

// wake lets those that wait look again. Called with mu held.
func (p *connections) wake() {
	close(p.changed)
	p.changed = make(chan struct{})
}

func (p *connections) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	if p.current != nil {
		p.retire(p.current)
	}
	p.wake()
}
