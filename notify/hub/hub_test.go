package hub_test

import (
	"fmt"
	"slices"
	"sync"
	"testing"

	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/nudgesync/nudge/changefeed/change"
	"github.com/nudgesync/nudge/notify/hub"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// session keeps its newest head, as every session must, and counts the calls.
type session struct {
	device string

	mu    sync.Mutex
	head  change.Position
	own   change.Position
	with  hub.Crowd
	calls int
}

func (s *session) Device() string { return s.device }

func (s *session) Own(head change.Position) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.own = head
}

func (s *session) Nudge(head change.Position, with hub.Crowd) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls++
	s.with = with
	if s.head.Before(head) {
		s.head = head
	}
}

func (s *session) hears(t *testing.T, want change.Position) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.head != want {
		t.Errorf("%s heard of %s, want %s", s.device, s.head, want)
	}
}

func at(n int) change.Position { return change.Position{Epoch: 1, LSN: change.LSN(n), Seq: 1} }

// frame writes each change as scope and origin; the first stands at 1.
func frame(changes ...[2]string) change.Frame {
	f := change.Frame{Epoch: 1, Next: at(len(changes) + 1)}
	for i, c := range changes {
		f.Changes = append(f.Changes, change.Change{Pos: at(i + 1), Scope: change.Scope(c[0]), Origin: c[1], Op: change.Upsert})
	}
	return f
}

var never change.Position

// A device is told of what it wrote itself, apart from its nudges, and of nobody else's.
func TestDeliverTellsTheWriter(t *testing.T) {
	h := hub.New()
	phone, tablet := &session{device: "phone"}, &session{device: "tablet"}
	h.Register([]change.Scope{"user:7"}, phone)
	h.Register([]change.Scope{"user:7"}, tablet)
	h.Deliver(frame([2]string{"user:7", "phone"}, [2]string{"user:7", "phone"}, [2]string{"user:7", ""}, [2]string{"user:8", "phone"}))
	if phone.own != at(2) || tablet.own != never {
		t.Errorf("the writer was told %s, the other %s", phone.own, tablet.own)
	}
	phone.hears(t, at(3))
	tablet.hears(t, at(3))
}

func TestDeliverToTheScopeOnly(t *testing.T) { // I10
	h := hub.New()
	one, two, both, none := &session{device: "1"}, &session{device: "2"}, &session{device: "both"}, &session{device: "none"}
	h.Register([]change.Scope{"user:1"}, one)
	h.Register([]change.Scope{"user:2"}, two)
	h.Register([]change.Scope{"user:1", "user:2", "user:1"}, both)
	h.Register(nil, none)
	h.Deliver(frame([2]string{"user:1"}, [2]string{"user:2"}, [2]string{"user:3"}))
	one.hears(t, at(1))
	two.hears(t, at(2))
	both.hears(t, at(2))
	none.hears(t, never)
	if both.calls != 2 {
		t.Errorf("%d calls for two scopes, one of them named twice", both.calls)
	}
}

func TestA15AllIsForEverySession(t *testing.T) {
	h := hub.New()
	writer, other, none := &session{device: "D"}, &session{device: "E"}, &session{}
	h.Register([]change.Scope{"user:1"}, writer)
	h.Register([]change.Scope{"user:2", change.All}, other)
	h.Register(nil, none)
	h.Deliver(frame([2]string{"user:1", "E"}, [2]string{string(change.All), "D"}))
	for _, s := range []*session{writer, other, none} {
		s.hears(t, at(2))
	}
	if other.calls != 1 {
		t.Errorf("%d calls", other.calls)
	}
}

