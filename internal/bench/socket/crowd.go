package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/nudgesync/nudge/internal/bench/site"
)

// joining is what a process that holds sockets is told first.
type joining struct {
	Addr    string
	Devices string // the file that they stand in
	Raw     bool   // connections on which nothing is spoken
	DSN     string // where its writers write
}

// crowd holds a socket of each device, and writes.
type crowd struct {
	joining

	sockets []*socket
	task    atomic.Pointer[task]
	lost    atomic.Int64 // sockets that ended
	refused atomic.Int64 // pulls, of this run
	frame   atomic.Int64 // bytes of a nudge
}

// task is what the crowd is listening for.
type task struct {
	// due is the moment, in nanoseconds from began, at which what a device is to hear of was meant to be
	// written; 0: nothing. A fan-out has one for everybody.
	due   []atomic.Int64
	asked []atomic.Int64 // the same, once the device was nudged and pulls
	began time.Time
	pulls bool

	mu            sync.Mutex
	nudges, pages []time.Duration // from the intended moments
	first, last   time.Time
	left          int // nudges (or pages, with pulls) that are to come
	done          chan struct{}
}

func newTask(devices, left int, pulls bool) *task {
	return &task{due: make([]atomic.Int64, devices), asked: make([]atomic.Int64, devices), began: time.Now(), pulls: pulls, left: left, done: make(chan struct{})}
}

// heard notes that device i was nudged.
func (t *task) heard(i int, now time.Time) (isNew bool) {
	due := t.due[i].Swap(0)
	if due == 0 {
		return false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.first.IsZero() {
		t.first = now
	}
	t.last = now
	t.nudges = append(t.nudges, now.Sub(t.began.Add(time.Duration(due))))
	if !t.pulls || !t.asked[i].CompareAndSwap(0, due) { // it pulls still: one page will do for both
		t.finishOne()
	}
	return true
}

// holds notes that device i has parsed a page.
func (t *task) holds(i int, now time.Time) {
	due := t.asked[i].Swap(0)
	if due == 0 {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.pages = append(t.pages, now.Sub(t.began.Add(time.Duration(due))))
	t.finishOne()
}

func (t *task) finishOne() {
	if t.left--; t.left == 0 {
		close(t.done)
	}
}

// hold is the process: it joins, and then does as each line says.
func hold(ctx context.Context, in io.Reader, out io.Writer) error {
	lines := bufio.NewScanner(in)
	var c crowd
	if !lines.Scan() {
		return errors.New("nobody says what to join")
	}
	if err := json.Unmarshal(lines.Bytes(), &c.joining); err != nil {
		return err
	}
	text, err := os.ReadFile(c.Devices)
	if err != nil {
		return err
	}
	var devices []site.Device
	if err := json.Unmarshal(text, &devices); err != nil {
		return err
	}
	if err := c.join(ctx, devices); err != nil {
		return err
	}
	if _, err := fmt.Fprintln(out, "the crowd stands"); err != nil {
		return err
	}
	for lines.Scan() {
		var r request
		if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
			return err
		}
		runtime.GC()
		debug.SetGCPercent(-1) // the load's garbage must not look like the server's latency
		answer, err := c.do(ctx, r, out)
		debug.SetGCPercent(100)
		if err == nil && c.lost.Load() > 0 {
			err = fmt.Errorf("%d sockets were lost", c.lost.Load())
		}
		if err != nil {
			return err
		}
		if err := json.NewEncoder(out).Encode(answer); err != nil {
			return err
		}
	}
	return lines.Err()
}

// join opens the sockets; each has a reader from then on, until the process ends.
func (c *crowd) join(ctx context.Context, devices []site.Device) error {
	c.sockets = make([]*socket, len(devices))
	g, dialing := errgroup.WithContext(ctx)
	g.SetLimit(64)
	for i, d := range devices {
		g.Go(func() error {
			if c.Raw {
				var dialer net.Dialer
				conn, err := dialer.DialContext(dialing, "tcp", c.Addr)
				c.sockets[i] = &socket{conn: conn}
				return err
			}
			s, err := dial(dialing, c.Addr, d)
			if err != nil {
				return fmt.Errorf("socket of user %d: %w", d.User, err)
			}
			c.sockets[i] = s
			return nil
		})
	}
	if err := g.Wait(); err != nil || c.Raw {
		return err
	}
	for i, s := range c.sockets {
		go func() {
			c.listen(i, s)
			c.lost.Add(1)
		}()
	}
	return nil
}

var (
	nudgeFrame   = []byte(`{"t":"nudge"`)
	changesFrame = []byte(`{"t":"changes"`)
	errorFrame   = []byte(`{"t":"error"`)
	floorFrame   = []byte(`xxx`)
)

// listen reads a socket until it ends, or what it needs can't be said on it.
func (c *crowd) listen(i int, s *socket) {
	for {
		frame, err := s.read()
		if err != nil {
			return
		}
		now := time.Now()
		t := c.task.Load()
		if t == nil {
			continue
		}
		switch {
		case bytes.HasPrefix(frame, nudgeFrame), bytes.HasPrefix(frame, floorFrame):
			c.frame.Store(int64(len(frame)))
			if t.heard(i, now) && t.pulls {
				err = s.pull()
			}
		case bytes.HasPrefix(frame, changesFrame):
			var more bool
			if more, err = s.apply(frame); err == nil && more {
				err = s.pull()
			} else if err == nil {
				t.holds(i, time.Now())
			}
		case bytes.HasPrefix(frame, errorFrame):
			c.refused.Add(1)
			err = s.again(frame)
		}
		if err != nil {
			return
		}
	}
}
