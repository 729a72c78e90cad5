package api

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nudgesync/nudge/changefeed/change"
	"github.com/nudgesync/nudge/server/auth"
	"github.com/nudgesync/nudge/server/pull"
	"github.com/nudgesync/nudge/server/wire"
)

// What a request may name at most.
const (
	maxNudgeID = 128 // bytes of a nudge id
	maxTables  = 100 // tables of a pull
)

// errGone is the end of a request whose client did not wait for the answer.
var errGone = errors.New("the client is gone")

// asked is what a pull asks for.
type asked struct {
	pull.Request
	nudge string        // the id of the nudge that caused it, "" if it named none
	etag  string        // the If-None-Match that stood in for since, "" if none did
	wait  time.Duration // for something new; 0: answer at once
}

// changes serves GET /v1/changes, the pull.
func (a *API) changes(w http.ResponseWriter, r *http.Request) {
	started := time.Now()
	source, status, waited := a.answerChanges(w, r)
	a.metrics.pulled(source, status, time.Since(started)-waited)
}

// answerChanges returns what the metrics name: the answer's source, its status or problem code, and the
// time that it waited for want of news.
func (a *API) answerChanges(w http.ResponseWriter, r *http.Request) (source, status string, waited time.Duration) {
	refuse := func(err error) (string, string, time.Duration) {
		if errors.Is(err, errGone) {
			return "none", "gone", waited
		}
		return "none", string(a.fail(w, r, err).Code), waited
	}
	id, device, err := a.identify(r)
	if err != nil {
		return refuse(err)
	}
	key := deviceKey{id.User, device}
	if err := a.rates.allow(key, time.Now()); err != nil {
		return refuse(err)
	}
	ask, err := a.readPull(r)
	if err != nil {
		return refuse(err)
	}
	ask.User, ask.Device = id.User, device
	// Whoever holds a session here is in the foreground, whatever woke it before.
	ask.Woken = ask.Woken && a.session(key) == nil
	var ans *pull.Answer
	if ask.wait > 0 && a.polling() == 0 {
		ans, waited, err = a.longPoll(w, r, id, ask)
	} else {
		ans, err = a.pullOnce(r.Context(), ask.Request)
	}
	if err == nil { // reading may have taken long
		err = a.cfg.Verifier.Check(id)
	}
	if err != nil {
		return refuse(err)
	}
	release, err := a.bodies.take(id.User, len(ans.Changes))
	if err != nil {
		return refuse(err)
	}
	defer release()
	a.heard(key, ask.Since, ans.Acked, ans.Upto)
	a.hear(key, pulled(ans, ask.nudge, ""))

	ans.PollAfterS = a.pollAfterS() // as of now: the order may have come during a wait
	h := w.Header()
	h.Set(wire.HeaderCursor, ans.Cursor)
	if ans.PollAfterS != nil { // a 304 has no body to say it in
		h.Set(wire.HeaderPollAfter, strconv.Itoa(*ans.PollAfterS))
	}
	if a.isDraining() {
		h.Set("Connection", "close") // the next pull goes to another node
	}
	if ask.etag != "" && ans.NothingNew {
		// A 304 repeats the validator that matched; the fresh cursor stands in its own header (A23).
		h.Set("ETag", ask.etag)
		varyByCoding(h)
		w.WriteHeader(http.StatusNotModified)
		return ans.Source, "304", waited
	}
	body := make([]byte, 0, len(ans.Changes)+len(ans.Cursor)+128)
	body = append(body, '{')
	body = ans.AppendMembers(body)
	body = append(body, '}')
	ans.Changes = nil // one copy is held while the client reads
	h.Set("ETag", `"`+ans.Cursor+`"`)
	a.writeBody(w, r, "application/json", body)
	return ans.Source, "200", waited
}

// pullOnce asks the engine, within the time of a pull.
func (a *API) pullOnce(ctx context.Context, r pull.Request) (*pull.Answer, error) {
	limited := &lateDeadline{parent: ctx, at: time.Now().Add(a.limits.Pull)}
	defer limited.stop()
	return a.enginePull(limited, r)
}

// enginePull asks the engine and notes what the answer cost.
func (a *API) enginePull(ctx context.Context, r pull.Request) (*pull.Answer, error) {
	began := time.Now()
	ans, err := a.cfg.Engine.Pull(ctx, r)
	if err == nil && ans.Source == "tail" {
		a.herd.pulled(time.Since(began))
	}
	return ans, err
}

