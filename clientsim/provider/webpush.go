package provider

import (
	"encoding/json"
	"io"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"
)

const (
	webPayload = 4096                // bytes of an encrypted body: RFC 8030, 7.2
	webKeptFor = 28 * 24 * time.Hour // the longest TTL that the service grants
)

// webpushServer is a push service by RFC 8030 that asks for VAPID (RFC 8292).
type webpushServer struct {
	world  *world
	faults *faults
	origin string
}

var topicForm = regexp.MustCompile(`^[A-Za-z0-9_-]{1,32}$`)

func (s *webpushServer) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /push/{name}", s.push)
	return mux
}

func (s *webpushServer) push(w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("name")
	body, err := io.ReadAll(io.LimitReader(r.Body, webPayload+1))
	if err != nil {
		return // the client went
	}
	e := Entry{Provider: WebPush, Token: name}
	if f := s.faults.next(WebPush, name); f != nil {
		e.Event, e.Reason = EventFault, f.Kind
		s.world.log.add(e)
		if f.Kind == FaultAnswer {
			f.wait(r.Context())
			s.answer(w, e, webAnswer{status: f.Status, reason: f.Reason, after: time.Duration(f.After)})
			return
		}
		if playHTTP(w, r, f) {
			return
		}
	}
	s.answer(w, e, s.take(r, name, body, &e))
}

// webAnswer is a status; the reason goes into the body, for people.
type webAnswer struct {
	status int
	reason string
	after  time.Duration // Retry-After
	ttl    time.Duration // granted
}

func (s *webpushServer) answer(w http.ResponseWriter, e Entry, a webAnswer) {
	e.Event, e.Status, e.Reason = EventAnswered, a.status, a.reason
	s.world.log.add(e)
	if a.after > 0 {
		w.Header().Set("Retry-After", seconds(a.after))
	}
	if a.status == http.StatusCreated {
		w.Header().Set("Location", s.origin+"/message/"+newUUID())
		w.Header().Set("TTL", seconds(a.ttl))
		w.WriteHeader(a.status)
		return
	}
	writeJSON(w, a.status, map[string]any{"code": a.status, "message": a.reason})
}

// take delivers a message, or says why not.
func (s *webpushServer) take(r *http.Request, name string, body []byte, e *Entry) webAnswer {
	key, why := s.vapid(r.Header)
	switch {
	case why == "no VAPID":
		return webAnswer{status: http.StatusUnauthorized, reason: why}
	case why != "":
		return webAnswer{status: http.StatusForbidden, reason: why}
	}
	p, why := readPush(r.Header, s.world.clock.now())
	if why != "" {
		return webAnswer{status: http.StatusBadRequest, reason: why}
	}
	if len(body) > webPayload {
		return webAnswer{status: http.StatusRequestEntityTooLarge, reason: "payload too large"}
	}
	t, gone, _ := s.world.find(name)
	if t == nil || t.phone.cfg.Platform != Browser {
		return webAnswer{status: http.StatusNotFound, reason: "no such subscription"}
	}
	e.Phone = t.phone.cfg.ID
	if t.phone.cfg.VAPIDKey != key {
		return webAnswer{status: http.StatusForbidden, reason: "the subscription is another sender's"}
	}
	if !gone.IsZero() {
		return webAnswer{status: http.StatusGone, reason: "unsubscribed"}
	}
	now := s.world.clock.now()
	s.world.mu.Lock()
	wait, ok := t.quota.perMinute(now, pushPerToken)
	s.world.mu.Unlock()
	if !ok {
		return webAnswer{status: http.StatusTooManyRequests, reason: "too many for one subscription", after: wait}
	}
	// The service cannot look inside: a message that the browser cannot decrypt is accepted all the same.
	text, err := t.decrypt(body)
	if err != nil {
		s.world.log.add(Entry{
			Provider: WebPush, Event: EventDropped, Phone: t.phone.cfg.ID, Token: name, Reason: "undecryptable: " + err.Error(),
		})
	} else {
		var payload struct {
			Nudge string `json:"nudge"`
		}
		if json.Unmarshal(text, &payload) == nil { // the app gets a push of any content
			p.nudge, e.Nudge = payload.Nudge, payload.Nudge
		}
		s.world.deliver(t, p)
	}
	return webAnswer{status: http.StatusCreated, ttl: p.expires.Sub(now)}
}

// readPush reads the headers of RFC 8030.
func readPush(h http.Header, now time.Time) (*push, string) {
	if h.Get("Content-Encoding") != "aes128gcm" {
		return nil, "want Content-Encoding: aes128gcm"
	}
	ttl, err := strconv.ParseInt(h.Get("TTL"), 10, 32)
	if err != nil || ttl < 0 {
		return nil, "want a TTL"
	}
	p := &push{collapse: h.Get("Topic"), background: true}
	p.expires = now.Add(min(time.Duration(ttl)*time.Second, webKeptFor))
	if p.collapse != "" && !topicForm.MatchString(p.collapse) {
		return nil, "bad Topic"
	}
	switch urgency := strings.ToLower(h.Get("Urgency")); urgency {
	case "", "very-low", "low", "normal", "high":
		p.high = urgency == "high"
	default:
		return nil, "bad Urgency"
	}
	return p, ""
}
