package push_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/nudgesync/nudge/notify/push"
)

// memory is a Store by the rules of Store: due devices with deadlines, claims with leases.
type memory struct {
	mu      sync.Mutex
	devices map[string]*row
	results []push.Result
	claims  int // statements
	settles int
	away    error         // what each call returns while it is set
	slow    time.Duration // how long the answer to a claim is on its way
	settled chan struct{}
}

type row struct {
	push.Due
	since    time.Time
	next     time.Time // zero: nothing to do
	disabled push.Verdict
}

func newMemory() *memory {
	return &memory{devices: map[string]*row{}, settled: make(chan struct{}, 1)}
}

// due makes n devices of an app due now, and returns their names.
func (s *memory) due(n int, like push.Due) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var names []string
	for range n {
		d := like
		d.Device = fmt.Sprintf("d%d", len(s.devices))
		if d.User == "" { // each has a phone
			d.User = "of " + d.Device
		}
		if d.Target.Value == "" {
			d.Target = push.Target{Kind: "token", Value: "secret-" + d.Device}
		}
		s.devices[d.Device] = &row{Due: d, since: time.Now(), next: time.Now()}
		names = append(names, d.Device)
	}
	return names
}

func (s *memory) Claim(ctx context.Context, of push.Selection, n int) ([]push.Due, error) {
	defer time.Sleep(s.slow)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.claims++
	if s.away != nil {
		return nil, s.away
	}
	now := time.Now()
	var rows []*row
	for _, r := range s.devices {
		if r.disabled == 0 && !r.next.IsZero() && !r.next.After(now) && r.Road == of.Road && r.Urgency >= of.Urgency &&
			slices.Contains(of.Apps, r.App) != of.Others && (of.Environment == "" || of.Environment == r.Environment) {
			rows = append(rows, r)
		}
	}
	slices.SortFunc(rows, func(a, b *row) int { return a.next.Compare(b.next) })
	var out []push.Due
	for _, r := range rows[:min(n, len(rows))] {
		r.next = now.Add(time.Minute)
		r.Claim++
		r.Attempts++
		r.DueFor = now.Sub(r.since)
		r.Nudge = fmt.Sprintf("p.%s.%d", r.Device, r.Claim)
		out = append(out, r.Due)
	}
	return out, nil
}

func (s *memory) Settle(ctx context.Context, results []push.Result) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.settles++
	if s.away != nil {
		return s.away
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	for _, r := range results {
		at := s.devices[r.Due.Device]
		if at.Claim != r.Due.Claim {
			continue
		}
		s.results = append(s.results, r)
		switch r.Verdict {
		case push.Later:
			at.next = time.Now().Add(r.Wait)
		case push.Sent:
			at.next = time.Time{} // its app acknowledges
		default:
			at.disabled = r.Verdict
		}
	}
	select {
	case s.settled <- struct{}{}:
	default:
	}
	return nil
}

// lease is how long the claim of that nudge still holds.
func (s *memory) lease(nudge string) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.devices {
		if r.Nudge == nudge {
			return time.Until(r.next)
		}
	}
	return 0
}

// silent is a store whose network takes the first call of each kind and never answers.
type silent struct {
	*memory
	claimed, settled atomic.Bool
}

func (s *silent) Claim(ctx context.Context, of push.Selection, n int) ([]push.Due, error) {
	if !s.claimed.Swap(true) {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return s.memory.Claim(ctx, of, n)
}

func (s *silent) Settle(ctx context.Context, results []push.Result) error {
	if !s.settled.Swap(true) {
		<-ctx.Done()
		return ctx.Err()
	}
	return s.memory.Settle(ctx, results)
}

// taken returns the results so far.
func (s *memory) taken() []push.Result {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.results)
}

func (s *memory) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.away = err
}

func (s *memory) count(v push.Verdict) int {
	n := 0
	for _, r := range s.taken() {
		if r.Verdict == v {
			n++
		}
	}
	return n
}

// sender is a push.Sender that takes its answers from a function.
type sender func(ctx context.Context, m push.Message) push.Answer

func (s sender) Send(ctx context.Context, m push.Message) push.Answer { return s(ctx, m) }

// accepts is a sender whose provider takes so long and accepts.
func accepts(took time.Duration) sender {
	return func(ctx context.Context, _ push.Message) push.Answer {
		select {
		case <-time.After(took):
			return push.Answer{Outcome: push.Accepted, Reason: "ok"}
		case <-ctx.Done():
			return push.Broken(ctx.Err())
		}
	}
}

func says(a push.Answer) sender { return func(context.Context, push.Message) push.Answer { return a } }

// run starts a dispatcher and returns a func that stops it and waits.
func run(t *testing.T, cfg push.Config) (*push.Dispatcher, func()) {
	t.Helper()
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	registry := prometheus.NewRegistry()
	m, err := push.NewMetrics(registry)
	if err != nil {
		t.Fatal(err)
	}
	cfg.Metrics = m
	d, err := push.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- d.Run(ctx) }()
	var once sync.Once
	stop := func() {
		once.Do(func() {
			cancel()
			if err := <-done; err != nil {
				t.Errorf("Run: %v", err)
			}
		})
	}
	t.Cleanup(stop)
	return d, stop
}

var errAway = errors.New("the database is away")
