package main

import (
	"fmt"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// unackedFor is how long what was sent to a client may stay without a sign of its network, until the connection ends.
// A phone that vanished behind an event stream would otherwise hold its place for the quarter of an hour that the
// kernel tries (tcp(7), TCP_USER_TIMEOUT); a socket's pongs tell sooner.
const unackedFor = time.Minute

// controlListener sets that on a listening socket; Linux has the accepted ones inherit it.
func controlListener(_, _ string, conn syscall.RawConn) error {
	var failed error
	err := conn.Control(func(fd uintptr) {
		failed = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(unackedFor.Milliseconds()))
	})
	if err == nil {
		err = failed
	}
	if err != nil {
		return fmt.Errorf("set TCP_USER_TIMEOUT: %w", err)
	}
	return nil
}
