package provider

import (
	"crypto/tls"
	"net"
	"sync"
	"sync/atomic"
)

// Line is how a provider's network is.
type Line string

// The lines.
const (
	LineUp     Line = "up"
	LineDead   Line = "dead"   // connections are reset, new ones at once
	LineSilent Line = "silent" // connections stay open and nothing ever comes back, not even a PING's answer
)

// gate is a listener whose connections can be cut or silenced, those that exist too.
type gate struct {
	net.Listener
	line atomic.Value // Line

	mu    sync.Mutex
	conns map[*gatedConn]struct{}
}

func newGate(l net.Listener) *gate {
	g := &gate{Listener: l, conns: make(map[*gatedConn]struct{})}
	g.line.Store(LineUp)
	return g
}

// set changes the line. A silenced connection stays silent: what the peer sent meanwhile is lost, and
// with it the stream's sense.
func (g *gate) set(line Line) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.line.Store(line)
	for c := range g.conns {
		switch line {
		case LineDead:
			c.reset()
		case LineSilent:
			c.silent.Store(true)
		case LineUp:
			if c.silent.Load() {
				c.reset()
			}
		}
	}
}

// Accept implements [net.Listener].
func (g *gate) Accept() (net.Conn, error) {
	for {
		nc, err := g.Listener.Accept()
		if err != nil {
			return nil, err
		}
		c := &gatedConn{Conn: nc, gate: g}
		g.mu.Lock()
		line := g.line.Load().(Line)
		if line != LineDead {
			g.conns[c] = struct{}{}
		}
		c.silent.Store(line == LineSilent)
		g.mu.Unlock()
		if line == LineDead {
			c.reset()
			continue
		}
		return c, nil
	}
}

type gatedConn struct {
	net.Conn
	gate   *gate
	silent atomic.Bool
}

func (c *gatedConn) reset() {
	if t, ok := c.Conn.(*net.TCPConn); ok {
		_ = t.SetLinger(0)
	}
	_ = c.Conn.Close()
}

// Read implements [net.Conn]. On a silent connection it ends only with the connection.
func (c *gatedConn) Read(p []byte) (int, error) {
	for {
		n, err := c.Conn.Read(p)
		if err != nil || !c.silent.Load() {
			return n, err
		}
	}
}

// Write implements [net.Conn]. What is written to a silent connection goes nowhere.
func (c *gatedConn) Write(p []byte) (int, error) {
	if c.silent.Load() {
		return len(p), nil
	}
	return c.Conn.Write(p)
}

// Close implements [net.Conn].
func (c *gatedConn) Close() error {
	c.gate.mu.Lock()
	delete(c.gate.conns, c)
	c.gate.mu.Unlock()
	return c.Conn.Close()
}

// gated finds the connection that a TLS connection runs over.
func gated(c net.Conn) *gatedConn {
	if t, ok := c.(*tls.Conn); ok {
		c = t.NetConn()
	}
	return c.(*gatedConn)
}
