package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"net"
	"net/url"
	"sync"
	"testing"
)

// newCountingProxy serves until the test ends. It is there instead of pg_stat_statements because that
// has to be loaded when a server starts, and counts what was executed, not what was sent.
func newCountingProxy(t *testing.T, dsn string) *countingProxy {
	t.Helper()
	u, err := url.Parse(dsn)
	if err != nil {
		t.Fatal(err)
	}
	postgres := u.Host
	var lc net.ListenConfig
	l, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	u.Host = l.Addr().String()
	p := &countingProxy{dsn: u.String(), ticked: make(chan struct{}, 1)}
	ctx, cancel := context.WithCancel(context.Background()) // the node's stop needs it, too
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return // closed
			}
			wg.Go(func() { p.serve(ctx, conn, postgres) })
		}
	})
	t.Cleanup(func() {
		cancel()
		_ = l.Close()
		wg.Wait()
	})
	return p
}

func (p *countingProxy) serve(ctx context.Context, client net.Conn, postgres string) {
	defer func() { _ = client.Close() }()
	var d net.Dialer
	server, err := d.DialContext(ctx, "tcp", postgres)
	if err != nil {
		return // the client sees it
	}
	defer func() { _ = server.Close() }()
	defer context.AfterFunc(ctx, func() { _ = client.Close(); _ = server.Close() })()
	n := p.open.Add(1)
	defer p.open.Add(-1)
	for peak := p.peak.Load(); n > peak && !p.peak.CompareAndSwap(peak, n); peak = p.peak.Load() {
	}
	var answers sync.WaitGroup
	answers.Go(func() {
		_, _ = io.Copy(client, server)
		_ = client.Close()
	})
	_ = p.forward(client, server) // one end has closed
	_ = server.Close()
	answers.Wait()
}

// forward hands messages on, and counts those that have something executed. The first has no type.
func (p *countingProxy) forward(client io.Reader, server io.Writer) error {
	r := bufio.NewReader(client)
	prepared := map[string]bool{} // statements by name: whether one reads nudge.settings
	portals := false              // the unnamed portal is bound to one
	for first := true; ; first = false {
		var head [5]byte
		from := head[:]
		if first {
			from = head[1:]
		}
		if _, err := io.ReadFull(r, from); err != nil {
			return err
		}
		body := make([]byte, binary.BigEndian.Uint32(head[1:])-4)
		if _, err := io.ReadFull(r, body); err != nil {
			return err
		}
		switch head[0] {
		case 'P':
			name, text, _ := bytes.Cut(body, []byte{0})
			prepared[string(name)] = bytes.Contains(text, []byte("nudge.settings"))
		case 'B':
			_, rest, _ := bytes.Cut(body, []byte{0})
			name, _, _ := bytes.Cut(rest, []byte{0})
			portals = prepared[string(name)]
		case 'E':
			p.executed(portals)
		case 'Q':
			p.executed(bytes.Contains(body, []byte("nudge.settings")))
		}
		if _, err := server.Write(append(from, body...)); err != nil {
			return err
		}
	}
}

func (p *countingProxy) executed(tick bool) {
	p.statements.Add(1)
	if !tick {
		return
	}
	p.ticks.Add(1)
	select {
	case p.ticked <- struct{}{}:
	default:
	}
}
