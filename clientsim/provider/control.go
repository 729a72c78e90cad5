package provider

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"
)

// control is the control API; the package comment lists it.
type control struct{ *Providers }

func (c *control) handler() http.Handler {
	mux := http.NewServeMux()
	for pattern, fn := range map[string]func(*http.Request) (any, error){
		"GET /":                     c.overview,
		"POST /phones":              c.addPhones,
		"GET /phones/{id}":          c.phone,
		"PATCH /phones/{id}":        c.patchPhone,
		"POST /phones/{id}/{act}":   c.act,
		"POST /faults":              c.addFault,
		"GET /faults":               func(*http.Request) (any, error) { return c.Faults(), nil },
		"DELETE /faults":            c.removeFaults,
		"DELETE /faults/{id}":       c.removeFault,
		"POST /lines/{name}/{line}": c.setLine,
		"POST /goaway":              c.sendGoaway,
		"POST /clock":               c.moveClock,
		"GET /clock":                func(*http.Request) (any, error) { return c.clock(), nil },
		"GET /log":                  c.readLog,
		"GET /stats":                func(*http.Request) (any, error) { return c.Log().Stats(), nil },
	} {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			r.Body = http.MaxBytesReader(w, r.Body, 1<<20)
			v, err := fn(r)
			switch {
			case errors.Is(err, errNotFound):
				writeJSON(w, http.StatusNotFound, map[string]string{"error": err.Error()})
			case err != nil:
				writeJSON(w, http.StatusBadRequest, map[string]string{"error": err.Error()})
			default:
				writeJSON(w, http.StatusOK, v)
			}
		})
	}
	return mux
}

var errNotFound = errors.New("there is none of that name")

// decode reads a JSON body, which may be empty, and knows every key.
func decode(r *http.Request, v any) error {
	d := json.NewDecoder(r.Body)
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("body: %w", err)
	}
	return nil
}

// overview names everything that a sender needs to be told, key files aside.
func (c *control) overview(r *http.Request) (any, error) {
	if r.URL.Path != "/" {
		return nil, errNotFound
	}
	return c.Addresses(), nil
}

// Addresses is where everything is, in the form in which it is printed.
type Addresses struct {
	APNs     string        `json:"apns"`
	Sandbox  string        `json:"apns_sandbox"`
	FCM      string        `json:"fcm"`
	Token    string        `json:"fcm_token"`
	WebPush  string        `json:"webpush"`
	Control  string        `json:"control"`
	Teams    []*APNsKey    `json:"teams"`
	Projects []*FCMAccount `json:"projects"`
	VAPID    string        `json:"vapid_public_key"`
}

// Addresses returns where everything is.
func (p *Providers) Addresses() Addresses {
	return Addresses{
		APNs: p.APNsURL, Sandbox: p.SandboxURL, FCM: p.FCMURL, Token: p.TokenURL, WebPush: p.WebPushURL, Control: p.ControlURL,
		Teams: p.APNsKeys, Projects: p.Accounts, VAPID: p.VAPID.Public,
	}
}

// phoneView is a phone as the API shows it.
type phoneView struct {
	PhoneConfig
	Target Target `json:"target"`
	Held   int    `json:"held"` // pushes that wait for it
	Woken  int64  `json:"woken"`
}

func (ph *Phone) view() phoneView {
	ph.world.mu.Lock()
	defer ph.world.mu.Unlock()
	v := phoneView{PhoneConfig: ph.cfg, Target: ph.token.target, Held: len(ph.held), Woken: ph.woken}
	v.Switches = ph.switches
	return v
}

// maxPhones are as many as one request makes.
const maxPhones = 100_000

func (c *control) addPhones(r *http.Request) (any, error) {
	ask := struct {
		PhoneConfig
		Count int `json:"count"`
	}{Count: 1}
	if err := decode(r, &ask); err != nil {
		return nil, err
	}
	if ask.Count < 1 || ask.Count > maxPhones || ask.Count > 1 && ask.ID != "" {
		return nil, fmt.Errorf("count: want 1 to %d, and no id with more than 1", maxPhones)
	}
	views := make([]phoneView, 0, ask.Count)
	for range ask.Count {
		ph, err := c.AddPhone(ask.PhoneConfig)
		if err != nil {
			return nil, err
		}
		views = append(views, ph.view())
	}
	if ask.Count == 1 {
		return views[0], nil
	}
	return views, nil
}

func (c *control) find(r *http.Request) (*Phone, error) {
	ph := c.Phone(r.PathValue("id"))
	if ph == nil {
		return nil, errNotFound
	}
	return ph, nil
}

func (c *control) phone(r *http.Request) (any, error) {
	ph, err := c.find(r)
	if err != nil {
		return nil, err
	}
	return ph.view(), nil
}

