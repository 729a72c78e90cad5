package provider_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nudgesync/nudge/clientsim/provider"
)

// park is a simulation without network, one phone of which is watched.
type park struct {
	*provider.Providers
	phone *provider.Phone
	sent  int
}

func newPark(t *testing.T, cfg provider.PhoneConfig) *park {
	t.Helper()
	p, err := provider.NewPhones(t.Context(), 7)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	cfg.App = "com.example.app"
	ph, err := p.AddPhone(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return &park{Providers: p, phone: ph}
}

// push sends one that lives a day: nudges are named 1, 2, 3 and so on.
func (p *park) push(edit ...func(*provider.Push)) {
	p.sent++
	push := provider.Push{Nudge: fmt.Sprint(p.sent), TTL: 24 * time.Hour}
	for _, e := range edit {
		e(&push)
	}
	p.phone.Receive(push)
}

func (p *park) set(change func(*provider.Switches)) { p.phone.Set(change) }

// tells holds what happened to pushes since the last call, such as "1 woken" or "2 held budget".
func (p *park) tells(t *testing.T, want ...string) {
	t.Helper()
	if got := p.happened(); !slices.Equal(got, want) {
		t.Errorf("happened %q, want %q", got, want)
	}
}

func (p *park) happened() []string {
	var got []string
	for _, e := range p.Log().Since(0) {
		if e.Nudge != "" {
			got = append(got, strings.TrimSpace(fmt.Sprint(e.Nudge, " ", e.Event, " ", e.Reason)))
		}
	}
	return got
}

func TestIOSBudget(t *testing.T) {
	t.Parallel()
	p := newPark(t, provider.PhoneConfig{Platform: provider.IOS})
	for range 6 {
		p.push()
	}
	got := p.happened()
	woken := slices.IndexFunc(got, func(s string) bool { return strings.Contains(s, "held") })
	if woken != 2 && woken != 3 {
		t.Fatalf("%d at once: %q", woken, got)
	}
	if last := got[len(got)-1]; last != "6 held budget" {
		t.Errorf("the newest is not what is held: %q", got)
	}
	p.Advance(59 * time.Minute)
	if again := p.happened(); !slices.Equal(again, got) {
		t.Errorf("within the hour: %q", again)
	}
	p.Advance(time.Minute)
	p.tells(t, append(got, "6 woken")...)
}

func TestIOSKeepsTheNewest(t *testing.T) {
	t.Parallel()
	p := newPark(t, provider.PhoneConfig{Platform: provider.IOS, Switches: provider.Switches{Offline: true}})
	p.push()
	p.push()
	p.set(func(s *provider.Switches) { s.Offline = false })
	p.tells(t, "1 held offline", "1 dropped replaced", "2 held offline", "2 woken")
}

func TestIOSStates(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name     string
		on       func(*provider.Switches)
		want     []string // while on
		released string   // once off
	}{
		{"offline", func(s *provider.Switches) { s.Offline = true }, []string{"1 held offline"}, "1 woken"},
		{"force-quit", func(s *provider.Switches) { s.ForceQuit = true }, []string{"1 dropped force-quit"}, ""},
		{"background refresh off", func(s *provider.Switches) { s.NoBackground = true }, []string{"1 dropped background refresh off"}, ""},
		{"low power", func(s *provider.Switches) { s.LowPower = true }, []string{"1 held low power"}, "1 woken"},
		{"low power, in use", func(s *provider.Switches) { s.LowPower, s.Foreground = true, true }, []string{"1 woken"}, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			p := newPark(t, provider.PhoneConfig{Platform: provider.IOS})
			p.set(tt.on)
			p.push()
			p.tells(t, tt.want...)
			p.set(func(s *provider.Switches) { *s = provider.Switches{} })
			if tt.released != "" {
				tt.want = append(tt.want, tt.released)
			}
			p.tells(t, tt.want...)
		})
	}
}

