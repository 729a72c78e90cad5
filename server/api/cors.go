package api

import (
	"net/http"
	"net/url"
	"strings"

	"github.com/nudgesync/nudge/server/wire"
)

// originAllowed reports whether a page of this origin may call. Requests of no page carry none.
func (a *API) originAllowed(r *http.Request) bool {
	origin := r.Header.Get("Origin")
	return origin == "" || a.origins[strings.ToLower(origin)] || sameHost(origin, r.Host)
}

func sameHost(origin, host string) bool {
	u, err := url.Parse(origin)
	return err == nil && u.Host != "" && strings.EqualFold(u.Host, host)
}

// cors answers browsers that ask on behalf of a page of another origin (the Fetch standard, "CORS
// protocol"). There are no cookies, so no credentials are allowed for either.
func (a *API) cors(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		origin := r.Header.Get("Origin")
		w.Header().Add("Vary", "Origin")
		if !a.originAllowed(r) {
			writeProblem(w, wire.NewProblem(wire.OriginForbidden, ""))
			return
		}
		if origin != "" {
			w.Header().Set("Access-Control-Allow-Origin", origin)
			w.Header().Set("Access-Control-Expose-Headers", "ETag, Retry-After, "+wire.HeaderCursor+", "+wire.HeaderPollAfter)
		}
		if r.Method == http.MethodOptions && r.Header.Get("Access-Control-Request-Method") != "" {
			h := w.Header()
			h.Set("Access-Control-Allow-Methods", "GET, POST, PUT, DELETE")
			h.Set("Access-Control-Allow-Headers", "Authorization, Content-Type, If-None-Match, Last-Event-ID, "+wire.HeaderDevice)
			h.Set("Access-Control-Max-Age", "600")
			w.WriteHeader(http.StatusNoContent)
			return
		}
		next.ServeHTTP(w, r)
	})
}