func (c *control) patchPhone(r *http.Request) (any, error) {
	ph, err := c.find(r)
	if err != nil {
		return nil, err
	}
	var change json.RawMessage
	if err := decode(r, &change); err != nil {
		return nil, err
	}
	var none Switches
	d := json.NewDecoder(bytes.NewReader(change))
	d.DisallowUnknownFields()
	if err := d.Decode(&none); err != nil {
		return nil, fmt.Errorf("switches: %w", err)
	}
	if err := none.validate(); err != nil {
		return nil, err
	}
	ph.Set(func(s *Switches) { _ = json.Unmarshal(change, s) }) // decoded above: what is not named stays
	return ph.view(), nil
}

func (c *control) act(r *http.Request) (any, error) {
	ph, err := c.find(r)
	if err != nil {
		return nil, err
	}
	var ask struct {
		Lag Duration `json:"lag"`
	}
	if err := decode(r, &ask); err != nil {
		return nil, err
	}
	switch r.PathValue("act") {
	case "launch":
		ph.Launch()
	case "rotate":
		_, err = ph.Rotate()
	case "reinstall":
		_, err = ph.Reinstall()
	case "uninstall":
		ph.Uninstall()
	case "restore":
		ph.Restore(time.Duration(ask.Lag))
	default:
		return nil, errNotFound
	}
	if err != nil {
		return nil, err
	}
	return ph.view(), nil
}

func (c *control) addFault(r *http.Request) (any, error) {
	var f Fault
	if err := decode(r, &f); err != nil {
		return nil, err
	}
	id, err := c.AddFault(f)
	if err != nil {
		return nil, err
	}
	f.ID = id
	return f, nil
}

func (c *control) removeFaults(*http.Request) (any, error) {
	c.RemoveFault(0)
	return struct{}{}, nil
}

func (c *control) removeFault(r *http.Request) (any, error) {
	id, err := strconv.ParseInt(r.PathValue("id"), 10, 64)
	if err != nil || id == 0 || !c.RemoveFault(id) {
		return nil, errNotFound
	}
	return struct{}{}, nil
}

func (c *control) setLine(r *http.Request) (any, error) {
	return struct{}{}, c.SetLine(Name(r.PathValue("name")), Line(r.PathValue("line")))
}

func (c *control) sendGoaway(r *http.Request) (any, error) {
	ask := struct {
		Reason string `json:"reason"`
	}{Reason: "Shutdown"}
	if err := decode(r, &ask); err != nil {
		return nil, err
	}
	c.Goaway(ask.Reason)
	return struct{}{}, nil
}

type clockView struct {
	Now  time.Time `json:"now"`
	Skew Duration  `json:"skew"`
}

func (c *control) clock() clockView {
	return clockView{Now: c.Now().Round(0), Skew: Duration(c.world.skew.Load())}
}

func (c *control) moveClock(r *http.Request) (any, error) {
	var ask struct {
		Advance Duration  `json:"advance"`
		Skew    *Duration `json:"skew"`
	}
	if err := decode(r, &ask); err != nil {
		return nil, err
	}
	if ask.Advance < 0 {
		return nil, errors.New("advance: want no less than 0")
	}
	if ask.Skew != nil {
		c.Skew(time.Duration(*ask.Skew))
	}
	c.Advance(time.Duration(ask.Advance))
	return c.clock(), nil
}

// longestWait is how long a reader of the log is kept waiting for an entry.
const longestWait = 30 * time.Second

func (c *control) readLog(r *http.Request) (any, error) {
	q := r.URL.Query()
	var since int64
	var wait time.Duration
	var err error
	if text := q.Get("since"); text != "" {
		if since, err = strconv.ParseInt(text, 10, 64); err != nil {
			return nil, fmt.Errorf("since: %w", err)
		}
	}
	if text := q.Get("wait"); text != "" {
		if wait, err = time.ParseDuration(text); err != nil {
			return nil, fmt.Errorf("wait: %w", err)
		}
	}
	match := func(e Entry) bool {
		for key, value := range map[string]string{
			"provider": string(e.Provider), "event": e.Event, "phone": e.Phone, "nudge": e.Nudge,
		} {
			if want := q.Get(key); want != "" && want != value {
				return false
			}
		}
		return true
	}
	if wait > 0 {
		ctx, cancel := context.WithTimeout(r.Context(), min(wait, longestWait))
		defer cancel()
		_, _ = c.Log().Wait(ctx, since, match) // none in time: an empty list says so
	}
	entries := []Entry{}
	for _, e := range c.Log().Since(since) {
		if match(e) {
			entries = append(entries, e)
		}
	}
	return entries, nil
}
