package main

import (
	"github.com/nudgesync/nudge/server/auth"
	"github.com/nudgesync/nudge/server/config"
)

// newVerifier makes the verifier that a configuration describes.
func newVerifier(cfg *config.Config) (*auth.Verifier, error) {
	if len(cfg.Auth.Keys) == 0 { // commands that meet no device do without
		return nil, &config.Error{
			Code: config.Missing, Key: "auth.keys", Message: "auth.keys is needed: without a key no device can be let in",
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
	})
	if err != nil {
		return nil, &config.Error{Code: config.Invalid, Key: "auth.keys", Message: "auth.keys: " + err.Error()}
	}
	return v, nil
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
