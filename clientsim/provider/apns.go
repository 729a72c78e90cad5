package provider

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2"
)

// Environments of a device token.
const (
	Production         = "production"
	SandboxEnvironment = "sandbox"
)

// apnsStatus is Apple's table of reasons.
var apnsStatus = map[string]int{
	"BadCollapseId": 400, "BadDeviceToken": 400, "BadExpirationDate": 400, "BadMessageId": 400,
	"BadPriority": 400, "BadTopic": 400, "DeviceTokenNotForTopic": 400, "DuplicateHeaders": 400,
	"IdleTimeout": 400, "InvalidPushType": 400, "MissingDeviceToken": 400, "MissingTopic": 400,
	"PayloadEmpty": 400, "TopicDisallowed": 400,
	"BadCertificate": 403, "BadCertificateEnvironment": 403, "BadEnvironmentKeyIdInToken": 403,
	"ExpiredProviderToken": 403, "Forbidden": 403, "InvalidProviderToken": 403,
	"MissingProviderToken": 403, "UnrelatedKeyIdInToken": 403,
	"BadPath": 404, "MethodNotAllowed": 405, "ExpiredToken": 410, "Unregistered": 410,
	"PayloadTooLarge": 413, "TooManyProviderTokenUpdates": 429, "TooManyRequests": 429,
	"InternalServerError": 500, "ServiceUnavailable": 503, "Shutdown": 503,
}

const (
	apnsPayload     = 4096 // bytes
	apnsStreams     = 1000 // at once, once a token was valid; Apple promises no number
	badProviders    = 10   // errors about provider tokens that a connection survives, less one
	badTokenWindow  = 10 * time.Second
	defaultKeptDays = 30 // how long APNs keeps a push without apns-expiration
)

// apnsServer is one of APNs' two hosts.
type apnsServer struct {
	name   Name
	env    string
	world  *world
	faults *faults
	keys   []*APNsKey
	limit  int           // bad device tokens within badTokenWindow that a connection survives, less one
	conns  *atomic.Int64 // numbers connections

	mu   sync.Mutex
	open map[*h2conn]struct{}
}

// serve answers connections until the listener is closed, and then closes them.
func (s *apnsServer) serve(ctx context.Context, l net.Listener) {
	var work sync.WaitGroup
	for {
		nc, err := l.Accept()
		if err != nil {
			break
		}
		work.Go(func() { s.connection(ctx, nc) })
	}
	s.mu.Lock()
	for c := range s.open {
		_ = c.nc.Close()
	}
	s.mu.Unlock()
	work.Wait()
}

func (s *apnsServer) connection(ctx context.Context, nc net.Conn) {
	stop := context.AfterFunc(ctx, func() { _ = nc.Close() })
	defer stop()
	defer func() { _ = nc.Close() }()
	a := &apnsConn{apnsServer: s, nc: nc, id: s.conns.Add(1), verified: make(map[string]time.Time)}
	c := newH2conn(nc, h2limits{streams: 1, body: apnsPayload}, a.handle)
	s.mu.Lock()
	s.open[c] = struct{}{}
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.open, c)
		s.mu.Unlock()
	}()
	s.world.log.add(Entry{Provider: s.name, Event: EventConnected, Conn: a.id})
	_ = c.serve(ctx) // the peer went, or broke the protocol: no more can be said to it
}

// goaway asks all clients to go, with a reason.
func (s *apnsServer) goaway(reason string) {
	s.mu.Lock()
	conns := make([]*h2conn, 0, len(s.open))
	for c := range s.open {
		conns = append(conns, c)
	}
	s.mu.Unlock()
	for _, c := range conns {
		_ = c.goaway(reason, http2.ErrCodeNo) // a connection that broke meanwhile needs none
		s.world.log.add(Entry{Provider: s.name, Event: EventClosed, Reason: reason})
	}
}

// apnsConn is a connection: it belongs to the team of its first valid token.
type apnsConn struct {
	*apnsServer
	nc net.Conn
	id int64

	mu        sync.Mutex
	key       *APNsKey
	token     string    // newest provider token
	tokenAt   time.Time // when it came, by the sender's time
	verified  map[string]time.Time
	badAuth   int
	badTokens []time.Time
}

