package main

import (
	"fmt"
	"log/slog"

	"github.com/spf13/cobra"
)

func newServeCommand(a *app) *cobra.Command {
	var public, admin string
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run a node: follow the database, nudge devices, answer pulls",
		Long: `Run a node as nudge.yaml says. It refuses to start on a database that nudge check finds fault with.

SIGINT or SIGTERM stops it cleanly: readiness fails, sockets are sent away, running pulls are answered,
then the feed stops where its log is complete. A second signal ends it at once.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			for key, v := range map[string]string{"listen.public": public, "listen.admin": admin} {
				if v != "" {
					a.overrides[key] = v
				}
			}
			cfg, err := a.config()
			if err != nil {
				return err
			}
			log := a.log.With(slog.String("node", nodeName()))
			return serveNode(cmd.Context(), cfg, log, serveOptions{Ready: func(public, admin string) {
				_, _ = fmt.Fprintf(a.stdout, "nudge serves on %s, operators on %s\n", public, admin)
			}})
		},
	}
	cmd.Flags().StringVar(&public, "listen", "", "where devices connect, instead of listen.public")
	cmd.Flags().StringVar(&admin, "admin", "", "metrics and operators, instead of listen.admin")
	return cmd
}
