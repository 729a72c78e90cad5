package changefeed

import (
	"crypto/tls"
	"fmt"
	"net"
	"syscall"
	"time"
)

// gather is how long the session lets what arrives gather at most.
const gather = 2 * time.Millisecond

// gatherBytes is how much may gather until the process is woken: some 2 ms of a stream that takes all of a server.
const gatherBytes = 16 << 10

// rest lets what arrives gather while the appender is at work: nothing of it could be stored before. The server sends
// each row and each commit by itself, and to be woken for every one costs more than to decode it.
func (s *session) rest() error {
	if s.conn.frontend.ReadBufferLen() > 0 || !s.batches.busy() {
		return nil
	}
	if err := s.conn.wakeAt(gatherBytes); err != nil {
		return err
	}
	s.resting.Reset(gather)
	select {
	case <-s.batches.less:
	case <-s.resting.C:
	}
	s.resting.Stop()
	return s.conn.wakeAt(1)
}

// wakeAt has the kernel say that something arrived once it is so many bytes. A read gets what is there in any case.
func (c *replConn) wakeAt(n int) error {
	if c.socket == nil {
		return nil
	}
	var failed error
	if err := c.socket.Control(func(fd uintptr) { failed = setLowWater(fd, n) }); err != nil {
		return fmt.Errorf("replication connection: %w", err)
	}
	if failed != nil {
		return fmt.Errorf("replication connection: set SO_RCVLOWAT: %w", failed)
	}
	return nil
}

// socketOf is what lies under a connection, nil if that can't be told.
func socketOf(c net.Conn) syscall.RawConn {
	if t, ok := c.(*tls.Conn); ok {
		c = t.NetConn()
	}
	if sc, ok := c.(*net.TCPConn); ok {
		if raw, err := sc.SyscallConn(); err == nil {
			return raw
		}
	}
	return nil
}