// Each hears how many hear with it, and where that sends them.
func TestCrowd(t *testing.T) {
	of := func(op change.Op, scope, table string, why change.Reason) change.Change {
		return change.Change{Pos: at(1), Scope: change.Scope(scope), Op: op, Table: table, Reason: why}
	}
	upsert := of(change.Upsert, "user:0", "t", "")
	for name, c := range map[string]struct {
		frame change.Frame
		want  hub.Crowd // of the first session
	}{
		"a row of one":            {change.Frame{Changes: []change.Change{upsert}}, hub.Crowd{Sessions: 3}},
		"rows of two":             {change.Frame{Changes: []change.Change{upsert, of(change.Upsert, "user:1", "t", "")}}, hub.Crowd{Sessions: 6}},
		"a reset for everybody":   {change.Frame{Changes: []change.Change{of(change.Reset, "*", "t", change.ReasonSchema)}}, hub.Crowd{Sessions: 9, Source: hub.Tables}},
		"a table that is empty":   {change.Frame{Changes: []change.Change{of(change.Reset, "*", "t", change.ReasonTruncate)}}, hub.Crowd{Sessions: 9}},
		"a reset of one":          {change.Frame{Changes: []change.Change{of(change.Reset, "user:0", "*", change.ReasonGrant)}}, hub.Crowd{Sessions: 3, Source: hub.Tables}},
		"a row and a reset":       {change.Frame{Changes: []change.Change{upsert, of(change.Reset, "user:1", "*", change.ReasonGrant)}}, hub.Crowd{Sessions: 3}},
		"too large to be carried": {change.Frame{Prev: at(0), Next: at(1), HeadsOnly: true}, hub.Crowd{Sessions: 9, Source: hub.Log}},
		"the first":               {change.Frame{Next: at(1), HeadsOnly: true}, hub.Crowd{Sessions: 9, Source: hub.Log}},
		"a new epoch": {
			change.Frame{Prev: change.Position{Epoch: at(1).Epoch - 1, LSN: 9}, Next: at(1), HeadsOnly: true},
			hub.Crowd{Sessions: 9, Source: hub.Tables},
		},
	} {
		h := hub.New()
		sessions := make([]*session, 9)
		for i := range sessions {
			sessions[i] = &session{device: fmt.Sprint(i)}
			h.Register([]change.Scope{change.Scope(fmt.Sprintf("user:%d", i/3))}, sessions[i])
		}
		h.Deliver(c.frame)
		if got := sessions[0].with; got != c.want {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
	}
}

func TestHeadsOnlyIsForEverySession(t *testing.T) {
	h := hub.New()
	one, two := &session{}, &session{device: "D"}
	h.Register([]change.Scope{"user:1"}, one)
	h.Register(nil, two)
	h.Deliver(change.Frame{Epoch: 1, Next: at(9), HeadsOnly: true})
	one.hears(t, at(9))
	two.hears(t, at(9))
}

func TestA17WriterHearsOfTheOthersChanges(t *testing.T) {
	const s = "user:1"
	for _, c := range []struct {
		name    string
		origins []string
		d, e    int // newest change that D and E hear of
	}{
		{"D alone", []string{"D", "D"}, 0, 2},
		{"T1 by E, T2 by D", []string{"E", "D"}, 1, 2},
		{"T1 by D, T2 by E", []string{"D", "E"}, 2, 1},
		{"a third between", []string{"D", "X", "E", "D"}, 3, 4},
		{"back and forth", []string{"D", "E", "D", "E", "E"}, 5, 3},
		{"unsaid", []string{"", ""}, 2, 2},
		{"unsaid, then D", []string{"", "D"}, 1, 2},
		{"D, then unsaid", []string{"D", ""}, 2, 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := hub.New()
			d, e, unnamed := &session{device: "D"}, &session{device: "E"}, &session{}
			for _, x := range []*session{d, e, unnamed} {
				h.Register([]change.Scope{s}, x)
			}
			var changes [][2]string
			for _, o := range c.origins {
				changes = append(changes, [2]string{s, o})
			}
			h.Deliver(frame(changes...))
			for x, n := range map[*session]int{d: c.d, e: c.e, unnamed: len(c.origins)} {
				want := never
				if n > 0 {
					want = at(n)
				}
				x.hears(t, want)
			}
		})
	}
}

func TestAnnounce(t *testing.T) {
	h := hub.New()
	one, two, three := &session{}, &session{}, &session{}
	h.Register([]change.Scope{"user:1"}, one)
	h.Register([]change.Scope{"list:1"}, two)
	h.Register([]change.Scope{"user:3"}, three)
	h.Announce([]change.Scope{"user:1", "list:1", "list:9"}, at(4))
	one.hears(t, at(4))
	two.hears(t, at(4))
	three.hears(t, never)
}

func TestUnregisterFreesTheScope(t *testing.T) {
	h := hub.New()
	gone, stays := &session{}, &session{}
	unregister := h.Register([]change.Scope{"user:1", "list:1"}, gone)
	h.Register([]change.Scope{"list:1"}, stays)
	unregister()
	unregister()
	h.Deliver(frame([2]string{"user:1"}, [2]string{"list:1"}))
	gone.hears(t, never)
	stays.hears(t, at(2))
	if s := h.Stats(); s != (hub.Stats{Sessions: 1, Scopes: 1}) {
		t.Errorf("%+v", s)
	}
}

