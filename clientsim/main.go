// Command clientsim plays the devices of many users against a nudge server, writes to the app's
// database beside them, and judges what the devices hold. It is a stranger to the server: it speaks
// the public protocol and SQL, nothing else.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/spf13/cobra"
)

// Exit codes.
const (
	exitOK    = 0
	exitWrong = 1 // the oracle found something, or the run could not be made
	exitUsage = 2
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// failure is an error of a run, as opposed to one of its command line.
type failure struct{ err error }

func (f *failure) Error() string { return f.err.Error() }
func (f *failure) Unwrap() error { return f.err }

// errVerdict says that the run was made and its devices were wrong; the summary has said how.
var errVerdict = errors.New("the devices do not hold what the source does")

// run is the program: it returns the exit code.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	root := &cobra.Command{
		Use:           "clientsim",
		Short:         "Plays the devices of many users against a nudge server, and judges them",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	root.AddCommand(runCommand(stdout, stderr), providersCommand(stdout, stderr), versionCommand(stdout))
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitOK
	}
	if f, ok := errors.AsType[*failure](err); ok {
		if !errors.Is(f, errVerdict) {
			_, _ = fmt.Fprintln(stderr, "clientsim:", f)
		}
		return exitWrong
	}
	_, _ = fmt.Fprintf(stderr, "clientsim: %v\nSee clientsim --help.\n", err)
	return exitUsage
}

func runCommand(stdout, stderr io.Writer) *cobra.Command {
	opts := defaults()
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Run a fleet of devices and writers, then compare every device with the source",
		Long: `run connects users × devices devices, writes to the app's database at a fixed rate, and keeps
watch on what every device shows. At the end it stops writing, waits until all is quiet, and compares
every device's rows with a SELECT, without a last pull. Latencies are measured from the time at which
a write was meant to be sent, so a writer that falls behind hides nothing.

Without --against it reads dev.json, which "nudge dev" writes.

Exit status: 0 all devices are right, 1 they are not or the run failed, 2 usage.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := opts.validate(); err != nil {
				return err
			}
			target, err := opts.target()
			if err != nil {
				return &failure{err}
			}
			sim, err := newSimulation(cmd.Context(), opts, target)
			if err != nil {
				return &failure{err}
			}
			defer sim.close()
			if err := sim.play(cmd.Context(), stdout, stderr); err != nil {
				return &failure{err}
			}
			return nil
		},
	}
	opts.bind(cmd.Flags())
	return cmd
}

func versionCommand(stdout io.Writer) *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			version := "unknown"
			if info, ok := debug.ReadBuildInfo(); ok {
				version = info.Main.Version
			}
			_, err := fmt.Fprintln(stdout, "clientsim", version)
			return err
		},
	}
}
