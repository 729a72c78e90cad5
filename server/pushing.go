package main

import (
	"context"
	"crypto/x509"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"slices"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/nudgesync/nudge/notify/device"
	"github.com/nudgesync/nudge/notify/push"
	"github.com/nudgesync/nudge/notify/push/apns"
	"github.com/nudgesync/nudge/notify/push/fcm"
	"github.com/nudgesync/nudge/notify/push/webpush"
	"github.com/nudgesync/nudge/server/config"
)

// fcmFloor is how soon Google lets a failed push be tried again.
const fcmFloor = 10 * time.Second

// pushing is what a node has for devices without a socket. Every node registers and hears them; those with the role
// push also mark who is due, and send.
type pushing struct {
	store   *device.Store
	inbox   *device.Inbox
	metrics *pushMetrics
	log     *slog.Logger

	marker     *device.Marker   // nil without the role push, and so is
	dispatcher *push.Dispatcher // this one
	close      []func()         // of the senders
}

// newPushing makes the parts that a configuration describes, nil if it has no provider.
func newPushing(cfg *config.Config, pool *pgxpool.Pool, log *slog.Logger, r prometheus.Registerer) (_ *pushing, err error) {
	if !cfg.Push.On() {
		return nil, nil
	}
	p := &pushing{metrics: newPushMetrics(r), log: log}
	keys, err := device.NewKeys(cfg.Push.TokenKeys()...)
	if err != nil {
		return nil, &config.Error{Code: config.Invalid, Key: "push.token_key", Message: "push.token_key: " + err.Error()}
	}
	p.store = device.NewStore(device.Config{
		Pool: pool, Slot: cfg.Source.Slot, Keys: keys, Grace: cfg.Push.Grace, Urgency: urgencies(cfg.Tables),
		Intervals: map[string]time.Duration{
			device.RoadAPNs: cfg.Push.Budget.APNs, device.RoadFCM: cfg.Push.Budget.FCM, device.RoadWebPush: cfg.Push.Budget.WebPush,
		},
		Alerts: slices.Sorted(maps.Keys(cfg.Push.Alerts)), Pulled: p.metrics.pulledAfter, Log: log,
	})
	p.inbox = p.store.NewInbox()
	if !slices.Contains(cfg.Roles, config.RolePush) {
		return p, nil
	}
	defer func() {
		if err != nil {
			p.closeSenders()
		}
	}()
	metrics, err := push.NewMetrics(r)
	if err != nil {
		return nil, err
	}
	lanes, err := p.lanes(&cfg.Push, metrics)
	if err != nil {
		return nil, fail("push_sender", err, "make the senders of pushes", "mend push in nudge.yaml")
	}
	alerts := make(map[string]push.Alert, len(cfg.Push.Alerts))
	for app, a := range cfg.Push.Alerts {
		alerts[app] = push.Alert{TitleLocKey: a.TitleLocKey, BodyLocKey: a.BodyLocKey}
	}
	p.dispatcher, err = push.New(push.Config{
		Store: dueStore{p.store}, Lanes: lanes, Alerts: alerts, Log: log, Metrics: metrics, Lease: device.Lease,
	})
	if err != nil {
		return nil, err
	}
	p.marker = p.store.NewMarker(p.marked)
	return p, nil
}

// lanes makes a sender for each provider, team and project.
func (p *pushing) lanes(cfg *config.Push, metrics *push.Metrics) ([]push.Lane, error) {
	var lanes []push.Lane
	for i, a := range cfg.APNs {
		roots, err := rootCAs(a.CAFile)
		if err != nil {
			return nil, err
		}
		team, err := apns.NewTeam(apns.TeamConfig{ID: a.Team, KeyID: a.KeyID, Key: []byte(a.Key), Minted: metrics.Mints(a.Team).Inc})
		if err != nil {
			return nil, fmt.Errorf("push.apns[%d]: %w", i, err)
		}
		for _, environment := range []string{push.Production, push.Sandbox} {
			s, err := apns.New(apns.Config{Team: team, Environment: environment, Endpoint: a.Endpoint, RootCAs: roots})
			if err != nil {
				return nil, fmt.Errorf("push.apns[%d]: %w", i, err)
			}
			p.close = append(p.close, s.Close)
			lanes = append(lanes, push.Lane{
				Name: fmt.Sprintf("apns/%s/%s/%s", a.Team, a.KeyID, environment), Road: push.APNs, Environment: environment,
				Apps: a.Topics, Sender: s, Workers: a.Workers,
			})
		}
	}
	for i, f := range cfg.FCM {
		roots, err := rootCAs(f.CAFile)
		if err != nil {
			return nil, err
		}
		s, err := fcm.New(context.Background(), fcm.Config{
			Project: f.Project, Credentials: []byte(f.Credentials), Endpoint: f.Endpoint, RootCAs: roots, Workers: f.Workers,
			WithoutAuthentication: f.WithoutAuthentication,
		})
		if err != nil {
			return nil, fmt.Errorf("push.fcm[%d]: %w", i, err)
		}
		p.close = append(p.close, s.Close)
		lanes = append(lanes, push.Lane{
			Name: fmt.Sprintf("fcm/%s/%d", f.Project, i), Road: push.FCM, Environment: push.Production, Apps: f.Apps,
			Sender: s, Workers: f.Workers, Rate: float64(f.Rate), Floor: fcmFloor,
		})
	}
	if !cfg.WebPush.On() {
		return lanes, nil
	}
	roots, err := rootCAs(cfg.WebPush.CAFile)
	if err != nil {
		return nil, err
	}
	s, err := webpush.New(webpush.Config{
		Subject: cfg.WebPush.Subject, Key: []byte(cfg.WebPush.VAPIDKey), Workers: cfg.WebPush.Workers,
		AllowHosts: cfg.WebPush.AllowHosts, RootCAs: roots,
	})
	if err != nil {
		return nil, fmt.Errorf("push.webpush: %w", err)
	}
	p.close = append(p.close, s.Close)
	return append(lanes, push.Lane{Name: "webpush", Road: push.WebPush, Sender: s, Workers: cfg.WebPush.Workers}), nil
}

