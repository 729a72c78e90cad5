package provider_test

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/nudgesync/nudge/clientsim/provider"
)

// wire is a connection to APNs on which a test reads and writes frames.
type wire struct {
	*http2.Framer
	t      *testing.T
	conn   *tls.Conn
	bearer string
	block  bytes.Buffer
	enc    *hpack.Encoder
	stream uint32
}

func dial(t *testing.T, p *provider.Providers) *wire {
	t.Helper()
	d := tls.Dialer{Config: &tls.Config{RootCAs: p.Roots(), NextProtos: []string{"h2"}}}
	c, err := d.DialContext(t.Context(), "tcp", strings.TrimPrefix(p.APNsURL, "https://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if _, err := c.Write([]byte(http2.ClientPreface)); err != nil {
		t.Fatal(err)
	}
	w := &wire{t: t, conn: c.(*tls.Conn), Framer: http2.NewFramer(c, c), stream: 1}
	w.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	w.enc = hpack.NewEncoder(&w.block)
	key := p.APNsKeys[0]
	w.bearer = "bearer " + appleToken(t, key, key.Team, time.Now())
	w.do(w.WriteSettings())
	return w
}

func (w *wire) do(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// begin opens a stream and sends its headers; finish sends the body.
func (w *wire) begin(bearer, device string) uint32 {
	w.t.Helper()
	w.block.Reset()
	for _, f := range [][2]string{
		{":method", "POST"}, {":scheme", "https"}, {":path", "/3/device/" + device}, {":authority", "apns"}, {"authorization", bearer},
		{"apns-topic", app}, {"apns-push-type", "background"}, {"apns-priority", "5"},
	} {
		w.do(w.enc.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]}))
	}
	stream := w.stream
	w.stream += 2
	w.do(w.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: w.block.Bytes(), EndHeaders: true}))
	return stream
}

func (w *wire) finish(stream uint32) {
	w.t.Helper()
	w.do(w.WriteData(stream, true, []byte(background)))
}

// next reads frames until one is of interest, and says what it is.
func (w *wire) next() string {
	w.t.Helper()
	for {
		f, err := w.ReadFrame()
		if err != nil {
			return "end"
		}
		switch f := f.(type) {
		case *http2.SettingsFrame:
			if n, ok := f.Value(http2.SettingMaxConcurrentStreams); ok {
				return fmt.Sprintf("streams %d", n)
			}
		case *http2.MetaHeadersFrame:
			return fmt.Sprintf("%d: %s", f.StreamID, f.PseudoValue("status"))
		case *http2.RSTStreamFrame:
			return fmt.Sprintf("%d: %v", f.StreamID, f.ErrCode)
		case *http2.GoAwayFrame:
			return fmt.Sprintf("goaway %v %s", f.ErrCode, f.DebugData())
		case *http2.PingFrame:
			return "ping"
		}
	}
}

func (w *wire) wants(frames ...string) {
	w.t.Helper()
	for _, want := range frames {
		if got := w.next(); got != want {
			w.t.Fatalf("received %q, want %q", got, want)
		}
	}
}

func TestAPNsOneStreamUntilAToken(t *testing.T) {
	t.Parallel()
	p := start(t, provider.Config{})
	device := addPhone(t, p, provider.PhoneConfig{Platform: provider.IOS}).Target().Value
	w := dial(t, p)
	w.wants("streams 1")
	one, two := w.begin("", device), w.begin("", device)
	w.wants(fmt.Sprintf("%d: REFUSED_STREAM", two))
	w.finish(one)
	w.wants("1: 403") // no valid token: still one
	w.finish(w.begin(w.bearer, device))
	w.wants("streams 1000", "5: 200")
	one, two = w.begin(w.bearer, device), w.begin(w.bearer, device)
	w.finish(two)
	w.wants(fmt.Sprintf("%d: 200", two))
	w.finish(one)
	w.wants(fmt.Sprintf("%d: 200", one))
}

