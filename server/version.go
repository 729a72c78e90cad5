package main

import (
	"encoding/json"
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"

	"github.com/nudgesync/nudge/server/wire"
)

// version is what a bug report needs to know of a binary.
type version struct {
	Version  string `json:"version"`            // of the module; "(devel)" if not built from a release
	Revision string `json:"revision,omitempty"` // of the source, if it was built in its repository
	Modified bool   `json:"modified"`           // the source differed from that revision
	Time     string `json:"time,omitempty"`     // of that revision, RFC 3339
	Go       string `json:"go"`
	Platform string `json:"platform"`
	Wire     int    `json:"wire"` // protocol version that hello names
}

func readVersion() version {
	v := version{
		Version: "(devel)", Go: runtime.Version(),
		Platform: runtime.GOOS + "/" + runtime.GOARCH, Wire: wire.Version,
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return v
	}
	if info.Main.Version != "" {
		v.Version = info.Main.Version
	}
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			v.Revision = s.Value
		case "vcs.modified":
			v.Modified = s.Value == "true"
		case "vcs.time":
			v.Time = s.Value
		}
	}
	return v
}

func newVersionCommand(a *app) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Say which nudge this is",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			v := readVersion()
			if asJSON {
				return json.NewEncoder(a.stdout).Encode(v)
			}
			revision := v.Revision
			if revision == "" {
				revision = "unknown revision"
			}
			if v.Modified {
				revision += ", modified"
			}
			_, err := fmt.Fprintf(a.stdout, "nudge %s (%s)\n%s %s, wire version %d\n", v.Version, revision, v.Go, v.Platform, v.Wire)
			return err
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "as one JSON object")
	return cmd
}