// rootCAs reads a file of certificates; nil is the system's.
func rootCAs(file string) (*x509.CertPool, error) {
	if file == "" {
		return nil, nil
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("%s holds no certificate", file)
	}
	return pool, nil
}

func (p *pushing) closeSenders() {
	for _, f := range p.close {
		f()
	}
}

// advanced says that the log has grown. It does not block.
func (p *pushing) advanced() {
	if p != nil && p.marker != nil {
		p.marker.Wake()
	}
}

// marked hands those who are due now to the senders.
func (p *pushing) marked(pass device.Pass, took time.Duration) {
	p.metrics.pass(pass, took)
	if pass.Marked > 0 {
		p.dispatcher.Wake()
	}
}

// runs are what works until it is told to stop: nothing where there is nothing to push with.
func (p *pushing) runs() []func(context.Context) error {
	if p == nil || p.dispatcher == nil {
		return nil
	}
	return []func(context.Context) error{
		p.marker.Run,
		func(ctx context.Context) error {
			defer p.closeSenders()
			return p.dispatcher.Run(ctx)
		},
		func(ctx context.Context) error { return p.metrics.run(ctx, p.store, p.log) },
	}
}

// hears are what writes acknowledgements down. It is stopped behind everything that hears devices.
func (p *pushing) hears() []func(context.Context) error {
	if p == nil {
		return nil
	}
	return []func(context.Context) error{p.inbox.Run}
}

func urgencies(tables map[string]config.Table) map[string]device.Urgency {
	out := map[string]device.Urgency{}
	for name, t := range tables {
		switch t.Urgency {
		case config.UrgencyNow:
			out[name] = device.Now
		case config.UrgencyLazy:
			out[name] = device.Lazy
		}
	}
	return out
}

// dueStore is device.Store as the dispatcher knows it.
type dueStore struct{ *device.Store }

func (s dueStore) Claim(ctx context.Context, of push.Selection, n int) ([]push.Due, error) {
	claimed, err := s.Store.Claim(ctx, device.Selection{
		Road: of.Road, Environment: of.Environment, Apps: of.Apps, Others: of.Others, Urgency: device.Urgency(of.Urgency),
	}, n)
	if err != nil {
		return nil, err
	}
	out := make([]push.Due, len(claimed))
	for i, d := range claimed {
		out[i] = push.Due{
			Device: d.Device, User: d.User, Road: d.Road, App: d.App, Environment: d.Environment, Target: push.Target(d.Target),
			Hash: d.Hash, RegisteredAt: d.RegisteredAt, Nudge: d.Nudge, Urgency: int(d.Urgency), Attempts: d.Attempts, DueFor: d.DueFor,
		}
	}
	return out, nil
}

func (s dueStore) Settle(ctx context.Context, results []push.Result) error {
	out := make([]device.Result, len(results))
	for i := range results {
		r := &results[i]
		out[i] = device.Result{
			Device: r.Due.Device, Nudge: r.Due.Nudge, Hash: r.Due.Hash, RegisteredAt: r.Due.RegisteredAt,
			Reason: r.Reason, ID: r.ID, After: r.Wait, Gone: r.Gone,
		}
		switch {
		case !r.Attempted:
			out[i].Verdict = device.Unsent
		case r.Verdict == push.Sent:
			out[i].Verdict = device.Accepted
		case r.Verdict == push.Disabled:
			out[i].Verdict = device.Disable
		case r.Verdict == push.Quarantined:
			out[i].Verdict = device.Quarantine
		default:
			out[i].Verdict = device.Later
		}
	}
	return s.Store.Settle(ctx, out)
}
