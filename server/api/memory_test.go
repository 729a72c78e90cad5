package api_test

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"testing"

	"github.com/nudgesync/nudge/changefeed/change"
	"github.com/nudgesync/nudge/server/api"
	"github.com/nudgesync/nudge/server/wire"
)

// quietSocket is a device that costs this process next to nothing, so that what a session costs is seen.
func (w *world) quietSocket(user int) net.Conn {
	w.t.Helper()
	conn, err := new(net.Dialer).DialContext(context.Background(), "tcp", w.url[len("http://"):])
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = conn.Close() })
	_, err = fmt.Fprintf(conn, "GET /v1/socket HTTP/1.1\r\nHost: nudge.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\nSec-WebSocket-Protocol: %s\r\nUser-Agent: a phone\r\n\r\n", wire.Subprotocol)
	if err != nil {
		w.t.Fatal(err)
	}
	r := bufio.NewReader(conn)
	res, err := http.ReadResponse(r, nil)
	if err != nil || res.StatusCode != http.StatusSwitchingProtocols {
		w.t.Fatal(res, err)
	}
	_ = res.Body.Close()
	hello := fmt.Sprintf(`{"t":"hello","v":1,"token":%q,"device":"phone-%d","cursor":"10"}`, w.token("sub", fmt.Sprint(user)), user)
	frame := binary.BigEndian.AppendUint16([]byte{0x81, 0x80 | 126}, uint16(len(hello)))
	frame = append(frame, 0, 0, 0, 0) // a mask that changes nothing
	if _, err := conn.Write(append(frame, hello...)); err != nil {
		w.t.Fatal(err)
	}
	head, err := r.Peek(2)
	if err != nil {
		w.t.Fatal(err)
	}
	n, skip := int(head[1]), 2
	if n == 126 {
		if head, err = r.Peek(4); err != nil {
			w.t.Fatal(err)
		}
		n, skip = int(binary.BigEndian.Uint16(head[2:])), 4
	}
	if _, err := r.Discard(skip); err != nil {
		w.t.Fatal(err)
	}
	text := make([]byte, n)
	if _, err := io.ReadFull(r, text); err != nil {
		w.t.Fatal(err)
	}
	if want := `{"t":"ready"`; string(text[:len(want)]) != want {
		w.t.Fatalf("heard %s", text)
	}
	return conn
}

// inUse is the memory of what lives, by kind, in bytes.
func inUse() (heap, stacks int) {
	var m runtime.MemStats
	for range 3 { // a stack halves once a collection
		runtime.GC()
	}
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc), int(m.StackInuse)
}

// A session costs little (issue 4, point 6): the stack of one goroutine that waits, small buffers, and
// nothing of the request that it began as. What this process's own side of a connection costs counts too.
func TestSessionMemory(t *testing.T) {
	const n = 1000
	w := tcp(t, noPings, func(c *api.Config) { c.Limits.HandshakeRate = 1e6 })
	w.quietSocket(0) // what is made once
	heap, stacks := inUse()
	conns := make([]net.Conn, n)
	for i := range conns {
		conns[i] = w.quietSocket(i + 1)
	}
	// What a session does leaves nothing behind: a ping is answered, and a nudge written.
	answers := make([]byte, 256)
	for _, conn := range conns {
		if _, err := conn.Write([]byte{0x89, 0x80, 0, 0, 0, 0}); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(conn, answers[:2]); err != nil || answers[0] != 0x8a {
			t.Fatalf("a ping was answered with %x (%v)", answers[:2], err)
		}
	}
	w.hub.Announce([]change.Scope{change.All}, position(11))
	for _, conn := range conns {
		if _, err := conn.Read(answers); err != nil {
			t.Fatal(err)
		}
	}
	heapNow, stacksNow := inUse()
	perHeap, perStack := (heapNow-heap)/n, (stacksNow-stacks)/n
	t.Logf("a session: %d bytes of heap, %d of stacks", perHeap, perStack)
	// It is some 5.3 KB, 2.2 of them the library's and its buffers, and 2 KB; 4 KB where the race detector looks on.
	if perHeap > 8<<10 {
		t.Errorf("a session holds %d bytes of heap", perHeap)
	}
	if perStack > 5<<10 {
		t.Errorf("a session's goroutine has a stack of %d bytes", perStack)
	}
}

// BenchmarkNudge is what one nudge of many costs, from the hub to the kernel.
func BenchmarkNudge(b *testing.B) {
	const n = 500
	w := tcp(b, noPings, func(c *api.Config) { c.Limits.HandshakeRate, c.Limits.NudgeEvery = 1e6, 1 })
	conns := make([]net.Conn, n)
	for i := range conns {
		conns[i] = w.quietSocket(i + 1)
	}
	var frame [256]byte
	head := 1000
	b.ReportAllocs()
	for b.Loop() {
		head++
		w.hub.Announce([]change.Scope{change.All}, position(head))
		for _, conn := range conns {
			if _, err := conn.Read(frame[:]); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/n, "ns/nudge")
}
