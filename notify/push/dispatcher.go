package push

import (
	"context"
	"slices"
	"sync"
	"time"
)

// Dispatcher sends to due devices. Its methods may be called from any goroutine.
type Dispatcher struct {
	lanes []*lane
}

// New returns a dispatcher that Run sets to work.
func New(cfg Config) (*Dispatcher, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cfg = cfg.withDefaults()
	d := &Dispatcher{}
	for _, l := range cfg.Lanes {
		d.lanes = append(d.lanes, newLane(cfg, l, l.selection()))
	}
	for _, road := range []string{APNs, FCM, WebPush} {
		if sel, some := strays(road, cfg.Lanes); some {
			seldom := cfg
			seldom.Poll = time.Minute
			l := Lane{Name: road + "/unconfigured", Road: road, Sender: nobody{}, Workers: 1, Rate: 1000, Ramp: -1, Floor: time.Second}
			d.lanes = append(d.lanes, newLane(seldom, l, sel))
		}
	}
	return d, nil
}

// strays selects the road's devices that no lane is for; there are none if a lane takes every app.
func strays(road string, lanes []Lane) (Selection, bool) {
	sel := Selection{Road: road, Others: true}
	for _, l := range lanes {
		if l.Road != road {
			continue
		}
		if len(l.Apps) == 0 {
			return sel, false
		}
		for _, app := range l.Apps {
			if !slices.Contains(sel.Apps, app) {
				sel.Apps = append(sel.Apps, app)
			}
		}
	}
	return sel, true
}

// Run sends until ctx ends, and then for Config.Drain at most. When it returns, all that it started has ended.
func (d *Dispatcher) Run(ctx context.Context) error {
	var lanes sync.WaitGroup
	for _, l := range d.lanes {
		lanes.Go(func() { l.run(ctx) })
	}
	lanes.Wait()
	return nil
}

// Wake says that there may be due devices; without it they are found within Config.Poll.
func (d *Dispatcher) Wake() {
	for _, l := range d.lanes {
		notify(l.woken)
	}
}

// nobody is the sender of devices whose app is not configured.
type nobody struct{}

func (nobody) Send(context.Context, Message) Answer {
	return Answer{
		Outcome: Fault, Reason: "unknown_app",
		Hint: "no sender is configured for this app: add it under push in nudge.yaml, or remove its devices",
	}
}