func TestIOSForegroundIsNotBudgeted(t *testing.T) {
	t.Parallel()
	p := newPark(t, provider.PhoneConfig{Platform: provider.IOS, Switches: provider.Switches{ForceQuit: true}})
	p.phone.Launch()
	for range 4 {
		p.push()
	}
	p.tells(t, "1 woken", "2 woken", "3 woken", "4 woken")
}

func TestAlertIsShownWithoutTheApp(t *testing.T) {
	t.Parallel()
	p := newPark(t, provider.PhoneConfig{Platform: provider.IOS, Switches: provider.Switches{ForceQuit: true, Offline: true}})
	p.push(func(q *provider.Push) { q.Alert = true })
	p.set(func(s *provider.Switches) { s.Offline = false })
	p.tells(t, "1 held offline", "1 shown")
}

func TestPushExpires(t *testing.T) {
	t.Parallel()
	for _, platform := range []provider.Platform{provider.IOS, provider.Android, provider.Browser} {
		p := newPark(t, provider.PhoneConfig{Platform: platform, Switches: provider.Switches{Offline: true}})
		p.push(func(q *provider.Push) { q.TTL = 0 }) // now or never
		p.push(func(q *provider.Push) { q.TTL = time.Minute })
		p.Advance(time.Minute)
		p.set(func(s *provider.Switches) { s.LowPower = true })
		p.tells(t, "1 dropped expired", "2 held offline", "2 dropped expired")
	}
}

func TestDoze(t *testing.T) {
	t.Parallel()
	p := newPark(t, provider.PhoneConfig{Platform: provider.Android})
	p.set(func(s *provider.Switches) { s.Doze = true })
	p.push(func(q *provider.Push) { q.Collapse = "n" })
	p.push(func(q *provider.Push) { q.Collapse = "n" })
	p.push(func(q *provider.Push) { q.Collapse, q.High = "n", true })
	want := []string{"1 held doze", "1 dropped replaced", "2 held doze", "3 woken"}
	p.tells(t, want...)
	p.Advance(59 * time.Minute)
	p.tells(t, want...)
	p.Advance(time.Minute) // the first window, for 5 minutes
	want = append(want, "2 woken")
	p.tells(t, want...)
	p.Advance(4 * time.Minute)
	p.push()
	want = append(want, "4 woken")
	p.tells(t, want...)
	p.Advance(time.Minute) // shut again, for two hours
	p.push()
	want = append(want, "5 held doze")
	p.tells(t, want...)
	p.Advance(2*time.Hour - time.Minute)
	p.tells(t, want...)
	p.Advance(time.Minute)
	p.tells(t, append(want, "5 woken")...)
}

func TestAndroidStates(t *testing.T) {
	t.Parallel()
	p := newPark(t, provider.PhoneConfig{Platform: provider.Android})
	p.set(func(s *provider.Switches) { s.ForceQuit = true })
	p.push(func(q *provider.Push) { q.High = true })
	p.set(func(s *provider.Switches) { *s = provider.Switches{LowPower: true} })
	p.push()
	p.set(func(s *provider.Switches) { *s = provider.Switches{NoBackground: true} })
	p.phone.Launch()
	p.tells(t, "1 dropped force-stopped", "2 held battery saver", "2 held background restricted", "2 woken")
}

func TestAndroidStoresSoMany(t *testing.T) {
	t.Parallel()
	p := newPark(t, provider.PhoneConfig{Platform: provider.Android, Switches: provider.Switches{Offline: true}})
	for i := range 5 {
		p.push(func(q *provider.Push) { q.Collapse = fmt.Sprint("key", i) })
	}
	for range 101 { // the last one finds the store full, and empties it
		p.push()
	}
	p.set(func(s *provider.Switches) { s.Offline = false })
	var woken []string
	for _, e := range p.Log().Since(0) {
		if e.Event == provider.EventWoken {
			woken = append(woken, e.Nudge)
		}
	}
	if want := []string{"2", "3", "4", "5", "106"}; !slices.Equal(woken, want) {
		t.Errorf("woken by %v, want %v", woken, want)
	}
}

