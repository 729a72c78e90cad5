package provider

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"net"
	"strconv"
	"sync"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// h2conn serves HTTP/2 on one connection, as far as APNs needs it. It is not net/http's because APNs
// does what that cannot: it lifts the limit of streams while the connection is open, and says in a
// GOAWAY why.
type h2conn struct {
	nc     net.Conn
	handle func(context.Context, *h2request) h2response
	limits h2limits

	// Owned by serve.
	framer  *http2.Framer // reading side
	pending map[uint32]*h2request
	last    uint32 // highest stream that was taken

	work sync.WaitGroup // requests being handled

	mu      sync.Mutex // guards what follows and the writing side of framer
	out     *bufio.Writer
	block   bytes.Buffer
	enc     *hpack.Encoder
	open    int
	running map[uint32]context.CancelFunc
	streams int // allowed at once
	going   bool
	err     error // of a write
}

type h2limits struct {
	streams int // at first
	body    int // bytes kept of a body; more are counted, not kept
}

type h2request struct {
	stream  uint32
	method  string
	path    string
	headers map[string]string
	repeats bool // a header came twice
	body    []byte
	size    int // of the body, kept or not
}

type h2response struct {
	status  int
	headers [][2]string
	body    []byte
	reset   bool          // RST_STREAM instead of an answer
	streams int           // raise the limit of streams to this first
	goaway  string        // reason of a GOAWAY that follows, and of the connection's end
	code    http2.ErrCode // of the GOAWAY
}

func newH2conn(nc net.Conn, limits h2limits, handle func(context.Context, *h2request) h2response) *h2conn {
	c := &h2conn{
		nc: nc, handle: handle, limits: limits, streams: limits.streams,
		pending: make(map[uint32]*h2request), running: make(map[uint32]context.CancelFunc), out: bufio.NewWriter(nc),
	}
	c.framer = http2.NewFramer(c.out, bufio.NewReader(nc))
	c.framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	c.framer.MaxHeaderListSize = 16 << 10
	c.enc = hpack.NewEncoder(&c.block)
	return c
}

var errPreface = errors.New("no HTTP/2 preface")

// serve reads until the connection ends. When it returns, no request is being handled any more.
func (c *h2conn) serve(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer c.work.Wait()
	defer cancel()
	// The preface goes past the framer, which has read nothing yet.
	preface := make([]byte, len(http2.ClientPreface))
	for n := 0; n < len(preface); {
		m, err := c.nc.Read(preface[n:])
		if err != nil {
			return err
		}
		n += m
	}
	if string(preface) != http2.ClientPreface {
		return errPreface
	}
	if err := c.write(func(f *http2.Framer) error {
		return f.WriteSettings(http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: uint32(c.limits.streams)})
	}); err != nil {
		return err
	}
	for {
		f, err := c.framer.ReadFrame()
		if err != nil {
			if se, ok := errors.AsType[http2.StreamError](err); ok {
				if err := c.resetStream(se.StreamID, se.Code); err != nil {
					return err
				}
				continue
			}
			return err
		}
		if err := c.take(ctx, f); err != nil {
			return err
		}
	}
}

func (c *h2conn) take(ctx context.Context, f http2.Frame) error {
	switch f := f.(type) {
	case *http2.SettingsFrame:
		if f.IsAck() {
			return nil
		}
		return c.write(func(w *http2.Framer) error { return w.WriteSettingsAck() })
	case *http2.PingFrame:
		if f.IsAck() {
			return nil
		}
		return c.write(func(w *http2.Framer) error { return w.WritePing(true, f.Data) })
	case *http2.MetaHeadersFrame:
		return c.begin(ctx, f)
	case *http2.DataFrame:
		return c.data(ctx, f)
	case *http2.RSTStreamFrame:
		if _, ok := c.pending[f.StreamID]; ok {
			delete(c.pending, f.StreamID)
			c.done(f.StreamID)
		}
		c.mu.Lock()
		if cancel := c.running[f.StreamID]; cancel != nil {
			cancel()
		}
		c.mu.Unlock()
	}
	// WINDOW_UPDATE is of no interest: answers are some hundred bytes in all clients' first windows of
	// 64 KiB a stream, and the clients that senders use open the connection's to megabytes.
	return nil
}

