package provider

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"
)

// Platform is what a phone runs. It decides which provider reaches it and by which rules an app is started.
type Platform string

// The platforms.
const (
	IOS     Platform = "ios"     // by APNs
	Android Platform = "android" // by FCM
	Browser Platform = "browser" // by Web Push
)

// PhoneConfig is one app on one phone.
type PhoneConfig struct {
	ID          string   `json:"id"` // made up if empty
	Platform    Platform `json:"platform"`
	App         string   `json:"app"`                   // bundle id or package; of a browser: whatever its owner calls it
	Environment string   `json:"environment,omitempty"` // iOS: production (default) or sandbox
	Project     string   `json:"project,omitempty"`     // Android: default the first of Config.Projects
	VAPIDKey    string   `json:"vapid_key,omitempty"`   // browser: the only sender it subscribes to; default the simulator's
	WakeURL     string   `json:"wake_url,omitempty"`    // a loopback URL that is sent {"phone", "nudge"} by POST, in Wake's place
	Switches    Switches `json:"switches"`

	// Wake is the app's work after a background push that carried the nudge id: it should pull. Its ctx
	// ends when the platform kills the app for taking too long. Calls may overlap. May be nil.
	Wake func(ctx context.Context, nudge string) `json:"-"`
}

// Switches are a phone's circumstances. All off: a phone in a pocket, online, the app in the background.
type Switches struct {
	Offline      bool     `json:"offline"`       // no network
	ForceQuit    bool     `json:"force_quit"`    // swiped away (iOS), force-stopped (Android), closed (browser), until launched
	NoBackground bool     `json:"no_background"` // background refresh off, or restricted
	LowPower     bool     `json:"low_power"`     // Low Power Mode, battery saver
	Doze         bool     `json:"doze"`          // Android, still and on battery: only windows in between
	Foreground   bool     `json:"foreground"`    // the app is on the screen
	Latency      Duration `json:"latency"`       // from provider to phone
	Duplicate    float64  `json:"duplicate"`     // share of pushes that arrive twice
	Reorder      float64  `json:"reorder"`       // share of pushes that arrive up to 10 s late, behind later ones
}

func (s Switches) validate() error {
	if s.Latency < 0 || s.Duplicate < 0 || s.Duplicate > 1 || s.Reorder < 0 || s.Reorder > 1 {
		return errors.New("switches: latency: want no less than 0; duplicate, reorder: want 0 to 1")
	}
	return nil
}

// Target is what a device registers with a server so that it can be reached.
type Target struct {
	Kind   string `json:"kind"`  // token or webpush
	Value  string `json:"value"` // the token, or the subscription's endpoint
	P256dh string `json:"p256dh,omitempty"`
	Auth   string `json:"auth,omitempty"`
}

// Phone is one app on one simulated phone. It is safe for concurrent use.
type Phone struct {
	world *world
	cfg   PhoneConfig // Switches aside, fixed

	// Guarded by world.mu.
	rand     *rand.Rand
	switches Switches
	dozing   time.Time // since when, if Doze is on
	token    *issued
	held     []*push     // what the provider or the phone keeps, in the order of sending
	wakes    []time.Time // in the background, within the last hour
	budget   int         // wakes an hour (iOS)
	woken    int64       // times the app ran for a push
}

// push is a message on its way to a phone.
type push struct {
	n          int64 // counts up in the order of sending
	nudge      string
	collapse   string    // "" does not collapse
	expires    time.Time // by the simulation's clock
	high       bool      // priority, or urgency, that gets through Doze
	alert      bool      // shows something
	background bool      // starts the app
}

// AddPhone adds a phone, installs its app and has it ask for a token.
func (p *Providers) AddPhone(cfg PhoneConfig) (*Phone, error) { return p.world.add(cfg) }

// Phone returns the phone of that id, or nil.
func (p *Providers) Phone(id string) *Phone {
	p.world.mu.Lock()
	defer p.world.mu.Unlock()
	return p.world.phones[id]
}