func (c *apnsConn) handle(ctx context.Context, r *h2request) h2response {
	device, _ := strings.CutPrefix(r.path, "/3/device/")
	f := c.faults.next(c.name, device)
	e := Entry{Provider: c.name, Conn: c.id, Token: device}
	if f != nil {
		f.wait(ctx)
		e.Event, e.Reason = EventFault, f.Kind
		c.world.log.add(e)
		if res, done := c.fault(ctx, f, r); done {
			return res
		}
	}
	id := r.headers["apns-id"]
	if id == "" {
		id = newUUID()
	}
	reason, gone := c.push(r, device, &e)
	res := h2response{status: 200, headers: [][2]string{{"apns-id", id}}}
	if reason == "" && c.env == SandboxEnvironment {
		res.headers = append(res.headers, [2]string{"apns-unique-id", newUUID()})
	}
	if reason != "" {
		res = apnsError(reason, gone, id)
	}
	c.account(reason, &res)
	if f != nil && f.Kind == FaultGoaway {
		res.goaway, res.code = f.Reason, http2.ErrCodeNo
	}
	e.Event, e.Status, e.Reason = EventAnswered, res.status, reason
	c.world.log.add(e)
	if res.goaway != "" {
		c.world.log.add(Entry{Provider: c.name, Conn: c.id, Event: EventClosed, Reason: res.goaway})
	}
	return res
}

// fault plays a fault; done is false if the request is to be answered as usual.
func (c *apnsConn) fault(ctx context.Context, f *Fault, r *h2request) (res h2response, done bool) {
	switch f.Kind {
	case FaultAnswer:
		reason := f.Reason
		res = apnsError(reason, c.world.senderTime(), newUUID())
		res.status = orDefault(f.Status, res.status)
		if f.After > 0 {
			res.headers = append(res.headers, [2]string{"retry-after", seconds(time.Duration(f.After))})
		}
		c.account(reason, &res)
		return res, true
	case FaultHTML:
		return h2response{
			status: orDefault(f.Status, 502), headers: [][2]string{{"content-type", "text/html"}}, body: []byte(htmlPage),
		}, true
	case FaultGarbage:
		return h2response{status: orDefault(f.Status, 200), body: []byte(garbage)}, true
	case FaultReset:
		return h2response{reset: true}, true
	case FaultHang:
		<-ctx.Done()
		return h2response{}, true
	case FaultCut:
		gated(c.nc).reset()
		return h2response{reset: true}, true
	}
	return res, false
}

func apnsError(reason string, gone time.Time, id string) h2response {
	body := struct {
		Reason    string `json:"reason"`
		Timestamp int64  `json:"timestamp,omitempty"` // ms since 1970
	}{Reason: reason}
	status := orDefault(apnsStatus[reason], 500)
	if status == 410 {
		body.Timestamp = gone.UnixMilli()
	}
	b, _ := json.Marshal(body) // of a string and a number
	return h2response{status: status, headers: [][2]string{{"apns-id", id}, {"content-type", "application/json"}}, body: b}
}

// account keeps the connection's budget of errors, and lifts the limit of streams.
func (c *apnsConn) account(reason string, res *h2response) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.key != nil {
		res.streams = apnsStreams
	}
	switch {
	case apnsStatus[reason] == 403:
		c.badAuth++
		if c.badAuth >= badProviders {
			res.goaway, res.code = reason, http2.ErrCodeEnhanceYourCalm
		}
	case reason == "BadDeviceToken":
		now := time.Now()
		c.badTokens = append(c.badTokens, now)
		for c.badTokens[0].Before(now.Add(-badTokenWindow)) {
			c.badTokens = c.badTokens[1:]
		}
		if len(c.badTokens) >= c.limit {
			res.goaway, res.code = reason, http2.ErrCodeEnhanceYourCalm
		}
	}
}

// push judges a request as Apple's "Handling notification responses from APNs" has it, and delivers
// what it accepts. The reason is empty then.
func (c *apnsConn) push(r *h2request, device string, e *Entry) (reason string, gone time.Time) {
	if r.method != "POST" {
		return "MethodNotAllowed", gone
	}
	if !strings.HasPrefix(r.path, "/3/device/") {
		return "BadPath", gone
	}
	key, reason := c.authenticate(r.headers["authorization"])
	if reason != "" {
		return reason, gone
	}
	p, reason := c.read(r, key)
	if reason != "" {
		return reason, gone
	}
	e.Nudge = p.nudge
	if device == "" {
		return "MissingDeviceToken", gone
	}
	if b, err := hex.DecodeString(device); err != nil || len(b) < 32 {
		return "BadDeviceToken", gone
	}
	t, gone, why := c.world.find(strings.ToLower(device))
	if t == nil || t.phone.cfg.Platform != IOS || t.phone.cfg.Environment != c.env {
		return "BadDeviceToken", gone
	}
	e.Phone = t.phone.cfg.ID
	if t.phone.cfg.App != r.headers["apns-topic"] {
		return "DeviceTokenNotForTopic", gone
	}
	if !gone.IsZero() {
		return why, gone
	}
	if !c.world.takeOne(t, apnsPerToken) {
		return "TooManyRequests", gone
	}
	c.world.deliver(t, p)
	return "", gone
}

