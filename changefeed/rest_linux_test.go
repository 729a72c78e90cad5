package changefeed_test

import (
	"net"
	"syscall"
	"testing"

	"github.com/nudgesync/nudge/changefeed"
)

// A session that has rested is woken by the first byte again: a commit may be the last for hours.
func TestRestEnds(t *testing.T) {
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if err := (changefeed.Resting{Busy: true, Conn: conn}).Rest(); err != nil {
		t.Fatal(err)
	}
	raw, err := conn.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var low int
	var failed error
	if err := raw.Control(func(fd uintptr) {
		low, failed = syscall.GetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVLOWAT)
	}); err != nil || failed != nil {
		t.Fatal(err, failed)
	}
	if low != 1 {
		t.Errorf("woken at %d bytes", low)
	}
}