func TestAPNsEndsAfterTenBadProviderTokens(t *testing.T) {
	t.Parallel()
	p := start(t, provider.Config{})
	device := addPhone(t, p, provider.PhoneConfig{Platform: provider.IOS}).Target().Value
	w := dial(t, p)
	w.wants("streams 1")
	for range 10 {
		w.finish(w.begin("bearer x", device))
		w.wants(fmt.Sprintf("%d: 403", w.stream-2))
	}
	w.wants(`goaway ENHANCE_YOUR_CALM {"reason":"InvalidProviderToken"}`, "end")
}

func TestAPNsEndsAfterABurstOfBadTokens(t *testing.T) {
	t.Parallel()
	p := start(t, provider.Config{BadTokens: 3})
	ph := addPhone(t, p, provider.PhoneConfig{Platform: provider.IOS})
	ph.Uninstall()
	w := dial(t, p)
	w.wants("streams 1")
	w.finish(w.begin(w.bearer, ph.Target().Value))
	w.wants("streams 1000", "1: 410")
	for range 4 { // these do not count
		w.finish(w.begin(w.bearer, ph.Target().Value))
		w.wants(fmt.Sprintf("%d: 410", w.stream-2))
	}
	for range 3 {
		w.finish(w.begin(w.bearer, "00"))
		w.wants(fmt.Sprintf("%d: 400", w.stream-2))
	}
	w.wants(`goaway ENHANCE_YOUR_CALM {"reason":"BadDeviceToken"}`, "end")
}

func TestAPNsGoaway(t *testing.T) {
	t.Parallel()
	p := start(t, provider.Config{})
	device := addPhone(t, p, provider.PhoneConfig{Platform: provider.IOS}).Target().Value
	w := dial(t, p)
	w.wants("streams 1")
	w.finish(w.begin(w.bearer, device))
	w.wants("streams 1000", "1: 200")
	open := w.begin(w.bearer, device)
	w.do(w.WritePing(false, [8]byte{}))
	w.wants("ping") // the stream is open there by now
	p.Goaway("Shutdown")
	w.wants(`goaway NO_ERROR {"reason":"Shutdown"}`)
	late := w.begin(w.bearer, device)
	w.wants(fmt.Sprintf("%d: REFUSED_STREAM", late))
	w.finish(open)
	w.wants(fmt.Sprintf("%d: 200", open))

	fault(t, p, provider.Fault{Provider: provider.APNs, Kind: provider.FaultGoaway, Reason: "IdleTimeout", Times: 1})
	w = dial(t, p)
	w.finish(w.begin(w.bearer, device))
	w.wants("streams 1", "streams 1000", "1: 200", `goaway NO_ERROR {"reason":"IdleTimeout"}`, "end")
}

// A client that gives a stream up makes room for another.
func TestAPNsResetStreams(t *testing.T) {
	t.Parallel()
	p := start(t, provider.Config{})
	device := addPhone(t, p, provider.PhoneConfig{Platform: provider.IOS}).Target().Value
	fault(t, p, provider.Fault{Provider: provider.APNs, Kind: provider.FaultHang, To: 1})
	w := dial(t, p)
	w.wants("streams 1")
	w.do(w.WriteRSTStream(w.begin(w.bearer, device), http2.ErrCodeCancel)) // before the body
	hung := w.begin(w.bearer, device)
	w.finish(hung)
	if _, err := p.Log().Wait(t.Context(), 0, func(e provider.Entry) bool { return e.Event == provider.EventFault }); err != nil {
		t.Fatal(err)
	}
	w.do(w.WriteRSTStream(hung, http2.ErrCodeCancel))
	for { // its room is free once the hanging request has noticed
		w.finish(w.begin(w.bearer, device))
		got := w.next()
		if got == "streams 1000" {
			return
		}
		if !strings.HasSuffix(got, "REFUSED_STREAM") {
			t.Fatalf("received %q", got)
		}
	}
}
