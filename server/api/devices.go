package api

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/nudgesync/nudge/notify/device"
	"github.com/nudgesync/nudge/server/auth"
	"github.com/nudgesync/nudge/server/wire"
)

// Devices is the registry of devices that can be woken. Its calls cost the database a transaction each.
type Devices interface {
	// Register returns when the registration is durable. device.ErrForeign: the device is another user's.
	Register(ctx context.Context, r device.Registration) (device.Device, error)
	// Get and Remove know the user's own devices alone; device.ErrUnknown.
	Get(ctx context.Context, user, device string) (device.Device, error)
	Remove(ctx context.Context, user, device string) error
}

// registryPlaces is how many calls of Devices are made at once; the others wait for registryWait at most, and no
// more than registryLine of them. Phones register when they start, which a release has all of them do at once.
const (
	registryPlaces = 2
	registryWait   = 2 * time.Second
	registryLine   = 500
)

// registry is Devices behind a line of its own: registering must not use up what pushing needs.
type registry struct {
	devices Devices
	places  chan struct{}
	waiting atomic.Int64
	// rates are of registrations: of a device, and of a user with all devices.
	byDevice *buckets[deviceKey]
	byUser   *buckets[string]
}

// newRegistry returns nil for no devices: then nobody is pushed to.
func newRegistry(d Devices, perMinute int) *registry {
	if d == nil {
		return nil
	}
	return &registry{
		devices: d, places: make(chan struct{}, registryPlaces),
		byDevice: newBucketsOf[deviceKey](time.Minute/time.Duration(perMinute), perMinute),
		byUser:   newBucketsOf[string](time.Minute/time.Duration(perMinute*rateBurst), perMinute*rateBurst),
	}
}

// allow counts a request of a device.
func (g *registry) allow(key deviceKey, now time.Time) error {
	return allowBoth(g.byDevice, g.byUser, key, now, "this device registers too often", "this user's devices register too often")
}

// call has fn run in its turn.
func (g *registry) call(ctx context.Context, fn func(ctx context.Context) error) error {
	full := func() error {
		return wire.NewProblem(wire.Overloaded, "too many devices register at once").AfterAbout(2 * registryWait)
	}
	if g.waiting.Add(1) > registryLine {
		g.waiting.Add(-1)
		return full()
	}
	defer g.waiting.Add(-1)
	timer := time.NewTimer(registryWait)
	defer timer.Stop()
	select {
	case g.places <- struct{}{}:
	case <-timer.C:
		return full()
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-g.places }()
	return fn(ctx)
}

// asksRegistry says who asks about which device: nobody is told of another one than the asking one.
func (a *API) asksRegistry(r *http.Request) (key deviceKey, vouched bool, err error) {
	token, err := bearer(r.Header)
	if err != nil {
		return key, false, err
	}
	id, err := a.verify(r.Context(), token)
	if err != nil {
		return key, false, err
	}
	vouched = id.Device != ""
	name := r.Header.Get(wire.HeaderDevice)
	if name == "" { // then it is the token that says who asks
		name = id.Device
	}
	if id, err = a.admit(id, name); err != nil {
		return key, false, err
	}
	key = deviceKey{id.User, name}
	if r.PathValue("id") != name {
		return key, false, wire.NewProblem(wire.DeviceMismatch, "a device registers itself and no other")
	}
	if a.registry == nil {
		return key, false, wire.NewProblem(wire.PushUnconfigured, "this server pushes to no device")
	}
	return key, vouched, a.registry.allow(key, time.Now())
}

// withRegistry serves a request about the asking device with what fn answers.
func (a *API) withRegistry(w http.ResponseWriter, r *http.Request, fn func(ctx context.Context, key deviceKey, vouched bool) (*device.Device, error)) {
	key, vouched, err := a.asksRegistry(r)
	var d *device.Device
	if err == nil {
		ctx, cancel := context.WithTimeout(r.Context(), a.limits.Pull)
		defer cancel()
		d, err = fn(ctx, key, vouched)
	}
	switch {
	case err != nil:
		a.fail(w, r, a.registryProblem(key, err))
	case d == nil:
		w.WriteHeader(http.StatusNoContent)
	default:
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(registered(d))
	}
}

