package api

import (
	"encoding/json"
	"net/http"
)

// health adds what load balancers ask for.
func (a *API) health(mux *http.ServeMux) {
	mux.Handle("/livez", methods{http.MethodGet: a.livez, http.MethodHead: a.livez})
	mux.Handle("/readyz", methods{http.MethodGet: a.readyz, http.MethodHead: a.readyz})
}

type healthAnswer struct {
	Status     string   `json:"status"`
	WaitingFor []string `json:"waiting_for,omitempty"`
}

// livez says that the process answers, and nothing else: a database that is away is no reason to
// restart it.
func (a *API) livez(w http.ResponseWriter, _ *http.Request) {
	writeHealth(w, http.StatusOK, healthAnswer{Status: "ok"})
}

func (a *API) readyz(w http.ResponseWriter, _ *http.Request) {
	if a.isDraining() {
		writeHealth(w, http.StatusServiceUnavailable, healthAnswer{Status: "draining"})
		return
	}
	if err := a.cfg.Ready(); err != nil {
		writeHealth(w, http.StatusServiceUnavailable, healthAnswer{Status: "starting", WaitingFor: reasons(err)})
		return
	}
	answer := healthAnswer{Status: "ready"}
	if a.cfg.Waiting != nil {
		if err := a.cfg.Waiting(); err != nil { // some have to wait; most are served, and another node does no better
			answer.WaitingFor = reasons(err)
		}
	}
	writeHealth(w, http.StatusOK, answer)
}

// reasons takes joined errors apart.
func reasons(err error) []string {
	joined, ok := err.(interface{ Unwrap() []error }) // only the outermost join is a list of parts
	if !ok {
		return []string{err.Error()}
	}
	var out []string
	for _, e := range joined.Unwrap() {
		out = append(out, reasons(e)...)
	}
	return out
}

func writeHealth(w http.ResponseWriter, status int, answer healthAnswer) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(answer) // a client that is gone needs no answer
}