// readPull reads the query, and If-None-Match where it stands in for since.
func (a *API) readPull(r *http.Request) (ask asked, err error) {
	query, err := readQuery(r, "since", "limit", "tables", "wait", "nudge")
	if err != nil {
		return ask, err
	}
	for name, value := range query {
		switch name {
		case "since":
			ask.Since = value
		case "limit":
			if ask.Limit, err = strconv.Atoi(value); err != nil || ask.Limit < 1 {
				return ask, invalid("limit is not a positive number", "")
			}
			ask.Limit = min(ask.Limit, a.limits.PageRows)
		case "tables":
			ask.Tables = strings.Split(value, ",")
			if len(ask.Tables) > maxTables {
				return ask, invalid("tables names too many", "Leave it out for all tables.")
			}
			for _, t := range ask.Tables {
				if t == "" {
					return ask, invalid("tables holds an empty name", "Separate names by commas; leave it out for all tables.")
				}
			}
		case "nudge":
			if len(value) > maxNudgeID {
				return ask, invalid("nudge is not an id of ours", "Send a nudge's id as it was received.")
			}
			ask.nudge = value
			ask.Woken = strings.HasPrefix(value, wire.PushNudge)
		case "wait":
			if ask.wait, err = time.ParseDuration(value); err != nil || ask.wait < 0 {
				return ask, invalid("wait is not a duration", "Send a number and a unit, as in wait=30s.")
			}
			ask.wait = min(ask.wait, a.limits.LongPoll)
		}
	}
	if match := r.Header.Get("If-None-Match"); match != "" && !query.has("since") {
		if ask.Since, err = cursorOf(match); err != nil {
			return ask, err
		}
		ask.etag = match
	}
	return ask, nil
}

// query is a request's, each parameter once.
type query map[string]string

func (q query) has(name string) bool {
	_, ok := q[name]
	return ok
}

// readQuery reads a query that may name these parameters.
func readQuery(r *http.Request, known ...string) (query, error) {
	if r.URL.RawQuery == "" {
		return nil, nil
	}
	values, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, invalid("the query can't be read", "Percent-encode its values.")
	}
	q := query{}
	for name, v := range values {
		switch {
		case !slices.Contains(known, name):
			return nil, invalid("a query parameter is not known", "This path takes "+strings.Join(known, ", ")+".")
		case len(v) > 1:
			return nil, invalid("a query parameter is there twice", "")
		}
		q[name] = v[0]
	}
	return q, nil
}

// cursorOf takes the cursor out of an entity tag. A proxy that compresses makes our tags weak.
func cursorOf(match string) (string, error) {
	tag := strings.TrimPrefix(match, "W/")
	cursor, ok := strings.CutPrefix(tag, `"`)
	if ok {
		cursor, ok = strings.CutSuffix(cursor, `"`)
	}
	if !ok || cursor == "" || strings.Contains(cursor, `"`) {
		return "", invalid("If-None-Match is not one entity tag", `Send the ETag of the last answer, as in If-None-Match: "<cursor>".`)
	}
	return cursor, nil
}

// identify says who asks: the token's user, and the device that the header names.
func (a *API) identify(r *http.Request) (auth.Identity, string, error) {
	token, err := bearer(r.Header)
	if err != nil {
		return auth.Identity{}, "", err
	}
	id, err := a.verify(r.Context(), token)
	if err != nil {
		return auth.Identity{}, "", err
	}
	device := r.Header.Get(wire.HeaderDevice)
	if id, err = a.admit(id, device); err != nil {
		return auth.Identity{}, "", err
	}
	return id, device, nil
}

// admit holds a verified identity against the device that it comes from, and names that in it: a device
// may be revoked although tokens name none.
func (a *API) admit(id auth.Identity, device string) (auth.Identity, error) {
	if err := checkDevice(id, device); err != nil {
		return auth.Identity{}, err
	}
	id.Device = device
	return id, a.cfg.Verifier.Check(id)
}

// verify is the verifier's answer, or a problem that names token or user.
func (a *API) verify(ctx context.Context, token string) (auth.Identity, error) {
	if token == "" {
		return auth.Identity{}, wire.NewProblem(wire.TokenMissing, "")
	}
	if len(token) > wire.MaxToken {
		return auth.Identity{}, wire.NewProblem(wire.TokenBad, "the token is above 8 KiB")
	}
	id, err := a.cfg.Verifier.Verify(ctx, token)
	if err != nil {
		return auth.Identity{}, err
	}
	if !change.ValidUser(id.User) {
		return auth.Identity{}, wire.NewProblem(wire.TokenBad, "the token names no usable user")
	}
	return id, nil
}

// bearer takes the token out of Authorization (RFC 6750 §2.1); "" if the header is not there.
func bearer(h http.Header) (string, error) {
	value := h.Get("Authorization")
	if value == "" {
		return "", nil
	}
	scheme, token, _ := strings.Cut(value, " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return "", wire.NewProblem(wire.TokenMissing, "Authorization is of another scheme than Bearer")
	}
	return strings.TrimSpace(token), nil
}

// checkDevice holds a device id against the alphabet and against the token.
func checkDevice(id auth.Identity, device string) error {
	if p := checkDeviceID(device); p != nil {
		return p
	}
	if id.Device != "" && id.Device != device {
		return wire.NewProblem(wire.DeviceMismatch, "")
	}
	return nil
}

// checkDeviceID is a problem of an id outside the alphabet, nil for a usable one.
func checkDeviceID(device string) *wire.Problem {
	if change.ValidDevice(device) {
		return nil
	}
	return invalid("the device id is missing or not usable",
		"Send 1 to 128 of A-Z a-z 0-9 . _ : - as "+wire.HeaderDevice+", or as device in hello.")
}
