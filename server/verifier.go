package main

import (
	"context"
	"log/slog"

	"golang.org/x/sync/errgroup"

	"github.com/nudgesync/nudge/server/auth"
	"github.com/nudgesync/nudge/server/config"
)

// newRemote makes the fetched keys that a configuration describes, nil if it has none. onChange is called
// when one of them went out of force.
func newRemote(cfg *config.Config, log *slog.Logger, metrics *auth.Metrics, onChange func()) (*auth.Remote, error) {
	if cfg.Auth.JWKSURL == "" {
		return nil, nil
	}
	r, err := auth.NewRemote(auth.RemoteConfig{
		URL: cfg.Auth.JWKSURL, Algorithms: cfg.Auth.Algorithms, OnChange: onChange, Log: log, Metrics: metrics,
	})
	if err != nil {
		return nil, &config.Error{Code: config.Invalid, Key: "auth.jwks_url", Message: "auth.jwks_url: " + err.Error()}
	}
	return r, nil
}

// newVerifier makes the verifier that a configuration describes. remote may be nil, and so may revoked.
func newVerifier(cfg *config.Config, remote *auth.Remote, revoked func(auth.Identity) error) (*auth.Verifier, error) {
	if len(cfg.Auth.Keys) == 0 && remote == nil { // commands that meet no device do without
		return nil, &config.Error{
			Code: config.Missing, Key: "auth.keys", Message: "auth.keys or auth.jwks_url is needed: without a key no device can be let in",
			Hint: "auth: {keys: [{id: main, algorithm: HS256, secret_file: jwt.key}]}",
		}
	}
	keys := make([]auth.Key, 0, len(cfg.Auth.Keys))
	for _, k := range cfg.Auth.Keys {
		key, err := parseAuthKey(k)
		if err != nil {
			return nil, err
		}
		keys = append(keys, key)
	}
	v, err := auth.New(auth.Config{
		Keys:        keys,
		Issuer:      cfg.Auth.Issuer,
		Audience:    cfg.Auth.Audience,
		UserClaim:   cfg.Auth.Claims.User,
		DeviceClaim: cfg.Auth.Claims.Device,
		LaneClaim:   cfg.Auth.Claims.Lane,
		Remote:      remote,
		Revoked:     revoked,
	})
	if err != nil {
		return nil, &config.Error{Code: config.Invalid, Key: "auth.keys", Message: "auth.keys: " + err.Error()}
	}
	return v, nil
}

// authenticate makes the parts that say who is let in. Whoever may no longer stay is found by the API,
// which is made before any of them runs.
func (n *node) authenticate() error {
	metrics, err := auth.NewMetrics(n.metrics)
	if err != nil {
		return err
	}
	recheck := func() { n.api.Recheck() }
	if n.remote, err = newRemote(n.cfg, n.log, metrics, recheck); err != nil {
		return err
	}
	n.revocations = auth.NewRevocations(auth.RevocationsConfig{Pool: n.db.upkeep, OnChange: recheck, Log: n.log, Metrics: metrics})
	n.verifier, err = newVerifier(n.cfg, n.remote, n.revocations.Check)
	return err
}

// runAuth keeps keys and revocations fresh.
func (n *node) runAuth(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return n.revocations.Run(ctx) })
	if n.remote != nil {
		g.Go(func() error { return n.remote.Run(ctx) })
	}
	return g.Wait()
}

// revoke writes a revocation, and has this node read it before it returns. An error may come after it was
// written: then every node follows once it can read again.
func (n *node) revoke(ctx context.Context, r auth.Revocation) (auth.Revocation, error) {
	r, err := n.revocations.Write(ctx, r)
	if err != nil {
		return r, err
	}
	return r, n.revocations.Hasten(ctx)
}

func parseAuthKey(k config.AuthKey) (auth.Key, error) {
	material := []byte(k.Secret)
	if k.Algorithm != auth.HS256 {
		material = []byte(k.PublicKey)
	}
	key, err := auth.ParseKey(k.ID, k.Algorithm, material)
	if err != nil {
		return auth.Key{}, &config.Error{Code: config.Invalid, Key: "auth.keys", Message: "auth.keys: " + err.Error()}
	}
	return key, nil
}
