package provider

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"time"
)

// Fault makes a provider misbehave on the requests it matches. All conditions that are given must
// hold; none given matches every request of the provider. The first fault that matches is played.
type Fault struct {
	ID       int64    `json:"id"`                     // given by the simulator
	Provider Name     `json:"provider"`               // whose requests
	Token    string   `json:"token_prefix,omitempty"` // requests for tokens that begin so
	From     int64    `json:"from,omitempty"`         // the provider's requests from this number on, counted from 1 at the start of the simulation
	To       int64    `json:"to,omitempty"`           // and up to this one
	Rate     float64  `json:"rate,omitempty"`         // of the requests otherwise matched, by chance; 0 is all
	Times    int64    `json:"times,omitempty"`        // how often it is played; 0 is always
	Kind     string   `json:"kind"`                   // one of the Fault constants
	Status   int      `json:"status,omitempty"`       // of FaultAnswer, FaultHTML and FaultGarbage
	Reason   string   `json:"reason,omitempty"`       // of FaultAnswer: an APNs reason or an FCM error code; of FaultGoaway: the reason
	After    Duration `json:"retry_after,omitempty"`  // of FaultAnswer: the Retry-After header
	Delay    Duration `json:"delay,omitempty"`        // before anything else, in real time; of all kinds
}

// Kinds of faults.
const (
	FaultSlow    = "slow"    // wait Delay, then answer as usual
	FaultAnswer  = "answer"  // Status and Reason in the provider's own form
	FaultHTML    = "html"    // a proxy's page, with Status (default 502)
	FaultGarbage = "garbage" // Status (default 200) with a body that is no JSON
	FaultHang    = "hang"    // never answer this request
	FaultReset   = "reset"   // reset the request's stream; Web Push and FCM: the connection
	FaultCut     = "cut"     // reset the connection
	FaultGoaway  = "goaway"  // APNs: answer as usual, send GOAWAY with Reason, close
)

// Duration is a time.Duration that JSON knows as text, such as "1m30s".
type Duration time.Duration

// MarshalText implements [encoding.TextMarshaler].
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// UnmarshalText implements [encoding.TextUnmarshaler].
func (d *Duration) UnmarshalText(b []byte) error {
	v, err := time.ParseDuration(string(b))
	*d = Duration(v)
	return err
}

func (f *Fault) validate() error {
	switch f.Provider {
	case APNs, Sandbox, FCM, OAuth, WebPush:
	default:
		return fmt.Errorf("fault: provider %q, want apns, apns-sandbox, fcm, oauth or webpush", f.Provider)
	}
	switch {
	case f.Rate < 0 || f.Rate > 1:
		return errors.New("fault: rate: want 0 to 1")
	case f.Delay < 0 || f.After < 0:
		return errors.New("fault: delay and retry_after: want no less than 0")
	case f.Status != 0 && (f.Status < 200 || f.Status > 599):
		return errors.New("fault: status: want 200 to 599")
	}
	apns := f.Provider == APNs || f.Provider == Sandbox
	switch f.Kind {
	case FaultAnswer:
		if f.Status == 0 && statusOf(f.Provider, f.Reason) == 0 {
			return fmt.Errorf("fault: reason %q is not one that %s gives; name a status", f.Reason, f.Provider)
		}
	case FaultGoaway:
		if !apns {
			return errors.New("fault: goaway is for apns and apns-sandbox")
		}
	case FaultSlow, FaultHTML, FaultGarbage, FaultHang, FaultReset, FaultCut:
	default:
		return fmt.Errorf("fault: kind %q is none", f.Kind)
	}
	return nil
}

func statusOf(name Name, reason string) int {
	switch name {
	case APNs, Sandbox:
		return apnsStatus[reason]
	case FCM:
		return fcmErrors[reason].code
	}
	return 0
}

// faults are those of all providers.
type faults struct {
	mu     sync.Mutex
	rand   *rand.Rand
	last   int64
	list   []*playing
	counts map[Name]int64 // requests
}

type playing struct {
	Fault
	played int64
}

func newFaults(seed uint64) *faults {
	return &faults{rand: rand.New(rand.NewPCG(seed, 1)), counts: make(map[Name]int64)}
}

func (s *faults) add(f Fault) (int64, error) {
	if err := f.validate(); err != nil {
		return 0, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last++
	f.ID = s.last
	s.list = append(s.list, &playing{Fault: f})
	return f.ID, nil
}

// remove removes the fault of that id, or all for 0. It reports whether there was one.
func (s *faults) remove(id int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	had := len(s.list)
	var left []*playing
	for _, f := range s.list {
		if id != 0 && f.ID != id {
			left = append(left, f)
		}
	}
	s.list = left
	return len(left) < had
}

func (s *faults) all() []Fault {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]Fault, 0, len(s.list))
	for _, f := range s.list {
		out = append(out, f.Fault)
	}
	return out
}

// next counts a request and returns the fault to be played on it, or nil.
func (s *faults) next(name Name, token string) *Fault {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.counts[name]++
	n := s.counts[name]
	for _, f := range s.list {
		if f.Provider != name || !strings.HasPrefix(token, f.Token) || n < f.From || f.To != 0 && n > f.To ||
			f.Times != 0 && f.played >= f.Times || f.Rate != 0 && s.rand.Float64() >= f.Rate {
			continue
		}
		f.played++
		fault := f.Fault
		return &fault
	}
	return nil
}

// wait waits the fault's delay, or for ctx.
func (f *Fault) wait(ctx context.Context) {
	if f.Delay == 0 {
		return
	}
	t := time.NewTimer(time.Duration(f.Delay))
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

const (
	htmlPage = "<!DOCTYPE html>\n<html><head><title>502 Bad Gateway</title></head><body><h1>Bad Gateway</h1></body></html>\n"
	garbage  = "{\"name\": \x00\xff not json"
)

func orDefault(status, otherwise int) int {
	if status == 0 {
		return otherwise
	}
	return status
}