// registered is a device as it is told of: without its target.
func registered(d *device.Device) wire.Device {
	out := wire.Device{
		Device: d.Device, Road: d.Road, App: d.App, Environment: d.Environment, AppVersion: d.AppVersion,
		RegisteredAt: d.RegisteredAt.UTC(), Status: string(d.Status),
	}
	if d.Reason != "" {
		out.Reason = &d.Reason
	}
	return out
}

// registryProblem is what a device hears of an error of Devices.
func (a *API) registryProblem(key deviceKey, err error) error {
	var p *wire.Problem
	switch {
	case errors.As(err, &p), errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded), errors.Is(err, auth.ErrBlind):
		return err
	case errors.Is(err, device.ErrUnknown):
		return wire.NewProblem(wire.NotFound, "this device is not registered")
	case errors.Is(err, device.ErrForeign):
		p := wire.NewProblem(wire.DeviceMismatch, "the device is another user's")
		p.Hint = "Have that user delete it, or register under an id that this installation made for this user."
		return p
	case errors.Is(err, device.ErrInvalid):
		return invalid(err.Error(), "")
	}
	a.log.Error("the registry of devices failed", "device", key.device, "error", err)
	return wire.NewProblem(wire.DatabaseAway, "").AfterAbout(2 * time.Second)
}

// putDevice serves PUT /v1/devices/{id}.
func (a *API) putDevice(w http.ResponseWriter, r *http.Request) {
	a.withRegistry(w, r, func(ctx context.Context, key deviceKey, vouched bool) (*device.Device, error) {
		var body wire.Registration
		if err := decodeBody(w, r, &body); err != nil {
			return nil, err
		}
		reg := device.Registration{
			User: key.user, Device: key.device, Road: body.Road, App: body.App, Environment: body.Environment,
			AppVersion: body.AppVersion, Take: vouched,
		}
		var err error
		if reg.Target, err = readTarget(&body); err != nil {
			return nil, err
		}
		if reg.Environment, err = readEnvironment(&body); err != nil {
			return nil, err
		}
		if body.Road != wire.RoadNone && !a.cfg.Reaches(body.Road, body.App) {
			return nil, wire.NewProblem(wire.PushUnconfigured, "no provider is configured for this app on this road")
		}
		if body.Cursor != "" {
			if reg.Cursor, err = a.cfg.Engine.Saved(key.user, body.Cursor); err != nil {
				return nil, err
			}
		}
		if s := a.session(key); s != nil {
			reg.Session = s.id
		}
		var d device.Device
		err = a.registry.call(ctx, func(ctx context.Context) (err error) {
			d, err = a.registry.devices.Register(ctx, reg)
			return err
		})
		return &d, err
	})
}

// getDevice serves GET /v1/devices/{id}.
func (a *API) getDevice(w http.ResponseWriter, r *http.Request) {
	a.withRegistry(w, r, func(ctx context.Context, key deviceKey, _ bool) (*device.Device, error) {
		var d device.Device
		err := a.registry.call(ctx, func(ctx context.Context) (err error) {
			d, err = a.registry.devices.Get(ctx, key.user, key.device)
			return err
		})
		return &d, err
	})
}

// deleteDevice serves DELETE /v1/devices/{id}. Deleting what is not there is no error: the answer to a first try may
// have been lost.
func (a *API) deleteDevice(w http.ResponseWriter, r *http.Request) {
	a.withRegistry(w, r, func(ctx context.Context, key deviceKey, _ bool) (*device.Device, error) {
		err := a.registry.call(ctx, func(ctx context.Context) error {
			return a.registry.devices.Remove(ctx, key.user, key.device)
		})
		if errors.Is(err, device.ErrUnknown) {
			err = nil
		}
		return nil, err
	})
}
