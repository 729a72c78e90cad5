package provider

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"
)

// FCM's limits: of a message's payload and of a project.
const (
	fcmPayload  = 4096    // bytes of data
	fcmBody     = 1 << 20 // bytes of a request that are read
	fcmProject  = 600_000 // messages a minute
	fcmKeptFor  = 28 * 24 * time.Hour
	fcmTokenMin = 100 // characters of a registration token, at least
)

// fcmServer is Firebase Cloud Messaging's HTTP v1 API, and the token endpoint for its service accounts.
type fcmServer struct {
	world    *world
	faults   *faults
	accounts []*FCMAccount
	open     bool // no Authorization is asked for
	oauth    *oauth

	mu       sync.Mutex
	projects map[string]*bucket
}

func (s *fcmServer) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /token", s.oauth.token)
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		project, ok := sendPath(r)
		if !ok {
			writeHTML(w, http.StatusNotFound) // Google's front door knows no such API
			return
		}
		s.send(w, r, project)
	})
	return mux
}

// sendPath finds the project in POST /v1/projects/{project}/messages:send.
func sendPath(r *http.Request) (project string, ok bool) {
	rest, ok := strings.CutPrefix(r.URL.Path, "/v1/projects/")
	if !ok || r.Method != http.MethodPost {
		return "", false
	}
	project, ok = strings.CutSuffix(rest, "/messages:send")
	return project, ok && project != "" && !strings.Contains(project, "/")
}

func (s *fcmServer) send(w http.ResponseWriter, r *http.Request, project string) {
	body, err := io.ReadAll(io.LimitReader(r.Body, fcmBody))
	if err != nil {
		return // the client went
	}
	m, bad := readMessage(body)
	f := s.faults.next(FCM, m.Message.Token)
	e := Entry{Provider: FCM, Token: m.Message.Token, Nudge: m.Message.Data["nudge"]}
	if f != nil {
		e.Event, e.Reason = EventFault, f.Kind
		s.world.log.add(e)
		if s.fault(w, r, f) {
			return
		}
	}
	answer := s.authorize(r, project)
	if answer == nil {
		answer = bad
	}
	if answer == nil {
		answer = s.take(m, project, &e)
	}
	e.Event, e.Status, e.Reason = EventAnswered, http.StatusOK, ""
	if answer != nil {
		e.Status, e.Reason = answer.code, answer.reason()
		s.world.log.add(e)
		answer.write(w)
		return
	}
	s.world.log.add(e)
	writeJSON(w, http.StatusOK, map[string]string{"name": "projects/" + project + "/messages/0:" + newUUID()})
}

// fault plays a fault; it reports whether the request is answered with that.
func (s *fcmServer) fault(w http.ResponseWriter, r *http.Request, f *Fault) bool {
	if f.Kind != FaultAnswer {
		return playHTTP(w, r, f)
	}
	f.wait(r.Context())
	a := fcmCode(f.Reason, "A fault of the simulation")
	if _, known := fcmErrors[f.Reason]; !known {
		a = fcmPlain(f.Status, f.Reason, "A fault of the simulation")
	}
	a.code = orDefault(f.Status, a.code)
	a.after = time.Duration(f.After)
	s.world.log.add(Entry{Provider: FCM, Event: EventAnswered, Status: a.code, Reason: a.reason()})
	a.write(w)
	return true
}

// authorize checks the access token and that its account may send for the project.
func (s *fcmServer) authorize(r *http.Request, project string) *fcmAnswer {
	var known bool
	for _, a := range s.accounts {
		known = known || a.Project == project
	}
	if !s.open {
		of, ok := s.oauth.project(r.Header.Get("Authorization"))
		switch {
		case !ok:
			return fcmPlain(401, "UNAUTHENTICATED", "Request had invalid authentication credentials.")
		case of != project && known:
			return fcmPlain(403, "PERMISSION_DENIED", "Permission 'cloudmessaging.messages.create' denied on resource.")
		}
	}
	if !known {
		return fcmPlain(404, "NOT_FOUND", "Requested entity was not found.")
	}
	return nil
}

// take delivers a message, or says why not.
func (s *fcmServer) take(m *fcmMessage, project string, e *Entry) *fcmAnswer {
	token := m.Message.Token
	s.mu.Lock()
	b := s.projects[project]
	if b == nil {
		b = new(bucket)
		s.projects[project] = b
	}
	wait, ok := b.take(s.world.clock.now(), fcmProject, time.Minute/fcmProject)
	s.mu.Unlock()
	if !ok {
		return fcmQuota("message rate", wait)
	}
	if len(token) < fcmTokenMin || !strings.Contains(token, ":") {
		return fcmCode("INVALID_ARGUMENT", "The registration token is not a valid FCM registration token")
	}
	t, gone, _ := s.world.find(token)
	if t == nil || !gone.IsZero() || t.phone.cfg.Platform != Android {
		return fcmCode("UNREGISTERED", "Requested entity was not found.")
	}
	e.Phone = t.phone.cfg.ID
	if t.phone.cfg.Project != project {
		return fcmCode("SENDER_ID_MISMATCH", "SenderId mismatch")
	}
	now := s.world.clock.now()
	p := &push{
		nudge: m.Message.Data["nudge"], collapse: m.Message.Android.CollapseKey,
		expires: now.Add(time.Duration(m.ttl)), high: m.Message.Android.Priority == "high",
		alert: m.Message.Notification != nil, background: len(m.Message.Data) > 0,
	}
	if m.ValidateOnly {
		return nil
	}
	s.world.mu.Lock()
	quota, wait := t.quota.fcm(now, p.collapse != "")
	s.world.mu.Unlock()
	if quota != "" {
		return fcmQuota(quota, wait)
	}
	s.world.deliver(t, p)
	return nil
}

