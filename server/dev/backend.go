package dev

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/nudgesync/nudge/server/wire"
)

const (
	maxBody = 1 << 10
	// refillBy is how much one refill supplies, in doses.
	refillBy = 30
)

// deviceName is what a device of the demo may call itself.
var deviceName = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)

// session is the demo's sign-in: GET /demo/session?user=7&device=phone-1 answers with a token.
func (a *App) session(w http.ResponseWriter, r *http.Request) {
	user, err := strconv.ParseInt(r.FormValue("user"), 10, 64)
	if err != nil || user < 1 {
		problem(w, wire.NewProblem(wire.RequestInvalid, "user must be a positive number"))
		return
	}
	device := r.FormValue("device")
	if !deviceName.MatchString(device) {
		problem(w, badDevice())
		return
	}
	var name string
	err = a.cfg.DB.QueryRow(r.Context(), "select name from public.users where id = $1", user).Scan(&name)
	if errors.Is(err, pgx.ErrNoRows) {
		problem(w, wire.NewProblem(wire.NotFound, "the demo has no such user"))
		return
	}
	if err != nil {
		a.away(w, "read the user", err)
		return
	}
	token, err := a.cfg.Sign(strconv.FormatInt(user, 10), device)
	if err != nil {
		a.away(w, "sign a token", err)
		return
	}
	answer(w, struct {
		Token string `json:"token"`
		User  person `json:"user"`
		Psql  string `json:"psql"`
	}{token, person{user, name}, a.cfg.Psql})
}

type person struct {
	ID   int64  `json:"id"`
	Name string `json:"name"`
}

// toggle ticks an intake off, or takes that back: POST /demo/intakes/{id}/toggle {"device":"phone-1"}.
func (a *App) toggle(w http.ResponseWriter, r *http.Request) {
	a.write(w, r, `update public.intakes set taken_at = case when taken_at is null then now() end
		where id = $1 and user_id = $2 returning updated_at`)
}

// refill supplies a pack: POST /demo/medications/{id}/refill {"device":"phone-1"}.
func (a *App) refill(w http.ResponseWriter, r *http.Request) {
	a.write(w, r, fmt.Sprintf(`update public.medications set supplied = supplied + %d, stock = stock + %[1]d
		where id = $1 and user_id = $2 returning updated_at`, refillBy))
}

// write runs one UPDATE of a row, which the caller must own, and names the writing device in the same
// transaction: nudge then does not nudge it for this. $1 is the row's id, $2 the user.
func (a *App) write(w http.ResponseWriter, r *http.Request, update string) {
	token, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	who, err := a.cfg.Verifier.Verify(r.Context(), token)
	if err != nil {
		problem(w, err)
		return
	}
	user, err := strconv.ParseInt(who.User, 10, 64)
	if err != nil {
		problem(w, wire.NewProblem(wire.TokenBad, "its subject is no user of the demo"))
		return
	}
	var id pgtype.UUID
	if err := id.Scan(r.PathValue("id")); err != nil {
		problem(w, wire.NewProblem(wire.RequestInvalid, "the id is no UUID"))
		return
	}
	device, err := readDevice(w, r)
	if err != nil {
		problem(w, err)
		return
	}
	if who.Device != "" && who.Device != device {
		problem(w, wire.NewProblem(wire.DeviceMismatch, ""))
		return
	}
	var updated time.Time
	err = pgx.BeginFunc(r.Context(), a.cfg.DB, func(tx pgx.Tx) error {
		if _, err := tx.Exec(r.Context(), "select nudge.origin($1)", device); err != nil {
			return err
		}
		return tx.QueryRow(r.Context(), update, id, user).Scan(&updated)
	})
	switch {
	case errors.Is(err, pgx.ErrNoRows): // another user's row looks the same as none
		problem(w, wire.NewProblem(wire.NotFound, "this user has no such row"))
	case err != nil:
		a.away(w, "write", err)
	default:
		answer(w, struct {
			ID        pgtype.UUID `json:"id"`
			UpdatedAt time.Time   `json:"updated_at"`
		}{id, updated})
	}
}

// readDevice reads the body. Its error is a *wire.Problem.
func readDevice(w http.ResponseWriter, r *http.Request) (string, error) {
	var body struct {
		Device string `json:"device"`
	}
	r.Body = http.MaxBytesReader(w, r.Body, maxBody)
	if err := decode(r, &body); err != nil {
		return "", err
	}
	if !deviceName.MatchString(body.Device) {
		return "", badDevice()
	}
	return body.Device, nil
}

// away logs what failed and tells the page no more than that it may try again.
func (a *App) away(w http.ResponseWriter, what string, err error) {
	a.cfg.Log.Error("the demo cannot answer", "doing", what, "error", err)
	problem(w, wire.NewProblem(wire.DatabaseAway, "").AfterAbout(time.Second))
}

func answer(w http.ResponseWriter, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "private, no-store")
	_ = json.NewEncoder(w).Encode(body) // the client went away
}

// problem answers with err, a *wire.Problem.
func problem(w http.ResponseWriter, err error) {
	var p *wire.Problem
	if !errors.As(err, &p) {
		p = wire.NewProblem(wire.RequestInvalid, "")
	}
	w.Header().Set("Content-Type", "application/problem+json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(p.Status)
	_ = json.NewEncoder(w).Encode(p) // the client went away
}

func notFound(w http.ResponseWriter, _ *http.Request) {
	problem(w, wire.NewProblem(wire.NotFound, ""))
}

func badDevice() *wire.Problem {
	return wire.NewProblem(wire.RequestInvalid, "device must be 1 to 64 of A-Z a-z 0-9 . _ -")
}
