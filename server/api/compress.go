package api

import (
	"bytes"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// compressFrom is the body size, in bytes, below which compression does not save a packet.
const compressFrom = 1400

// zstdWindow is how far back zstd looks, in bytes: a page's default size. What a client has to hold grows
// with it; RFC 9659 allows 8 MB.
const zstdWindow = 1 << 20

// compressors are reused across answers: one takes hundreds of kilobytes to set up. The cheapest levels
// already do most of what rows, which repeat their column names, have to gain.
type compressors struct {
	zstd *zstd.Encoder // holds as many encoders as there are processors
	gzip sync.Pool     // of *gzip.Writer
	bufs sync.Pool     // of *bytes.Buffer
}

func newCompressors() (*compressors, error) {
	z, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithWindowSize(zstdWindow), zstd.WithLowerEncoderMem(true))
	if err != nil {
		return nil, fmt.Errorf("zstd: %w", err)
	}
	return &compressors{zstd: z}, nil
}

// Content codings (RFC 9110 §8.4.1, RFC 8878).
const (
	codingZstd     = "zstd"
	codingGzip     = "gzip"
	codingIdentity = "identity"
)

// writeBody writes the body of an answer, compressed if it is worth it and the client takes it.
func (a *API) writeBody(w http.ResponseWriter, r *http.Request, contentType string, body []byte) {
	h := w.Header()
	h.Set("Content-Type", contentType)
	varyByCoding(h)
	coding := chooseCoding(r.Header, len(body))
	if coding != codingIdentity {
		buf, ok := a.compress.bufs.Get().(*bytes.Buffer)
		if !ok {
			buf = new(bytes.Buffer)
		}
		defer a.compress.bufs.Put(buf)
		buf.Reset()
		body = a.compress.encode(buf, coding, body)
		h.Set("Content-Encoding", coding)
		// A strong validator is of one representation alone (RFC 9110 §8.8.3.3).
		if etag := h.Get("ETag"); strings.HasPrefix(etag, `"`) {
			h.Set("ETag", "W/"+etag)
		}
	}
	limitWrite(w, len(body))
	h.Set("Content-Length", strconv.Itoa(len(body)))
	_, _ = w.Write(body) // a client that is gone pulls again
}

// varyByCoding says that the answer depends on Accept-Encoding; a 304 says it too (RFC 9110 §15.4.5).
func varyByCoding(h http.Header) { h.Add("Vary", "Accept-Encoding") }

// encode returns body in a coding. What it returns may be of buf.
func (c *compressors) encode(buf *bytes.Buffer, coding string, body []byte) []byte {
	if coding == codingZstd {
		buf.Grow(len(body) / 4)
		return c.zstd.EncodeAll(body, buf.AvailableBuffer())
	}
	z, ok := c.gzip.Get().(*gzip.Writer)
	if !ok {
		z, _ = gzip.NewWriterLevel(buf, gzip.BestSpeed) // the level is valid
	}
	defer c.gzip.Put(z)
	z.Reset(buf)
	_, _ = z.Write(body) // a buffer takes everything
	_ = z.Close()
	return buf.Bytes()
}

// chooseCoding reads Accept-Encoding (RFC 9110 §12.5.3) for a body of a size. Of codings that the client
// likes alike it is zstd, then gzip. What is too small stays as it is, unless the client refuses that; and
// a client that refuses everything gets it plain.
func chooseCoding(h http.Header, size int) string {
	weights := map[string]float64{}
	for _, value := range h.Values("Accept-Encoding") {
		for part := range strings.SplitSeq(value, ",") {
			coding, params, _ := strings.Cut(part, ";")
			weights[strings.ToLower(strings.TrimSpace(coding))] = weight(params)
		}
	}
	of := func(coding string) float64 {
		if w, named := weights[coding]; named {
			return w
		}
		return weights["*"]
	}
	best, most := codingIdentity, 0.0
	for _, coding := range []string{codingZstd, codingGzip} {
		if w := of(coding); w > most {
			best, most = coding, w
		}
	}
	plain, named := weights[codingIdentity]
	if any, all := weights["*"]; !named && all {
		plain, named = any, true
	}
	switch {
	case best == codingIdentity:
		return best
	case named && plain == 0:
		return best
	case size < compressFrom, named && plain > most:
		return codingIdentity
	}
	return best
}

// weight reads the parameters of one coding: 1 without, 0 for what can't be read.
func weight(params string) float64 {
	params = strings.ToLower(strings.Join(strings.Fields(params), ""))
	if params == "" {
		return 1
	}
	q, found := strings.CutPrefix(params, "q=")
	if !found {
		return 0
	}
	w, err := strconv.ParseFloat(q, 64)
	if err != nil || !(w >= 0 && w <= 1) { // NaN too
		return 0
	}
	return w
}