func (c *h2conn) begin(ctx context.Context, f *http2.MetaHeadersFrame) error {
	if r := c.pending[f.StreamID]; r != nil { // trailers
		if f.StreamEnded() {
			c.start(ctx, r)
		}
		return nil
	}
	c.mu.Lock()
	refused := c.going || c.open >= c.streams
	if !refused {
		c.open++
	}
	c.mu.Unlock()
	if refused {
		return c.resetStream(f.StreamID, http2.ErrCodeRefusedStream)
	}
	c.last = max(c.last, f.StreamID)
	r := &h2request{
		stream: f.StreamID, method: f.PseudoValue("method"), path: f.PseudoValue("path"),
		headers: make(map[string]string),
	}
	for _, h := range f.RegularFields() {
		if _, twice := r.headers[h.Name]; twice {
			r.repeats = true
		}
		r.headers[h.Name] = h.Value
	}
	c.pending[f.StreamID] = r
	if f.StreamEnded() {
		c.start(ctx, r)
	}
	return nil
}

func (c *h2conn) data(ctx context.Context, f *http2.DataFrame) error {
	if f.Length > 0 {
		if err := c.write(func(w *http2.Framer) error {
			if err := w.WriteWindowUpdate(0, f.Length); err != nil || f.StreamEnded() || c.pending[f.StreamID] == nil {
				return err
			}
			return w.WriteWindowUpdate(f.StreamID, f.Length)
		}); err != nil {
			return err
		}
	}
	r := c.pending[f.StreamID]
	if r == nil {
		return nil // of a stream that was refused or reset
	}
	r.size += len(f.Data())
	if room := c.limits.body - len(r.body); room > 0 {
		r.body = append(r.body, f.Data()[:min(room, len(f.Data()))]...)
	}
	if f.StreamEnded() {
		c.start(ctx, r)
	}
	return nil
}

func (c *h2conn) start(ctx context.Context, r *h2request) {
	delete(c.pending, r.stream)
	last := c.last
	ctx, cancel := context.WithCancel(ctx)
	c.mu.Lock()
	c.running[r.stream] = cancel
	c.mu.Unlock()
	c.work.Go(func() {
		defer cancel()
		res := c.handle(ctx, r)
		c.done(r.stream)
		if ctx.Err() == nil {
			_ = c.answer(r.stream, last, res) // a failed write ends the reader too
		}
	})
}

// done makes room for another stream. It comes before the answer, so that a client that opens its next
// stream at the answer finds that room.
func (c *h2conn) done(stream uint32) {
	c.mu.Lock()
	c.open--
	delete(c.running, stream)
	c.mu.Unlock()
}

func (c *h2conn) answer(stream, last uint32, res h2response) error {
	err := c.write(func(w *http2.Framer) error {
		if res.streams > c.streams {
			c.streams = res.streams
			if err := w.WriteSettings(http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: uint32(res.streams)}); err != nil {
				return err
			}
		}
		if res.reset {
			return w.WriteRSTStream(stream, http2.ErrCodeInternal)
		}
		c.block.Reset()
		_ = c.enc.WriteField(hpack.HeaderField{Name: ":status", Value: strconv.Itoa(res.status)}) // to memory
		for _, h := range res.headers {
			_ = c.enc.WriteField(hpack.HeaderField{Name: h[0], Value: h[1]})
		}
		if err := w.WriteHeaders(http2.HeadersFrameParam{
			StreamID: stream, BlockFragment: c.block.Bytes(), EndStream: len(res.body) == 0, EndHeaders: true,
		}); err != nil {
			return err
		}
		if len(res.body) > 0 {
			if err := w.WriteData(stream, true, res.body); err != nil {
				return err
			}
		}
		if res.goaway == "" {
			return nil
		}
		c.going = true
		return w.WriteGoAway(last, res.code, goawayData(res.goaway))
	})
	if res.goaway != "" {
		_ = c.nc.Close() // after the flush: what was written still arrives
	}
	return err
}

// goaway refuses further streams and says why; those that are open are still answered.
func (c *h2conn) goaway(reason string, code http2.ErrCode) error {
	return c.write(func(w *http2.Framer) error {
		c.going = true
		return w.WriteGoAway(1<<31-1, code, goawayData(reason))
	})
}

func (c *h2conn) resetStream(stream uint32, code http2.ErrCode) error {
	return c.write(func(w *http2.Framer) error { return w.WriteRSTStream(stream, code) })
}

// write has fn write frames, alone, and flushes them.
func (c *h2conn) write(fn func(*http2.Framer) error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil {
		c.err = fn(c.framer)
	}
	if c.err == nil {
		c.err = c.out.Flush()
	}
	return c.err
}