func (w *world) add(cfg PhoneConfig) (*Phone, error) {
	if cfg.App == "" {
		return nil, errors.New("phone: no app")
	}
	switch cfg.Platform {
	case IOS:
		if cfg.Environment == "" {
			cfg.Environment = Production
		}
		if cfg.Environment != Production && cfg.Environment != SandboxEnvironment {
			return nil, fmt.Errorf("phone: environment %q, want production or sandbox", cfg.Environment)
		}
	case Android:
		if cfg.Project == "" {
			cfg.Project = w.project
		}
	case Browser:
		if cfg.VAPIDKey == "" {
			cfg.VAPIDKey = w.vapidKey
		}
	default:
		return nil, fmt.Errorf("phone: platform %q, want ios, android or browser", cfg.Platform)
	}
	if err := cfg.Switches.validate(); err != nil {
		return nil, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	seed := w.rand.Uint64()
	if cfg.ID == "" {
		cfg.ID = fmt.Sprintf("phone-%d", len(w.phones)+1)
	}
	if w.phones[cfg.ID] != nil {
		return nil, fmt.Errorf("phone: there is a phone %q", cfg.ID)
	}
	if cfg.WakeURL != "" {
		wake, err := w.hook(cfg.WakeURL, cfg.ID)
		if err != nil {
			return nil, err
		}
		cfg.Wake = wake
	}
	ph := &Phone{world: w, cfg: cfg, rand: rand.New(rand.NewPCG(seed, 2))}
	ph.budget = 2 + ph.rand.IntN(2)
	ph.change(cfg.Switches)
	if err := ph.register("installed"); err != nil {
		return nil, err
	}
	w.phones[cfg.ID] = ph
	return ph, nil
}

// ID is the phone's id.
func (ph *Phone) ID() string { return ph.cfg.ID }

// Target is the app's present token or subscription.
func (ph *Phone) Target() Target {
	ph.world.mu.Lock()
	defer ph.world.mu.Unlock()
	return ph.token.target
}

// Switches returns the phone's circumstances.
func (ph *Phone) Switches() Switches {
	ph.world.mu.Lock()
	defer ph.world.mu.Unlock()
	return ph.switches
}

// Set changes the phone's circumstances, and delivers what they no longer hold back.
func (ph *Phone) Set(change func(*Switches)) {
	ph.world.mu.Lock()
	defer ph.world.mu.Unlock()
	s := ph.switches
	change(&s)
	ph.change(s)
	ph.note(EventSwitched, "", "")
	ph.release()
}

func (ph *Phone) change(s Switches) {
	if s.Doze && !ph.switches.Doze {
		ph.dozing = ph.world.clock.now()
	}
	ph.switches = s
}

// Launch is the person opening the app: it is on the screen and force-quit no more. That the app then
// pulls is the caller's to play: no push is involved.
func (ph *Phone) Launch() {
	ph.Set(func(s *Switches) { s.Foreground, s.ForceQuit = true, false })
}

// Rotate has the platform replace the token, as it does now and then; the old one is dead at once. The
// app learns of the new one from the result.
func (ph *Phone) Rotate() (Target, error) { return ph.renew("rotated", "ExpiredToken") }

// Reinstall removes the app and installs it anew: the old token is dead, and what was held is gone.
func (ph *Phone) Reinstall() (Target, error) { return ph.renew("reinstalled", "Unregistered") }

func (ph *Phone) renew(why, reason string) (Target, error) {
	ph.world.mu.Lock()
	defer ph.world.mu.Unlock()
	ph.token.retire(ph.world, reason)
	if reason == "Unregistered" {
		ph.drop("uninstalled")
	}
	if err := ph.register(why); err != nil {
		return Target{}, err
	}
	return ph.token.target, nil
}

// Uninstall removes the app: its token is dead from now on.
func (ph *Phone) Uninstall() {
	ph.world.mu.Lock()
	defer ph.world.mu.Unlock()
	ph.token.retire(ph.world, "Unregistered")
	ph.drop("uninstalled")
	ph.note(EventToken, "", "uninstalled")
}

// Restore installs the app again after [Phone.Uninstall] and gives it the same token, which works at
// once, though for the time of lag its provider still answers that the token is gone, with the old
// timestamp: a registration that races a 410.
func (ph *Phone) Restore(lag time.Duration) Target {
	ph.world.mu.Lock()
	defer ph.world.mu.Unlock()
	ph.token.restored = ph.world.clock.now().Add(lag)
	ph.note(EventToken, "", "restored")
	return ph.token.target
}

func (ph *Phone) drop(reason string) {
	for _, p := range ph.held {
		ph.note(EventDropped, p.nudge, reason)
	}
	ph.held = nil
}

// send puts a push on its way. The world is locked, here and below.
func (ph *Phone) send(p *push) {
	ph.travel(p)
	if s := ph.switches; s.Duplicate > 0 && ph.rand.Float64() < s.Duplicate {
		ph.travel(p)
	}
}

func (ph *Phone) travel(p *push) {
	s := ph.switches
	delay := time.Duration(s.Latency)
	if s.Reorder > 0 && ph.rand.Float64() < s.Reorder {
		delay += time.Duration(ph.rand.Int64N(int64(10 * time.Second)))
	}
	if delay == 0 {
		ph.arrive(p)
		return
	}
	ph.world.clock.at(ph.world.clock.now().Add(delay), func() {
		ph.world.mu.Lock()
		defer ph.world.mu.Unlock()
		ph.arrive(p)
	})
}

// arrive decides what becomes of a push: its app runs, it is kept, or it ends here.
func (ph *Phone) arrive(p *push) {
	now := ph.world.clock.now()
	if p.alert && !ph.switches.Offline {
		p.alert = false
		ph.note(EventShown, p.nudge, "")
		if !p.background {
			return
		}
	}
	v := ph.judge(p, now)
	switch {
	case v.drop:
		ph.note(EventDropped, p.nudge, v.reason)
	case !v.hold:
		ph.wake(p, now)
	case !p.expires.After(now):
		ph.note(EventDropped, p.nudge, "expired")
	default:
		ph.keep(p, v.reason)
		if !v.until.IsZero() {
			ph.world.clock.at(v.until, func() {
				ph.world.mu.Lock()
				defer ph.world.mu.Unlock()
				ph.release()
			})
		}
	}
}

// release tries again what is held.
func (ph *Phone) release() {
	held := ph.held
	ph.held = nil
	for _, p := range held {
		ph.arrive(p)
	}
}

func (ph *Phone) wake(p *push, now time.Time) {
	if !ph.switches.Foreground {
		ph.wakes = append(ph.wakes, now)
	}
	ph.woken++
	ph.note(EventWoken, p.nudge, "")
	if ph.cfg.Wake == nil {
		return
	}
	ph.world.work.Go(func() {
		ctx, cancel := context.WithTimeout(ph.world.ctx, workTime[ph.cfg.Platform])
		defer cancel()
		ph.cfg.Wake(ctx, p.nudge)
		event := EventDone
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			event = EventOverran
		}
		ph.note(event, p.nudge, "")
	})
}

func (ph *Phone) note(event, nudge, reason string) {
	token := ""
	if ph.token != nil {
		token = ph.token.name
	}
	ph.world.log.add(Entry{
		Provider: ph.provider(), Event: event, Phone: ph.cfg.ID, Token: token, Nudge: nudge, Reason: reason,
	})
}

func (ph *Phone) provider() Name {
	switch ph.cfg.Platform {
	case Android:
		return FCM
	case Browser:
		return WebPush
	}
	if ph.cfg.Environment == SandboxEnvironment {
		return Sandbox
	}
	return APNs
}
