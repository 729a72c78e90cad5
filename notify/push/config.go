package push

import (
	"errors"
	"fmt"
	"log/slog"
	"time"
)

// Config is what a Dispatcher needs. Durations that are 0 get the defaults named here.
type Config struct {
	Store   Store
	Lanes   []Lane
	Alerts  map[string]Alert // by app: the text of a visible push for what is urgent; none: silent
	Log     *slog.Logger
	Metrics *Metrics

	Lease   time.Duration // how long Store holds a claim: 60 s
	Timeout time.Duration // of an attempt: 10 s
	Poll    time.Duration // the pause when nothing is due: 1 s. Wake ends it
	Drain   time.Duration // how long Run goes on for what is on its way when it is told to stop: 5 s
	Hold    time.Duration // how long a doubtful answer waits for what comes next: 10 s
	TTL     time.Duration // of a push: 24 h
}

// Lane is a sender and what it is for.
type Lane struct {
	Name        string // in logs and metrics, such as apns/TEAM/production
	Road        string
	Environment string   // a lane for every app may have "": any
	Apps        []string // none: every app of the road
	Sender      Sender

	Workers int           // attempts at the same time: 8
	Rate    float64       // pushes a second at most: 5,000
	Ramp    time.Duration // how long a large fan-out takes to reach Rate: 60 s; negative: none
	Floor   time.Duration // no retry comes sooner: 1 s. Google asks for 10 s
}

// margin is what settling may take.
const margin = 5 * time.Second

func (c Config) withDefaults() Config {
	for d, def := range map[*time.Duration]time.Duration{
		&c.Lease: time.Minute, &c.Timeout: 10 * time.Second, &c.Poll: time.Second, &c.Drain: 5 * time.Second,
		&c.Hold: 10 * time.Second, &c.TTL: 24 * time.Hour,
	} {
		if *d == 0 {
			*d = def
		}
	}
	lanes := make([]Lane, len(c.Lanes))
	for i, l := range c.Lanes {
		if l.Workers == 0 {
			l.Workers = 8
		}
		if l.Rate == 0 {
			l.Rate = 5000
		}
		if l.Ramp == 0 {
			l.Ramp = time.Minute
		}
		if l.Floor == 0 {
			l.Floor = time.Second
		}
		lanes[i] = l
	}
	c.Lanes = lanes
	return c
}

// Validate says what is missing or contradicts itself.
func (c Config) Validate() error {
	c = c.withDefaults()
	if c.Store == nil || c.Log == nil || c.Metrics == nil {
		return errors.New("push: store, log and metrics are needed")
	}
	if c.Lease < c.Timeout+c.Hold+2*margin {
		return fmt.Errorf("push: a lease of %v is too short for attempts of %v", c.Lease, c.Timeout)
	}
	names := map[string]bool{}
	type owned struct{ road, environment, app string }
	apps := map[owned]string{}
	for _, l := range c.Lanes {
		switch {
		case l.Name == "" || l.Road == "" || l.Sender == nil:
			return fmt.Errorf("push: lane %q needs name, road and sender", l.Name)
		case names[l.Name]:
			return fmt.Errorf("push: two lanes are named %s", l.Name)
		case len(l.Apps) > 0 && l.Environment == "":
			return fmt.Errorf("push: lane %s names apps, and not of which environment", l.Name)
		case l.Workers < 1 || l.Rate <= 0:
			return fmt.Errorf("push: lane %s: %d workers, rate %g", l.Name, l.Workers, l.Rate)
		}
		names[l.Name] = true
		of := l.Apps
		if len(of) == 0 {
			of = []string{""}
		}
		for _, app := range of {
			o := owned{l.Road, l.Environment, app}
			if other, taken := apps[o]; taken {
				return fmt.Errorf("push: lanes %s and %s both send for app %q", other, l.Name, app)
			}
			apps[o] = l.Name
		}
	}
	return nil
}

func (l Lane) selection() Selection {
	return Selection{Road: l.Road, Environment: l.Environment, Apps: l.Apps, Others: len(l.Apps) == 0}
}
