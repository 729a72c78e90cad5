package api

import (
	"net"
	"net/http"
	"net/http/pprof"
	"strings"

	"github.com/nudgesync/nudge/server/wire"
)

// Admin is the handler of the admin listener. It asks for no credentials, so it belongs on a loopback
// or otherwise closed address; that a browser on that machine can't be made to drive it is checked
// here.
func (a *API) Admin() http.Handler {
	mux := http.NewServeMux()
	a.health(mux)
	if a.cfg.MetricsHandler != nil {
		mux.Handle("/metrics", a.cfg.MetricsHandler)
	}
	if a.cfg.Trim != nil {
		mux.Handle("/v1/admin/log/trim", methods{http.MethodPost: a.trim})
	}
	if a.cfg.Revoke != nil {
		mux.Handle("/v1/admin/revocations", methods{http.MethodPost: a.revoke})
	}
	if a.cfg.Explain != nil {
		mux.Handle("/v1/admin/explain", methods{http.MethodGet: a.explainDevices})
	}
	if a.cfg.Polling != nil {
		mux.Handle("/v1/admin/poll", methods{
			http.MethodGet: a.getPolling, http.MethodPut: a.putPolling, http.MethodDelete: a.deletePolling,
		})
	}
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	mux.HandleFunc("/", notFound)
	return a.guard(a.noForeignPage(mux))
}

func (a *API) trim(w http.ResponseWriter, r *http.Request) {
	if err := a.cfg.Trim(r.Context()); err != nil {
		a.fail(w, r, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// noForeignPage refuses what a web page elsewhere could have made a browser send: requests under a
// host name that is not ours (DNS rebinding), and requests of another origin (CSRF).
func (a *API) noForeignPage(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		origin, site := r.Header.Get("Origin"), r.Header.Get("Sec-Fetch-Site")
		var hint string
		switch {
		case !a.adminHost(r.Host):
			hint = "Ask by IP address or as localhost, or add the name to the admin listener's hosts."
		case origin != "" && !sameHost(origin, r.Host),
			site != "" && site != "same-origin" && site != "none":
			hint = "Only pages of the admin listener itself may call it."
		default:
			next.ServeHTTP(w, r)
			return
		}
		p := wire.NewProblem(wire.OriginForbidden, "")
		p.Hint = hint
		writeProblem(w, p)
	})
}

func (a *API) adminHost(hostport string) bool {
	host := hostport
	if h, _, err := net.SplitHostPort(hostport); err == nil {
		host = h
	}
	host = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	if host == "localhost" || net.ParseIP(host) != nil {
		return true
	}
	for _, name := range a.cfg.AdminHosts {
		if strings.EqualFold(host, name) {
			return true
		}
	}
	return false
}
