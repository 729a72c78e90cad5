package api

import (
	"compress/gzip"
	"net/http"
	"strconv"
	"strings"
	"sync"
)

// compressFrom is the body size, in bytes, below which compression does not save a packet.
const compressFrom = 1400

// gzipWriters are reused across answers: one takes some 800 KB to set up. The cheapest level already
// does most of what rows, which repeat their column names, have to gain.
type gzipWriters struct{ pool sync.Pool }

func (g *gzipWriters) get(w http.ResponseWriter) *gzip.Writer {
	if z, ok := g.pool.Get().(*gzip.Writer); ok {
		z.Reset(w)
		return z
	}
	z, _ := gzip.NewWriterLevel(w, gzip.BestSpeed) // the level is valid
	return z
}

// writePage writes a page, compressed if it is worth it and the client takes it.
func (a *API) writePage(w http.ResponseWriter, r *http.Request, body []byte) {
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Add("Vary", "Accept-Encoding")
	if len(body) < compressFrom || !acceptsGzip(r.Header) {
		h.Set("Content-Length", strconv.Itoa(len(body)))
		_, _ = w.Write(body) // a client that is gone pulls again
		return
	}
	h.Set("Content-Encoding", "gzip")
	z := a.gzip.get(w)
	defer a.gzip.pool.Put(z)
	_, _ = z.Write(body)
	_ = z.Close()
}

// acceptsGzip reads Accept-Encoding (RFC 9110 §12.5.3) as far as it matters: gzip named, not at q=0.
func acceptsGzip(h http.Header) bool {
	for _, value := range h.Values("Accept-Encoding") {
		for part := range strings.SplitSeq(value, ",") {
			coding, params, _ := strings.Cut(part, ";")
			if !strings.EqualFold(strings.TrimSpace(coding), "gzip") {
				continue
			}
			q, found := strings.CutPrefix(strings.ReplaceAll(params, " ", ""), "q=")
			weight, err := strconv.ParseFloat(q, 64)
			return !found || err == nil && weight > 0
		}
	}
	return false
}
