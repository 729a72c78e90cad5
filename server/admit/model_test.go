package admit_test

import (
	"context"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/nudgesync/nudge/server/admit"
)

// model is the queue as one would write it without a thought for speed: a list of those that wait, looked through
// from the front whenever something has changed.
type model struct {
	cfg    admit.Config
	line   []guest // in the order of arrival
	in     []guest
	passed [3]int
}

type guest struct {
	name  string
	class admit.Class
	user  string
}

func (m *model) held(match func(guest) bool) int {
	n := 0
	for _, g := range m.in {
		if match(g) {
			n++
		}
	}
	return n
}

func (m *model) fits(g guest) bool {
	return len(m.in) < m.cfg.Places &&
		(g.class != admit.Snapshot || m.held(func(o guest) bool { return o.class == admit.Snapshot }) < m.cfg.Snapshots) &&
		(g.user == "" || m.held(func(o guest) bool { return o.user == g.user }) < m.cfg.UserPlaces)
}

func (m *model) come(g guest) {
	waiting := func(match func(guest) bool) int {
		return len(m.line) - len(slices.DeleteFunc(slices.Clone(m.line), match))
	}
	switch {
	case m.fits(g):
		m.in = append(m.in, g)
	case waiting(func(o guest) bool { return o.class == g.class }) >= m.cfg.Waiting,
		g.user != "" && waiting(func(o guest) bool { return o.user == g.user }) >= m.cfg.UserWaiting:
	default:
		m.line = append(m.line, g)
	}
}

// settle gives out places until nobody fits.
func (m *model) settle() {
	for {
		first := map[admit.Class]int{}
		for i, g := range m.line {
			if _, there := first[g.class]; !there && m.fits(g) {
				first[g.class] = i
			}
		}
		if len(first) == 0 {
			return
		}
		order := slices.Sorted(maps.Keys(first))
		chosen := order[0]
		for _, c := range order {
			if m.passed[c] >= 4 {
				chosen = c
				break
			}
		}
		for _, c := range order {
			if c > chosen {
				m.passed[c]++
			}
		}
		m.passed[chosen] = 0
		m.in = append(m.in, m.line[first[chosen]])
		m.line = slices.Delete(m.line, first[chosen], first[chosen]+1)
	}
}

func (m *model) drop(name string) {
	gone := func(g guest) bool { return g.name == name }
	m.line = slices.DeleteFunc(m.line, gone)
	m.in = slices.DeleteFunc(m.in, gone)
	m.settle()
}

func names(list []guest) []string {
	var out []string
	for _, g := range list {
		out = append(out, g.name)
	}
	slices.Sort(out)
	return out
}

// step is one of a run: somebody comes, leaves, or gives up.
type step struct {
	what  int // of 9: 0 to 4 come, 5 to 7 leave, 8 gives up
	class admit.Class
	user  string
	who   int // of those that could
}

// The queue does what the model does: never more in than may, nobody before their turn, nobody forgotten.
func TestPropertyQueueIsTheModel(t *testing.T) {
	steps := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) step {
		return step{
			what: rapid.IntRange(0, 8).Draw(t, "what"), class: admit.Class(rapid.IntRange(0, 2).Draw(t, "class")),
			user: rapid.SampledFrom([]string{"", "a", "b", "c", "*"}).Draw(t, "user"), who: rapid.IntRange(0, 99).Draw(t, "who"),
		}
	}), 1, 80)
	rapid.Check(t, func(rt *rapid.T) {
		cfg := admit.Config{
			Places: rapid.IntRange(1, 6).Draw(rt, "places"), UserPlaces: rapid.IntRange(1, 3).Draw(rt, "user places"),
			Waiting: rapid.IntRange(1, 8).Draw(rt, "waiting"), UserWaiting: rapid.IntRange(1, 5).Draw(rt, "user waiting"), Wait: time.Hour,
		}
		cfg.Snapshots = rapid.IntRange(1, cfg.Places).Draw(rt, "snapshots")
		plan := steps.Draw(rt, "steps")
		var wrong string // rapid must not leave a bubble by a panic
		synctest.Test(t, func(t *testing.T) { wrong = againstTheModel(t, cfg, plan) })
		if wrong != "" {
			rt.Fatal(wrong)
		}
	})
}

// againstTheModel returns what the queue did other than the model; "" for nothing.
func againstTheModel(t *testing.T, cfg admit.Config, plan []step) string {
	q, err := admit.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	m := &model{cfg: cfg}
	var mu sync.Mutex
	in := map[string]func(){}
	cancels := map[string]context.CancelFunc{}
	var everybody sync.WaitGroup
	come := func(g guest) {
		ctx, cancel := context.WithCancel(context.Background())
		cancels[g.name] = cancel
		everybody.Go(func() {
			if leave, err := q.Enter(ctx, g.class, g.user); err == nil {
				mu.Lock()
				defer mu.Unlock()
				in[g.name] = leave
			}
		})
	}
	leave := func(name string) {
		mu.Lock()
		f := in[name]
		delete(in, name)
		mu.Unlock()
		f()
	}
	defer func() {
		for _, cancel := range cancels {
			cancel()
		}
		everybody.Wait()
	}()
	same := func() string {
		synctest.Wait()
		mu.Lock()
		defer mu.Unlock()
		if got, want := slices.Sorted(maps.Keys(in)), names(m.in); !slices.Equal(got, want) {
			return fmt.Sprintf("in are %v, want %v; %v wait", got, want, names(m.line))
		}
		return ""
	}
	for i, s := range plan {
		switch {
		case s.what < 5:
			g := guest{name: fmt.Sprint(i), class: s.class, user: s.user}
			if s.user == "*" { // somebody new
				g.user = g.name
			}
			m.come(g)
			come(g)
		case s.what < 8 && len(m.in) > 0:
			name := m.in[s.who%len(m.in)].name
			m.drop(name)
			leave(name)
		case s.what == 8 && len(m.line) > 0:
			name := m.line[s.who%len(m.line)].name
			m.drop(name)
			cancels[name]()
		}
		if wrong := same(); wrong != "" {
			return fmt.Sprintf("step %d: %s", i, wrong)
		}
	}
	for len(m.in) > 0 { // everybody who waits is served in the end
		name := m.in[0].name
		m.drop(name)
		leave(name)
		if wrong := same(); wrong != "" {
			return "emptying: " + wrong
		}
	}
	if len(m.line) > 0 {
		return fmt.Sprintf("%v wait for nothing", names(m.line))
	}
	return ""
}

// Whoever gives up while a place comes takes none with them: after any number of such races all places are free,
// and at no time were there more.
func TestNoPlaceIsLost(t *testing.T) {
	const places = 3
	q, err := admit.New(admit.Config{Places: places, UserPlaces: places})
	if err != nil {
		t.Fatal(err)
	}
	var in atomic.Int32
	var everybody sync.WaitGroup
	for i := range 32 {
		everybody.Go(func() {
			for range 200 {
				ctx, cancel := context.WithCancel(t.Context())
				given := make(chan struct{})
				go func() { cancel(); close(given) }() // now, or a little later
				if leave, err := q.Enter(ctx, admit.Class(i%3), fmt.Sprint(i)); err == nil {
					if n := in.Add(1); n > places {
						t.Errorf("%d are in", n)
					}
					runtime.Gosched()
					in.Add(-1)
					leave()
				}
				<-given
			}
		})
	}
	everybody.Wait()
	for range places {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if _, err := q.Enter(ctx, admit.Foreground, ""); err != nil {
			t.Fatalf("a place was lost: %v", err)
		}
	}
}