// TestHubAgainstModel holds the hub against the rule, said naively: a session hears of the newest change of
// its scopes that its device did not write, or that stands under change.All.
func TestHubAgainstModel(t *testing.T) {
	names := []change.Scope{"user:1", "user:2", "list:1", "list:2", change.All}
	devices := []string{"", "D", "E"}
	rapid.Check(t, func(t *rapid.T) {
		type registered struct {
			*session
			scopes     []change.Scope
			unregister func()
		}
		h, live := hub.New(), []registered{}
		t.Repeat(map[string]func(*rapid.T){
			"register": func(t *rapid.T) {
				s := &session{device: rapid.SampledFrom(devices).Draw(t, "device")}
				scopes := rapid.SliceOfN(rapid.SampledFrom(names), 0, 4).Draw(t, "scopes")
				live = append(live, registered{s, scopes, h.Register(scopes, s)})
			},
			"unregister": func(t *rapid.T) {
				if len(live) == 0 {
					t.Skip()
				}
				i := rapid.IntRange(0, len(live)-1).Draw(t, "which")
				live[i].unregister()
				live = slices.Delete(live, i, i+1)
			},
			"deliver": func(t *rapid.T) {
				f := change.Frame{Next: at(100)}
				for i := range rapid.IntRange(0, 6).Draw(t, "changes") {
					f.Changes = append(f.Changes, change.Change{
						Pos: at(i + 1), Scope: rapid.SampledFrom(names).Draw(t, "scope"), Origin: rapid.SampledFrom(devices).Draw(t, "origin"),
					})
				}
				h.Deliver(f)
				for _, r := range live {
					want := never
					for _, c := range f.Changes {
						for _, scope := range r.scopes {
							if scope == c.Scope && scope != change.All && (c.Origin == "" || c.Origin != r.device) {
								want = c.Pos
							}
						}
						if c.Scope == change.All {
							want = c.Pos
						}
					}
					if r.head != want {
						t.Fatalf("a session of %q in %v heard of %s, want %s", r.device, r.scopes, r.head, want)
					}
					r.head = never
				}
			},
			"": func(t *rapid.T) {
				scopes := map[change.Scope]bool{}
				for _, r := range live {
					for _, s := range r.scopes {
						scopes[s] = true
					}
				}
				delete(scopes, change.All)
				if got, want := h.Stats(), (hub.Stats{Sessions: len(live), Scopes: len(scopes)}); got != want {
					t.Fatalf("%+v, want %+v", got, want)
				}
			},
		})
	})
}

// Sessions come and go while frames are delivered: who is there for all of it hears of the last, who has
// left is not called any more.
func TestRace(t *testing.T) {
	h := hub.New()
	const frames, goers = 500, 4
	stays := &session{device: "stays"}
	h.Register([]change.Scope{"user:1"}, stays)
	var wg sync.WaitGroup
	for range goers {
		wg.Go(func() {
			for i := range frames {
				s := &session{device: fmt.Sprint(i)}
				unregister := h.Register([]change.Scope{"user:1", change.Scope(fmt.Sprint("list:", i))}, s)
				unregister()
				s.mu.Lock()
				calls := s.calls
				s.mu.Unlock()
				h.Announce([]change.Scope{"user:1"}, at(1))
				s.mu.Lock()
				if s.calls != calls {
					t.Error("called after unregister had returned")
				}
				s.mu.Unlock()
			}
		})
	}
	for i := range frames {
		wg.Go(func() {
			h.Deliver(change.Frame{Changes: []change.Change{{Pos: at(i + 1), Scope: "user:1"}}})
		})
	}
	wg.Wait()
	stays.hears(t, at(frames))
	if s := h.Stats(); s != (hub.Stats{Sessions: 1, Scopes: 1}) {
		t.Errorf("%+v", s)
	}
}

// counter is a session that costs as little as one can.
type counter struct{ device string }

func (c *counter) Device() string                   { return c.device }
func (c *counter) Nudge(change.Position, hub.Crowd) {}

func (c *counter) Own(change.Position) {}

const benchSessions = 15_000

func benchHub() *hub.Hub {
	h := hub.New()
	for i := range benchSessions {
		h.Register([]change.Scope{benchScope(i), change.Scope(fmt.Sprint("list:", i%100))}, &counter{device: fmt.Sprint(i)})
	}
	return h
}

// benchScope gives each user three sessions.
func benchScope(i int) change.Scope { return change.Scope(fmt.Sprint("user:", i/3)) }

func benchFrame(changes int) change.Frame {
	f := change.Frame{}
	for i := range changes {
		f.Changes = append(f.Changes, change.Change{Pos: at(i + 1), Scope: benchScope(i * 7 % benchSessions), Origin: fmt.Sprint(i)})
	}
	return f
}

func BenchmarkDeliver(b *testing.B) {
	h := benchHub()
	for name, f := range map[string]change.Frame{
		"1 change": benchFrame(1), "100 changes": benchFrame(100), "1 change of 150": frame([2]string{"list:1"}), "all": frame([2]string{string(change.All)}),
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				h.Deliver(f)
			}
		})
	}
}

// BenchmarkRegister is a session that comes and goes, alone and while frames are delivered without pause.
func BenchmarkRegister(b *testing.B) {
	for name, f := range map[string]*change.Frame{"quiet": nil, "busy": new(benchFrame(100))} {
		b.Run(name, func(b *testing.B) {
			h := benchHub()
			stop, done := make(chan struct{}), make(chan struct{})
			go func() {
				defer close(done)
				for f != nil {
					select {
					case <-stop:
						return
					default:
						h.Deliver(*f)
					}
				}
			}()
			scopes := []change.Scope{"user:1", "list:1"}
			s := &counter{device: "x"}
			b.ReportAllocs()
			for b.Loop() {
				h.Register(scopes, s)()
			}
			close(stop)
			<-done
		})
	}
}
