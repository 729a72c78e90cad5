package api

import (
	"context"
	"net/http"
	"net/url"
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
	maxDevice  = 128 // bytes of a device id
	maxNudgeID = 128 // bytes of a nudge id
	maxTables  = 100 // tables of a pull
)

// changes serves GET /v1/changes, the pull.
func (a *API) changes(w http.ResponseWriter, r *http.Request) {
	started := time.Now()
	source, status := a.answerChanges(w, r)
	a.metrics.pulled(source, status, time.Since(started))
}

// answerChanges returns what the metrics name: the answer's source, and its status or problem code.
func (a *API) answerChanges(w http.ResponseWriter, r *http.Request) (source, status string) {
	id, device, err := a.identify(r)
	if err != nil {
		return "none", string(a.fail(w, r, err).Code)
	}
	req, etag, err := a.pullRequest(r)
	if err != nil {
		return "none", string(a.fail(w, r, err).Code)
	}
	req.User, req.Device = id.User, device
	ctx, cancel := context.WithTimeout(r.Context(), a.limits.Pull)
	defer cancel()
	ans, err := a.cfg.Engine.Pull(ctx, req)
	if err != nil {
		return "none", string(a.fail(w, r, err).Code)
	}
	a.settle(deviceKey{id.User, device}, ans.Acked)
	a.served(deviceKey{id.User, device}, ans.Upto)

	h := w.Header()
	h.Set(wire.HeaderCursor, ans.Cursor)
	if etag != "" && ans.NothingNew {
		// A 304 repeats the validator that matched; the fresh cursor stands in its own header (A23).
		h.Set("ETag", etag)
		w.WriteHeader(http.StatusNotModified)
		return ans.Source, "304"
	}
	body := make([]byte, 0, len(ans.Changes)+len(ans.Cursor)+128)
	body = append(body, '{')
	body = ans.AppendMembers(body)
	body = append(body, '}')
	h.Set("ETag", `"`+ans.Cursor+`"`)
	a.writePage(w, r, body)
	return ans.Source, "200"
}

// pullRequest reads the query. etag is the If-None-Match that stood in for since, "" if none did.
func (a *API) pullRequest(r *http.Request) (req pull.Request, etag string, err error) {
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return req, "", invalid("the query can't be read", "Percent-encode its values.")
	}
	for name, values := range query {
		if len(values) > 1 {
			return req, "", invalid("a query parameter is there twice", "")
		}
		switch name {
		case "since":
			req.Since = values[0]
		case "limit":
			if req.Limit, err = strconv.Atoi(values[0]); err != nil || req.Limit < 1 {
				return req, "", invalid("limit is not a positive number", "")
			}
			req.Limit = min(req.Limit, a.limits.PageRows)
		case "tables":
			req.Tables = strings.Split(values[0], ",")
			if len(req.Tables) > maxTables {
				return req, "", invalid("tables names too many", "Leave it out for all tables.")
			}
			for _, t := range req.Tables {
				if t == "" {
					return req, "", invalid("tables holds an empty name", "Separate names by commas; leave it out for all tables.")
				}
			}
		case "nudge":
			if len(values[0]) > maxNudgeID {
				return req, "", invalid("nudge is not an id of ours", "Send a nudge's id as it was received.")
			}
		case "wait":
			return req, "", invalid("wait is not served by this version", "Leave it out, and pull when a nudge says so.")
		default:
			return req, "", invalid("a query parameter is not known", "There are since, limit, tables and nudge.")
		}
	}
	if match := r.Header.Get("If-None-Match"); match != "" && !query.Has("since") {
		if req.Since, err = cursorOf(match); err != nil {
			return req, "", err
		}
		return req, match, nil
	}
	return req, "", nil
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
	if validDevice(device) {
		return nil
	}
	return invalid("the device id is missing or not usable",
		"Send 1 to 128 of A-Z a-z 0-9 . _ : - as "+wire.HeaderDevice+", or as device in hello.")
}

func validDevice(id string) bool {
	if id == "" || len(id) > maxDevice {
		return false
	}
	for i := range len(id) {
		c := id[i]
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9',
			c == '.', c == '_', c == ':', c == '-':
		default:
			return false
		}
	}
	return true
}