// fcmMessage is as much of a request as nudging needs; what other platforms are told in it is accepted as
// it is.
type fcmMessage struct {
	ValidateOnly bool `json:"validate_only"`
	Message      struct {
		Name         string            `json:"name"`
		Token        string            `json:"token"`
		Topic        string            `json:"topic"`
		Condition    string            `json:"condition"`
		Data         map[string]string `json:"data"`
		Notification json.RawMessage   `json:"notification"`
		Android      struct {
			CollapseKey  string          `json:"collapse_key"`
			Priority     string          `json:"priority"`
			TTL          string          `json:"ttl"`
			Package      string          `json:"restricted_package_name"`
			Notification json.RawMessage `json:"notification"`
			DirectBoot   bool            `json:"direct_boot_ok"`
			Options      json.RawMessage `json:"fcm_options"`
		} `json:"android"`
		Webpush json.RawMessage `json:"webpush"`
		APNs    json.RawMessage `json:"apns"`
		Options json.RawMessage `json:"fcm_options"`
	} `json:"message"`

	ttl Duration
}

// readMessage reads a request. The message is never nil.
func readMessage(body []byte) (*fcmMessage, *fcmAnswer) {
	m := &fcmMessage{ttl: Duration(fcmKeptFor)}
	d := json.NewDecoder(strings.NewReader(string(body)))
	d.DisallowUnknownFields()
	if err := d.Decode(m); err != nil {
		field := ""
		if te, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
			field = te.Field
		}
		return m, fcmField(field, err.Error())
	}
	size := 0
	for k, v := range m.Message.Data {
		size += len(k) + len(v)
		if k == "from" || k == "message_type" || strings.HasPrefix(k, "google.") || strings.HasPrefix(k, "gcm.") {
			return m, fcmCode("INVALID_ARGUMENT", fmt.Sprintf("Invalid data payload key: %s", k))
		}
	}
	if size > fcmPayload {
		return m, fcmCode("INVALID_ARGUMENT", "Android message is too big")
	}
	switch m.Message.Android.Priority {
	case "", "normal", "high", "NORMAL", "HIGH":
	default:
		return m, fcmField("message.android.priority", "Invalid value")
	}
	m.Message.Android.Priority = strings.ToLower(m.Message.Android.Priority)
	if ttl := m.Message.Android.TTL; ttl != "" {
		d, err := time.ParseDuration(ttl)
		if err != nil || !strings.HasSuffix(ttl, "s") || d < 0 || d > fcmKeptFor {
			return m, fcmField("message.android.ttl", "Invalid TTL: "+ttl)
		}
		m.ttl = Duration(d)
	}
	targets := 0
	for _, t := range []string{m.Message.Token, m.Message.Topic, m.Message.Condition} {
		if t != "" {
			targets++
		}
	}
	if targets != 1 {
		return m, fcmCode("INVALID_ARGUMENT", "Exactly one of token, topic or condition is required")
	}
	if m.Message.Token == "" {
		return m, fcmPlain(501, "UNIMPLEMENTED", "The simulation knows no topics")
	}
	return m, nil
}

// playHTTP plays a fault that all providers over net/http know. It reports whether the request is
// answered with that.
func playHTTP(w http.ResponseWriter, r *http.Request, f *Fault) bool {
	f.wait(r.Context())
	switch f.Kind {
	case FaultHTML:
		writeHTML(w, orDefault(f.Status, http.StatusBadGateway))
	case FaultGarbage:
		w.WriteHeader(orDefault(f.Status, http.StatusOK))
		_, _ = io.WriteString(w, garbage) // the client went
	case FaultHang:
		<-r.Context().Done()
	case FaultCut:
		gated(r.Context().Value(connKey{}).(net.Conn)).reset()
		panic(http.ErrAbortHandler)
	case FaultReset:
		panic(http.ErrAbortHandler) // resets the stream, or the connection of HTTP/1
	default:
		return false
	}
	return true
}

func writeHTML(w http.ResponseWriter, status int) {
	w.Header().Set("Content-Type", "text/html; charset=UTF-8")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, htmlPage) // the client went
}
