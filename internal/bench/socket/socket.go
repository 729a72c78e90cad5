package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"github.com/nudgesync/nudge/internal/bench/site"
	"github.com/nudgesync/nudge/server/wire"
)

// socket is one client's, spoken by hand (RFC 6455): 15,000 of a library's would take more of the machine
// than the server does. Its reader is the only one who writes.
type socket struct {
	conn   net.Conn
	r      *bufio.Reader
	buf    []byte
	device site.Device
	pulls  int64
}

// Opcodes (RFC 6455 §5.2).
const (
	opText  = 1
	opClose = 8
	opPing  = 9
	opPong  = 10
)

// dial opens a socket, says hello, and returns once the first frame has come.
func dial(ctx context.Context, addr string, d site.Device) (*socket, error) {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	s := &socket{conn: conn, r: bufio.NewReaderSize(conn, 512), device: d}
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Now()) })()
	_, err = io.WriteString(conn, "GET /v1/socket HTTP/1.1\r\nHost: nudge.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: "+wire.Subprotocol+"\r\n\r\n")
	if err != nil {
		return nil, err
	}
	for first := true; ; first = false {
		line, err := s.r.ReadString('\n')
		if err != nil {
			return nil, err
		}
		if first && !strings.HasPrefix(line, "HTTP/1.1 101 ") {
			return nil, fmt.Errorf("upgrade: %s", strings.TrimSpace(line))
		}
		if line == "\r\n" {
			break
		}
	}
	err = s.send(wire.Hello{T: wire.THello, V: wire.Version, Token: d.Token, Device: d.ID, Cursor: &d.Cursor})
	if err != nil {
		return nil, err
	}
	_, err = s.read()
	return s, err
}

// read returns the text of the next frame, good until the next call; it answers pings.
func (s *socket) read() ([]byte, error) {
	for {
		var head [8]byte
		if _, err := io.ReadFull(s.r, head[:2]); err != nil {
			return nil, err
		}
		op, n := head[0]&0x0f, uint64(head[1])
		switch n {
		case 126:
			if _, err := io.ReadFull(s.r, head[:2]); err != nil {
				return nil, err
			}
			n = uint64(binary.BigEndian.Uint16(head[:2]))
		case 127:
			if _, err := io.ReadFull(s.r, head[:8]); err != nil {
				return nil, err
			}
			n = binary.BigEndian.Uint64(head[:8])
		}
		if uint64(cap(s.buf)) < n {
			s.buf = make([]byte, n)
		}
		s.buf = s.buf[:n]
		if _, err := io.ReadFull(s.r, s.buf); err != nil {
			return nil, err
		}
		switch op {
		case opText:
			return s.buf, nil
		case opPing:
			if err := s.frame(opPong, s.buf); err != nil {
				return nil, err
			}
		case opClose:
			return nil, fmt.Errorf("closed: %q", s.buf)
		}
	}
}

func (s *socket) send(frame any) error {
	b, err := json.Marshal(frame)
	if err != nil {
		return err
	}
	return s.frame(opText, b)
}

// frame writes a frame. A client has to mask; a key of zeros leaves the bytes as they are.
func (s *socket) frame(op byte, payload []byte) error {
	b := make([]byte, 0, len(payload)+8)
	b = append(b, 0x80|op)
	switch n := len(payload); {
	case n < 126:
		b = append(b, 0x80|byte(n))
	case n <= wire.MaxClientFrame:
		b = binary.BigEndian.AppendUint16(append(b, 0x80|126), uint16(n))
	default:
		return errors.New("a frame too large")
	}
	b = append(b, 0, 0, 0, 0)
	_, err := s.conn.Write(append(b, payload...))
	return err
}

// pull asks for what is new.
func (s *socket) pull() error {
	s.pulls++
	return s.send(wire.Pull{T: wire.TPull, ID: s.pulls, Cursor: &s.device.Cursor})
}

// again pulls once more, when a refusal says that it may. It reads nothing meanwhile.
func (s *socket) again(frame []byte) error {
	var f wire.Error
	if err := json.Unmarshal(frame, &f); err != nil {
		return err
	}
	time.Sleep(time.Duration(f.RetryAfterMS) * time.Millisecond)
	return s.pull()
}

// apply parses a page, as a device does before it stores it, and says that it has.
func (s *socket) apply(frame []byte) (more bool, err error) {
	var f wire.Changes
	if err := json.Unmarshal(frame, &f); err != nil {
		return false, err
	}
	s.device.Cursor = f.Cursor
	return f.HasMore, s.send(wire.Ack{T: wire.TAck, Cursor: f.Cursor})
}
