package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"runtime/debug"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/nudgesync/nudge/internal/bench"
	"github.com/nudgesync/nudge/internal/bench/site"
)

// herd is what a process that makes the load is told.
type herd struct {
	Addr        string
	Devices     string        // the file that they stand in
	Connections int           // kept alive from before
	Within      time.Duration // in which all of them ask
	Patience    time.Duration // after which a device that has not everything counts as failed
	Validate    bool
}

// seen is what the herd saw.
type seen struct {
	P50, P99, Max float64 // in milliseconds, from the intended moment until a device had everything
	Answers       int
	Overloaded    int // answers of 503
	// Of those, in milliseconds from the request that was sent to the refusal.
	Refused50, Refused99 float64
	Failed               int // devices that had anything else, or not everything in time
	Error                string
	Elapsed              time.Duration // until the last device was done
}

// load makes a herd, once it reads a line after having said that it stands.
func load(ctx context.Context, in io.Reader, out io.Writer) error {
	lines := bufio.NewReader(in)
	text, err := lines.ReadBytes('\n')
	if err != nil {
		return err
	}
	var h herd
	if err := json.Unmarshal(text, &h); err != nil {
		return err
	}
	if text, err = os.ReadFile(h.Devices); err != nil {
		return err
	}
	var devices []site.Device
	if err := json.Unmarshal(text, &devices); err != nil {
		return err
	}
	conns, err := h.connect(ctx)
	if err != nil {
		return err
	}
	debug.SetGCPercent(-1) // the load's garbage must not look like the server's latency
	if _, err := fmt.Fprintln(out, "the herd stands"); err != nil {
		return err
	}
	if _, err := lines.ReadBytes('\n'); err != nil {
		return err
	}
	return json.NewEncoder(out).Encode(h.run(devices, conns))
}

// client is a connection.
type client struct {
	addr string
	conn net.Conn
	r    *bufio.Reader
	body []byte
}

// connect opens the connections and asks once over each: the server closes those that never did.
func (h *herd) connect(ctx context.Context) ([]*client, error) {
	clients := make([]*client, h.Connections)
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(64)
	for i := range clients {
		g.Go(func() (err error) {
			clients[i], err = dial(ctx, h.Addr)
			if err == nil {
				_, err = clients[i].ask("GET /livez HTTP/1.1\r\nHost: nudge.example\r\n\r\n")
			}
			return err
		})
	}
	return clients, g.Wait()
}

func dial(ctx context.Context, addr string) (*client, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	return &client{addr: addr, conn: conn, r: bufio.NewReaderSize(conn, 2<<10)}, nil
}

// redial takes a new connection: a server does not keep one open for as long as a device may have to wait. The
// old one goes first: there are as many as a process may have descriptors.
func (c *client) redial() error {
	_ = c.conn.Close()
	fresh, err := dial(context.Background(), c.addr)
	if err != nil {
		return err
	}
	c.conn, c.r = fresh.conn, fresh.r
	return nil
}

// run lets every device ask at a moment of its own. The moments are drawn before, and do not move.
func (h *herd) run(devices []site.Device, clients []*client) seen {
	var mu sync.Mutex
	var s seen
	var all, refused bench.Latencies
	began := time.Now().Add(100 * time.Millisecond)
	var wg sync.WaitGroup
	for c := range clients {
		rng := rand.New(rand.NewPCG(1, uint64(c)))
		wg.Go(func() {
			for i := c; i < len(devices); i += len(clients) {
				// Of two that share a connection, each has its half of the time.
				share, turn := h.Within/time.Duration((len(devices)-c-1)/len(clients)+1), time.Duration((i-c)/len(clients))
				intended := began.Add(share*turn + time.Duration(rng.Int64N(int64(share))))
				time.Sleep(time.Until(intended))
				answers, overloaded, err := clients[c].receive(devices[i], h.Validate, intended.Add(h.Patience))
				took := time.Since(intended)
				mu.Lock()
				all = append(all, took)
				s.Answers += answers
				s.Overloaded += len(overloaded)
				refused = append(refused, overloaded...)
				if err != nil {
					s.Failed++
					s.Error = err.Error()
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	s.Elapsed = time.Since(began)
	s.P50, s.P99, s.Max = all.Percentile(50), all.Percentile(99), all.Percentile(100)
	s.Refused50, s.Refused99 = refused.Percentile(50), refused.Percentile(99)
	return s
}

// receive is the device's loop: it asks until it has everything, and where it is told to wait it does.
func (c *client) receive(d site.Device, validate bool, until time.Time) (answers int, overloaded bench.Latencies, err error) {
	_ = c.conn.SetDeadline(until) // what fails then fails below
	for {
		asked := time.Now()
		a, err := c.ask(d.Request(validate))
		if err != nil {
			return answers, overloaded, err
		}
		answers++
		switch a.status {
		case 200, 304:
			if !a.more {
				return answers, overloaded, nil
			}
			d.Cursor = a.cursor
		case 503:
			overloaded = append(overloaded, time.Since(asked))
			if time.Now().Add(a.retry).After(until) {
				return answers, overloaded, errors.New("it was told to wait for too long")
			}
			time.Sleep(a.retry)
			if err := c.redial(); err != nil {
				return answers, overloaded, err
			}
			_ = c.conn.SetDeadline(until) // what fails then fails below
		default:
			return answers, overloaded, fmt.Errorf("status %d: %.200s", a.status, c.body)
		}
	}
}

// answer is what the herd looks at.
type answer struct {
	status int
	retry  time.Duration
	cursor string
	more   bool
}

// ask reads as much of HTTP/1.1 as the two servers speak: net/http's own client costs more than what
// is measured.
func (c *client) ask(request string) (a answer, err error) {
	if _, err = io.WriteString(c.conn, request); err != nil {
		return a, err
	}
	line, err := c.r.ReadSlice('\n')
	if err != nil {
		return a, err
	}
	if len(line) < 12 {
		return a, fmt.Errorf("status line %q", line)
	}
	if a.status, err = strconv.Atoi(string(line[9:12])); err != nil {
		return a, fmt.Errorf("status line %q", line)
	}
	length := 0
	for {
		if line, err = c.r.ReadSlice('\n'); err != nil {
			return a, err
		}
		name, value, _ := bytes.Cut(bytes.TrimRight(line, "\r\n"), []byte(": "))
		if len(name) == 0 {
			break
		}
		switch string(name) { // as net/http writes them
		case "Content-Length":
			length, err = strconv.Atoi(string(value))
		case "Retry-After":
			var seconds int
			seconds, err = strconv.Atoi(string(value))
			a.retry = time.Duration(seconds) * time.Second
		case "Nudge-Cursor":
			a.cursor = string(value)
		case "Transfer-Encoding":
			err = fmt.Errorf("an answer in %s", value)
		}
		if err != nil {
			return a, err
		}
	}
	if a.status == 304 {
		return a, nil
	}
	if cap(c.body) < length {
		c.body = make([]byte, length)
	}
	c.body = c.body[:length]
	if _, err = io.ReadFull(c.r, c.body); err != nil {
		return a, err
	}
	a.more = bytes.Contains(c.body, []byte(`"has_more":true`))
	return a, nil
}