func TestBrowserLowPowerTakesOnlyHighUrgency(t *testing.T) {
	t.Parallel()
	p := newPark(t, provider.PhoneConfig{Platform: provider.Browser, Switches: provider.Switches{LowPower: true}})
	p.push()
	p.push(func(q *provider.Push) { q.High = true })
	p.set(func(s *provider.Switches) { *s = provider.Switches{ForceQuit: true} })
	p.phone.Launch()
	p.tells(t, "1 held low power", "2 woken", "1 held closed", "1 woken")
}

func TestDuplicatesAndReordering(t *testing.T) {
	t.Parallel()
	p := newPark(t, provider.PhoneConfig{
		Platform: provider.Android, Switches: provider.Switches{Duplicate: 1, Reorder: 1, Latency: provider.Duration(time.Second)},
	})
	for range 10 {
		p.push()
	}
	p.tells(t)
	p.Advance(11 * time.Second)
	got := p.happened()
	sorted := slices.Clone(got)
	slices.Sort(sorted)
	if len(got) != 20 || len(slices.Compact(sorted)) != 10 {
		t.Errorf("ten pushes, twice each: %q", got)
	}
	inOrder := slices.Compact(slices.Clone(got))
	if len(inOrder) == 10 {
		t.Errorf("all in order: %q", got)
	}
}

func TestSeedRepeats(t *testing.T) {
	t.Parallel()
	run := func() []string {
		p := newPark(t, provider.PhoneConfig{
			Platform: provider.Android, Switches: provider.Switches{Duplicate: 0.5, Reorder: 0.5},
		})
		for range 20 {
			p.push()
		}
		p.Advance(time.Minute)
		return append(p.happened(), p.phone.Target().Value)
	}
	if a, b := run(), run(); !slices.Equal(a, b) {
		t.Errorf("%q\nand then\n%q", a, b)
	}
}

func TestAppIsKilledWhenItsTimeIsUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p, err := provider.NewPhones(t.Context(), 1)
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		begun := time.Now()
		var worked time.Duration
		slow, err := p.AddPhone(provider.PhoneConfig{
			ID: "slow", Platform: provider.IOS, App: "a", Wake: func(ctx context.Context, nudge string) {
				<-ctx.Done()
				worked = time.Since(begun)
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		var heard string
		quick, err := p.AddPhone(provider.PhoneConfig{
			ID: "quick", Platform: provider.Android, App: "a", Wake: func(_ context.Context, nudge string) { heard = nudge },
		})
		if err != nil {
			t.Fatal(err)
		}
		slow.Receive(provider.Push{Nudge: "s"})
		quick.Receive(provider.Push{Nudge: "q"})
		over, err := p.Log().Wait(t.Context(), 0, func(e provider.Entry) bool { return e.Event == provider.EventOverran })
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if worked != 30*time.Second || over.Phone != "slow" || heard != "q" {
			t.Errorf("%v worked, %q overran, %q heard", worked, over.Phone, heard)
		}
		if p.Log().Stats()[provider.FCM][provider.EventDone] != 1 {
			t.Error("the quick one is not done")
		}
	})
}

// Real time alone releases what waits for a time.
func TestClockRunsByItself(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p, err := provider.NewPhones(t.Context(), 1)
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		ph, err := p.AddPhone(provider.PhoneConfig{
			Platform: provider.Android, App: "a", Switches: provider.Switches{Latency: provider.Duration(3 * time.Second)},
		})
		if err != nil {
			t.Fatal(err)
		}
		ph.Receive(provider.Push{Nudge: "n"})
		begun := time.Now()
		if _, err := p.Log().Wait(t.Context(), 0, func(e provider.Entry) bool { return e.Event == provider.EventWoken }); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(begun); took != 3*time.Second {
			t.Errorf("took %v", took)
		}
	})
}
