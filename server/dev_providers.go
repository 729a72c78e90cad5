package main

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/nudgesync/nudge/clientsim/provider"
	"github.com/nudgesync/nudge/notify/device"
	"github.com/nudgesync/nudge/server/api"
	"github.com/nudgesync/nudge/server/config"
	"github.com/nudgesync/nudge/server/dev"
)

// devGrace is short, so that a person at the page sees what happens to a device that registers behind.
const devGrace = 3 * time.Second

// startProviders starts the simulated push services, and the phones of the page and of clientsim behind them.
func (d *devCommand) startProviders(ctx context.Context) (*provider.Providers, error) {
	p, err := provider.Start(ctx, provider.Config{
		// Tokens of an earlier run must not come again: they would be other phones'.
		Seed: rand.Uint64(), Logger: d.log,
	})
	if err != nil {
		return nil, fail("dev_providers", err, "start the simulated push services")
	}
	return p, nil
}

// pushConfig has the node push through the simulated services as it would through the real ones. What it is given
// of their making lies beside the signing key.
func (d *devCommand) pushConfig(p *provider.Providers) (config.Push, error) {
	dir := filepath.Dir(d.keyFile)
	ca, key := filepath.Join(dir, "providers.pem"), filepath.Join(dir, "device.key")
	if err := os.WriteFile(ca, p.CA, 0o600); err != nil {
		return config.Push{}, fail("dev_state", err, "write the simulated push services' certificate")
	}
	if err := dev.EnsureDeviceKey(key); err != nil {
		return config.Push{}, fail("dev_state", err, "keep a key for devices' tokens")
	}
	sealing, err := os.ReadFile(key)
	if err != nil {
		return config.Push{}, fail("dev_state", err, "read the key for devices' tokens")
	}
	push := config.Push{
		Grace: devGrace, Budget: config.Default().Push.Budget, TokenKey: config.Secret(sealing),
		WebPush: config.WebPush{
			Subject: "mailto:dev@example.com", VAPIDKey: config.Secret(p.VAPID.Private), AllowHosts: []string{"127.0.0.1"}, CAFile: ca,
		},
	}
	var apps []string
	for _, k := range p.APNsKeys {
		apps = append(apps, k.Topics...)
		push.APNs = append(push.APNs, config.APNs{
			Team: k.Team, KeyID: k.KeyID, Key: config.Secret(k.P8), Topics: k.Topics, Endpoint: p.APNsURL, CAFile: ca,
		})
	}
	for _, a := range p.Accounts {
		push.FCM = append(push.FCM, config.FCM{
			Project: a.Project, Credentials: config.Secret(a.JSON), Apps: apps, Endpoint: p.FCMURL, CAFile: ca,
		})
	}
	return push, nil
}

// explain answers the page's question why a device is stale, as nudge explain does.
func (d *devCommand) explain(db *pgxpool.Pool, slot string) func(ctx context.Context, user, name string) (dev.Verdict, error) {
	known := newExplainer(db, slot, d.log)
	return func(ctx context.Context, user, name string) (dev.Verdict, error) {
		found, err := known.Explain(ctx, user, name)
		switch {
		case errors.Is(err, device.ErrUnknown):
			return dev.Verdict{Says: "It has not registered yet.", Stale: true}, nil
		case err != nil:
			return dev.Verdict{}, err
		}
		e := api.Explain(&found[0], time.Now())
		return dev.Verdict{Says: e.Verdict, Stale: e.Due != ""}, nil
	}
}
