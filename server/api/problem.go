package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nudgesync/nudge/server/wire"
)

// retryDefault is told to clients that are to come again when nobody knows better.
const retryDefault = time.Second

// problemOf makes every error a problem. What is not one already shows nothing of itself.
func problemOf(err error) *wire.Problem {
	var p *wire.Problem
	switch {
	case errors.As(err, &p):
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		p = wire.NewProblem(wire.Overloaded, "no answer in time")
	default:
		p = wire.NewProblem(wire.Internal, "")
	}
	if p.RetryAfterMS == 0 && (p.Status == http.StatusServiceUnavailable || p.Status == http.StatusTooManyRequests) {
		p = p.AfterAbout(retryDefault)
	}
	return p
}

// invalid is the problem of a request that says something it can't mean.
func invalid(detail, hint string) *wire.Problem {
	p := wire.NewProblem(wire.RequestInvalid, detail)
	p.Hint = hint
	return p
}

// fail answers with the problem of err, and logs what the client is not told.
func (a *API) fail(w http.ResponseWriter, r *http.Request, err error) *wire.Problem {
	p := a.explain(problemOf(err))
	if p.Code == wire.Internal {
		a.log.ErrorContext(r.Context(), "request failed", "path", r.URL.Path, "error", err)
	}
	if p.Code == wire.Draining {
		w.Header().Set("Connection", "close") // the next request goes to another node
	}
	writeProblem(w, p)
	return p
}

// explain has "starting" say what the node waits for, as /readyz does.
func (a *API) explain(p *wire.Problem) *wire.Problem {
	if p.Code != wire.Starting || p.Detail != "" {
		return p
	}
	err := a.cfg.Ready()
	if err == nil {
		return p
	}
	q := *p
	q.Detail = strings.Join(reasons(err), "; ")
	return &q
}

// writeProblem writes RFC 9457 problem details.
func writeProblem(w http.ResponseWriter, p *wire.Problem) {
	h := w.Header()
	h.Set("Content-Type", "application/problem+json")
	h.Set("Cache-Control", "private, no-store")
	if p.RetryAfterMS > 0 {
		h.Set("Retry-After", strconv.FormatInt((p.RetryAfterMS+999)/1000, 10)) // whole seconds, RFC 9110 §10.2.3
	}
	if p.Status == http.StatusUnauthorized {
		h.Set("WWW-Authenticate", "Bearer") // RFC 6750 §3
	}
	w.WriteHeader(p.Status)
	_ = json.NewEncoder(w).Encode(p) // a client that is gone needs no answer
}

func notFound(w http.ResponseWriter, _ *http.Request) {
	writeProblem(w, wire.NewProblem(wire.NotFound, ""))
}

// methods serves one path by method.
type methods map[string]http.HandlerFunc

func (m methods) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if h, ok := m[r.Method]; ok {
		h(w, r)
		return
	}
	var allow []string
	for method := range m {
		allow = append(allow, method)
	}
	slices.Sort(allow)
	w.Header().Set("Allow", strings.Join(allow, ", "))
	p := invalid("the method does not fit this path", "Use "+strings.Join(allow, " or ")+".")
	p.Status = http.StatusMethodNotAllowed
	writeProblem(w, p)
}

// guard keeps the server up when a handler panics, and sets what holds for every answer.
func (a *API) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rec := &recorder{ResponseWriter: w}
		defer func() {
			v := recover()
			if v == nil {
				return
			}
			if err, ok := v.(error); ok && errors.Is(err, http.ErrAbortHandler) {
				panic(v)
			}
			a.logPanic("request", v, "path", r.URL.Path)
			if !rec.wrote {
				writeProblem(w, wire.NewProblem(wire.Internal, ""))
			}
		}()
		w.Header().Set("Cache-Control", "private, no-store")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		next.ServeHTTP(rec, r)
	})
}

func (a *API) logPanic(where string, v any, args ...any) {
	a.log.With(args...).Error("panic", slog.String("in", where), slog.String("value", fmt.Sprint(v)),
		slog.String("stack", string(debug.Stack())))
}

// recorder remembers whether the answer has begun.
type recorder struct {
	http.ResponseWriter
	wrote bool
}

func (r *recorder) WriteHeader(status int) {
	r.wrote = true
	r.ResponseWriter.WriteHeader(status)
}

func (r *recorder) Write(p []byte) (int, error) {
	r.wrote = true
	return r.ResponseWriter.Write(p)
}

// Unwrap lets http.ResponseController find the connection.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }
