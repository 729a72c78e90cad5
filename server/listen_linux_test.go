package main

import (
	"net"
	"testing"

	"golang.org/x/sys/unix"
)

// A client that vanished is given up in a minute, not in a quarter of an hour: the option must be on what is
// accepted, not only on what listens.
func TestAcceptedConnectionsGiveUpInTime(t *testing.T) {
	lc := net.ListenConfig{Control: controlListener}
	l, err := listen(t.Context(), &lc, "listen.public", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	client, err := new(net.Dialer).DialContext(t.Context(), "tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = client.Close() }()
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	raw, err := conn.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var ms int
	if e := raw.Control(func(fd uintptr) { ms, err = unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT) }); e != nil || err != nil {
		t.Fatal(e, err)
	}
	if want := int(unackedFor.Milliseconds()); ms != want {
		t.Errorf("TCP_USER_TIMEOUT of an accepted connection is %d ms, want %d", ms, want)
	}
}
