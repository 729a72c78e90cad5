package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/nudgesync/nudge/clientsim/provider"
	"github.com/nudgesync/nudge/server/auth"
)

// What `nudge dev` configures, and a development token therefore carries.
const (
	devIssuer      = "nudge-dev"
	devAudience    = "nudge"
	devKeyID       = "dev"
	devDeviceClaim = "did"
)

// devState is dev.json: where a running `nudge dev` is to be found.
type devState struct {
	URL            string             `json:"url"`
	Admin          string             `json:"admin"`
	DSN            string             `json:"dsn"`
	SigningKeyFile string             `json:"signing_key_file"`
	Providers      provider.Addresses `json:"providers"`
}

// devStatePath is where dev.json lies: $XDG_STATE_HOME/nudge, or below ~/.local/state.
func devStatePath(a *app) string {
	state := a.getenv("XDG_STATE_HOME")
	if !filepath.IsAbs(state) { // the XDG specification has relative ones ignored
		state = filepath.Join(a.getenv("HOME"), ".local", "state")
	}
	return filepath.Join(state, "nudge", "dev.json")
}

// signer is all that a token needs but the person.
type signer struct {
	key              auth.Key
	issuer, audience string
	user, device     string // names of claims; device may be ""
}

func newTokenCommand(a *app) *cobra.Command {
	var user, device, keyFile string
	var ttl time.Duration
	cmd := &cobra.Command{
		Use:   "token --user ID",
		Short: "Print a token for development",
		Long: `Print a JWT for a user, to try things with. It is signed with

  the key in --key-file, or else
  the first HS256 key of the configuration, if its file exists, or else
  the key of a running "nudge dev".

In production the app's own backend issues tokens.`,
		Example: "  nudge token --user 7 --ttl 1h",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if user == "" {
				return &usageError{err: errors.New("--user is needed"), command: cmd.CommandPath()}
			}
			if ttl <= 0 {
				return &usageError{err: errors.New("--ttl has to be more than nothing"), command: cmd.CommandPath()}
			}
			s, err := findSigner(a, keyFile)
			if err != nil {
				return err
			}
			named := map[string]string{s.user: user}
			if device != "" {
				if s.device == "" {
					return fail("token_no_device_claim", nil, "tokens of this configuration name no device", "set auth.claims.device")
				}
				named[s.device] = device
			}
			now := time.Now()
			token, err := auth.Mint(s.key, auth.Claims{
				Issuer: s.issuer, Audience: s.audience,
				Issued: now, Expires: now.Add(ttl), Named: named,
			})
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(a.stdout, token)
			return err
		},
	}
	cmd.Flags().StringVar(&user, "user", "", "the user's id (required)")
	cmd.Flags().StringVar(&device, "device", "", "bind the token to this device")
	cmd.Flags().DurationVar(&ttl, "ttl", time.Hour, "how long the token is valid")
	cmd.Flags().StringVar(&keyFile, "key-file", "", "HS256 secret to sign with, as \"nudge dev\" makes it")
	return cmd
}

func findSigner(a *app, keyFile string) (signer, error) {
	if keyFile != "" {
		return devSigner(keyFile)
	}
	_, err := os.Stat(a.configPath)
	if err == nil {
		return configSigner(a)
	}
	path := devStatePath(a)
	data, stateErr := os.ReadFile(path)
	if errors.Is(stateErr, fs.ErrNotExist) {
		return signer{}, fail("token_no_key", nil, fmt.Sprintf("there is neither %s nor a running nudge dev", a.configPath),
			"start nudge dev, or name a key with --key-file")
	}
	if stateErr != nil {
		return signer{}, fail("token_no_key", stateErr, "read dev.json")
	}
	var state devState
	if err := json.Unmarshal(data, &state); err != nil || state.SigningKeyFile == "" {
		return signer{}, fail("token_no_key", err, path+" names no signing key", "restart nudge dev")
	}
	return devSigner(state.SigningKeyFile)
}

func devSigner(file string) (signer, error) {
	material, err := os.ReadFile(file)
	if err != nil {
		return signer{}, fail("token_no_key", err, "read the signing key")
	}
	key, err := auth.ParseKey(devKeyID, auth.HS256, material)
	if err != nil {
		return signer{}, fail("token_bad_key", err, file)
	}
	return signer{key: key, issuer: devIssuer, audience: devAudience, user: "sub", device: devDeviceClaim}, nil
}

func configSigner(a *app) (signer, error) {
	cfg, err := a.config()
	if err != nil {
		return signer{}, err
	}
	var have []string
	for _, k := range cfg.Auth.Keys {
		if k.Algorithm != auth.HS256 {
			have = append(have, k.Algorithm)
			continue
		}
		key, err := parseAuthKey(k)
		if err != nil {
			return signer{}, err
		}
		return signer{
			key: key, issuer: cfg.Auth.Issuer, audience: cfg.Auth.Audience,
			user: cfg.Auth.Claims.User, device: cfg.Auth.Claims.Device,
		}, nil
	}
	message := a.configPath + " has no keys"
	if len(have) > 0 {
		message = fmt.Sprintf("%s has only public keys (%s), which can't sign", a.configPath, strings.Join(have, ", "))
	}
	return signer{}, fail("token_no_key", nil, message, "issue the token where the private key is, or add an HS256 key for development")
}