// takeOne takes a push off the token's quota, if that is n a minute.
func (w *world) takeOne(t *issued, n float64) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	_, ok := t.quota.perMinute(w.clock.now(), n)
	return ok
}

// read checks headers and payload.
func (c *apnsConn) read(r *h2request, key *APNsKey) (*push, string) {
	h := r.headers
	if r.repeats {
		return nil, "DuplicateHeaders"
	}
	if id := h["apns-id"]; id != "" && !isUUID(id) {
		return nil, "BadMessageId"
	}
	now := c.world.clock.now()
	p := &push{collapse: h["apns-collapse-id"], expires: now.Add(defaultKeptDays * 24 * time.Hour)}
	if text, ok := h["apns-expiration"]; ok {
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil || n < 0 {
			return nil, "BadExpirationDate"
		}
		// A date by the sender's clock, kept as a length of time: the simulation's clock may be elsewhere.
		p.expires = now
		if n > 0 {
			p.expires = now.Add(time.Unix(n, 0).Sub(c.world.senderTime()))
		}
	}
	priority := h["apns-priority"]
	switch priority {
	case "", "10", "5", "1":
	default:
		return nil, "BadPriority"
	}
	if len(p.collapse) > 64 {
		return nil, "BadCollapseId"
	}
	switch topic := h["apns-topic"]; {
	case topic == "":
		return nil, "MissingTopic"
	case strings.ContainsAny(topic, " /"):
		return nil, "BadTopic"
	case !key.covers(topic):
		return nil, "TopicDisallowed"
	}
	kind := h["apns-push-type"]
	switch kind {
	case "alert", "background", "location", "voip", "complication", "fileprovider", "mdm", "liveactivity", "pushtotalk":
	default:
		return nil, "InvalidPushType"
	}
	if kind == "background" && priority != "5" && priority != "1" {
		return nil, "BadPriority" // the default is 10, and 10 is an error
	}
	switch {
	case r.size == 0:
		return nil, "PayloadEmpty"
	case r.size > apnsPayload:
		return nil, "PayloadTooLarge"
	}
	return p, readPayload(r.body, kind, p)
}

// readPayload fills p. Apple has no reason for a payload that is no JSON; PayloadEmpty comes nearest.
func readPayload(body []byte, kind string, p *push) string {
	var payload struct {
		APS   map[string]json.RawMessage `json:"aps"`
		Nudge string                     `json:"nudge"`
	}
	if err := json.Unmarshal(body, &payload); err != nil || payload.APS == nil {
		return "PayloadEmpty"
	}
	p.nudge = payload.Nudge
	p.background = string(payload.APS["content-available"]) == "1"
	_, p.alert = payload.APS["alert"]
	if kind == "background" && (!p.background || len(payload.APS) != 1) {
		return "InvalidPushType" // "the value must accurately reflect the contents": Apple may also just drop it
	}
	return ""
}

func (k *APNsKey) covers(topic string) bool {
	for _, t := range k.Topics {
		if t == topic {
			return true
		}
	}
	return false
}

// goawayData is what APNs sends in a GOAWAY.
func goawayData(reason string) []byte {
	b, _ := json.Marshal(map[string]string{"reason": reason}) // of strings
	return b
}

func newUUID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%X-%X-%X-%X-%X", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

func isUUID(s string) bool {
	if len(s) != 36 || s[8] != '-' || s[13] != '-' || s[18] != '-' || s[23] != '-' {
		return false
	}
	_, err := hex.DecodeString(strings.ReplaceAll(s, "-", ""))
	return err == nil
}

// seconds is a length of time as Retry-After has it, rounded up.
func seconds(d time.Duration) string {
	return strconv.FormatInt(int64((d+time.Second-1)/time.Second), 10)
}
