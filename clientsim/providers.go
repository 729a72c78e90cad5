package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/nudgesync/nudge/clientsim/provider"
)

func providersCommand(stdout, stderr io.Writer) *cobra.Command {
	var cfg provider.Config
	var dir string
	var teams []string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "providers",
		Short: "Run fake APNs, FCM and Web Push services with simulated phones behind them",
		Long: `providers starts APNs (production and sandbox), FCM with its token endpoint, and a Web Push service on
loopback, over real TLS and HTTP/2, with the refusals, quotas and moods of the real ones. Behind them
are simulated phones that run their apps by their platform's rules. Test your own sender against
them: trust ca.pem (Go, curl and others read SSL_CERT_FILE), and use the keys written beside it.

The control URL takes JSON over HTTP:

  POST   /phones                  {"platform":"ios|android|browser","app":"…"} and, if wanted, id, environment,
                                  project, vapid_key, wake_url, switches, count: phones with tokens
  GET    /phones/ID               its token, switches and counters
  PATCH  /phones/ID               switches: offline, force_quit, no_background, low_power, doze, foreground,
                                  latency, duplicate, reorder
  POST   /phones/ID/ACT           launch, rotate, reinstall, uninstall, restore {"lag":"10m"}
  POST   /faults                  {"provider":"apns|apns-sandbox|fcm|oauth|webpush","kind":"slow|answer|html|
                                  garbage|hang|reset|cut|goaway"} and token_prefix, from, to, rate, times, status,
                                  reason, retry_after, delay
  GET    /faults                  DELETE /faults, DELETE /faults/ID
  POST   /lines/PROVIDER/LINE     up, dead (connections reset) or silent (a black hole)
  POST   /goaway                  {"reason":"Shutdown"}, to all of APNs' connections
  POST   /clock                   {"advance":"20m"}; {"skew":"2h"} makes senders' clocks look wrong
  GET    /log                     ?since=N&wait=10s&provider=&event=&phone=&nudge=
  GET    /stats                   counters

A wake_url is sent {"phone","nudge"} by POST when a push runs the app.

It runs until it is interrupted.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			for _, text := range teams {
				team, err := parseTeam(text)
				if err != nil {
					return err
				}
				cfg.Teams = append(cfg.Teams, team)
			}
			cfg.Logger = slog.New(slog.NewTextHandler(stderr, nil))
			if err := runProviders(cmd.Context(), cfg, dir, asJSON, stdout); err != nil {
				return &failure{err}
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&dir, "dir", "", "where to write ca.pem and the senders' keys (default: a new directory, removed at the end)")
	f.Uint64Var(&cfg.Seed, "seed", 1, "makes tokens, budgets and chance repeat")
	f.StringArrayVar(&teams, "team", nil, "an Apple team, as TEAMID:KEYID:bundle.id,bundle.id; may be repeated")
	f.StringSliceVar(&cfg.Projects, "project", nil, "a Firebase project; may be repeated (default demo)")
	f.BoolVar(&cfg.FCMWithoutAuth, "fcm-without-auth", false, "FCM takes messages without an access token")
	f.StringVar(&cfg.APNsAddr, "apns", "", "address to listen on for APNs (default: a free port, as for the others)")
	f.StringVar(&cfg.SandboxAddr, "apns-sandbox", "", "for APNs' sandbox")
	f.StringVar(&cfg.FCMAddr, "fcm", "", "for FCM")
	f.StringVar(&cfg.WebPushAddr, "webpush", "", "for Web Push")
	f.StringVar(&cfg.ControlAddr, "control", "", "for the control API")
	f.BoolVar(&asJSON, "json", false, "print the addresses as JSON, on one line")
	return cmd
}

func parseTeam(text string) (provider.Team, error) {
	parts := strings.Split(text, ":")
	if len(parts) != 3 || parts[0] == "" || parts[1] == "" || parts[2] == "" {
		return provider.Team{}, fmt.Errorf("--team %q: want TEAMID:KEYID:bundle.id,bundle.id", text)
	}
	return provider.Team{ID: parts[0], KeyID: parts[1], Topics: strings.Split(parts[2], ",")}, nil
}

func runProviders(ctx context.Context, cfg provider.Config, dir string, asJSON bool, stdout io.Writer) error {
	p, err := provider.Start(ctx, cfg)
	if err != nil {
		return err
	}
	defer p.Close()
	if dir == "" {
		if dir, err = os.MkdirTemp("", "clientsim-providers-"); err != nil {
			return err
		}
		defer func() { _ = os.RemoveAll(dir) }()
	}
	files, err := p.WriteFiles(dir)
	if err != nil {
		return err
	}
	if err := printProviders(stdout, p, files, asJSON); err != nil {
		return err
	}
	<-ctx.Done()
	return nil
}

func printProviders(w io.Writer, p *provider.Providers, files provider.Files, asJSON bool) error {
	at := p.Addresses()
	if asJSON {
		return json.NewEncoder(w).Encode(struct {
			provider.Addresses
			Files provider.Files `json:"files"`
		}{at, files})
	}
	var b strings.Builder
	line := func(name, value string) { fmt.Fprintf(&b, "%-16s %s\n", name, value) }
	line("APNs", at.APNs)
	line("APNs sandbox", at.Sandbox)
	line("FCM", at.FCM)
	line("FCM tokens", at.Token)
	line("Web Push", at.WebPush)
	line("control", at.Control)
	line("CA", files.CA)
	for _, k := range at.Teams {
		line("APNs key", fmt.Sprintf("%s (team %s, key %s, topics %s)", files.APNsKeys[k.KeyID], k.Team, k.KeyID, strings.Join(k.Topics, " ")))
	}
	for _, a := range at.Projects {
		line("service account", fmt.Sprintf("%s (project %s)", files.Accounts[a.Project], a.Project))
	}
	line("VAPID key pair", files.VAPID)
	fmt.Fprintf(&b, "\nTo have nudge push here, its nudge.yaml has:\n\n%s", p.PushSection(files))
	_, err := io.WriteString(w, b.String())
	return err
}
