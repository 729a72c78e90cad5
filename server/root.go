package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/nudgesync/nudge/server/config"
	"github.com/nudgesync/nudge/server/wire"
)

// Exit statuses.
const (
	exitOK     = 0
	exitFailed = 1 // the command could not do it
	exitUsage  = 2 // the command line or the configuration is wrong
)

// run is the whole program: it executes args and returns the exit status. It returns after
// everything that the command started has ended.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer, env []string) int {
	ctx, stop := withSignals(ctx)
	defer stop()
	a := &app{
		stdin: stdin, stdout: stdout, stderr: stderr, env: env,
		log:       slog.New(slog.DiscardHandler),
		overrides: map[string]string{},
	}
	root := newRootCommand(a)
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	printError(stderr, err)
	return statusOf(err)
}

// withSignals cancels the context at the first SIGINT or SIGTERM. From then on the signals have
// their default effect again, so a second one ends the process at once.
func withSignals(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	unregister := context.AfterFunc(ctx, stop)
	return ctx, func() {
		unregister()
		stop()
	}
}

func newRootCommand(a *app) *cobra.Command {
	var level, format string
	root := &cobra.Command{
		Use:           "nudge",
		Short:         "Tell a user's other devices that their data changed",
		SilenceErrors: true, // printed once, by run
		SilenceUsage:  true,
		Args:          cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return cmd.Help()
		},
		PersistentPreRunE: func(*cobra.Command, []string) error {
			log, err := newLogger(a.stderr, level, format)
			if err != nil {
				return err
			}
			a.log = log
			return nil
		},
	}
	root.SetIn(a.stdin)
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)
	root.CompletionOptions.HiddenDefaultCmd = true
	root.SuggestionsMinimumDistance = 2 // cobra sets it only in its own way of telling
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return &usageError{err: err, command: cmd.CommandPath()}
	})
	flags := root.PersistentFlags()
	flags.StringVar(&a.configPath, "config", config.DefaultPath, "configuration file")
	flags.StringVar(&level, "log-level", "info", "debug, info, warn or error")
	flags.StringVar(&format, "log-format", "text", "text or json")

	root.AddCommand(
		newServeCommand(a),
		newDevCommand(a),
		newAttachCommand(a),
		newDetachCommand(a),
		newCheckCommand(a),
		newMigrateCommand(a),
		newTailCommand(a),
		newEpochCommand(a),
		newPollCommand(a),
		newTokenCommand(a),
		newRevokeCommand(a),
		newExplainCommand(a),
		newVersionCommand(a),
	)
	asUsageErrors(root)
	return root
}

// asUsageErrors makes wrong positional arguments, of any command, the usage errors they are.
func asUsageErrors(cmd *cobra.Command) {
	check := cmd.Args
	if check == nil {
		check = cobra.ArbitraryArgs
	}
	if cmd.HasSubCommands() && !cmd.HasParent() {
		check = func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return nil
			}
			msg := fmt.Sprintf("unknown command %q", args[0])
			if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
				msg += fmt.Sprintf(", did you mean %q?", near[0])
			}
			return errors.New(msg)
		}
	}
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if err := check(cmd, args); err != nil {
			return &usageError{err: err, command: cmd.CommandPath()}
		}
		return nil
	}
	for _, sub := range cmd.Commands() {
		asUsageErrors(sub)
	}
}

func newLogger(w io.Writer, level, format string) (*slog.Logger, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		return nil, &usageError{err: fmt.Errorf("--log-level %q: want debug, info, warn or error", level), command: "nudge"}
	}
	opt := &slog.HandlerOptions{Level: l}
	switch format {
	case "text":
		return slog.New(slog.NewTextHandler(w, opt)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(w, opt)), nil
	}
	return nil, &usageError{err: fmt.Errorf("--log-format %q: want text or json", format), command: "nudge"}
}

// usageError is a command line that can't be understood.
type usageError struct {
	err     error
	command string // whose --help explains it
}

func (e *usageError) Error() string { return "usage: " + e.err.Error() }

func (e *usageError) Unwrap() error { return e.err }

// statusOf is the exit status that err ends the program with.
func statusOf(err error) int {
	var status exitStatus
	var usage *usageError
	var conf *config.Error
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &status):
		return int(status)
	case errors.As(err, &usage), errors.As(err, &conf):
		return exitUsage
	}
	return exitFailed
}

// printError prints err once, joined errors one after the other.
func printError(w io.Writer, err error) {
	var status exitStatus
	if err == nil || errors.As(err, &status) {
		return
	}
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		for _, e := range joined.Unwrap() {
			printError(w, e)
		}
		return
	}
	message, hints := err.Error(), []string(nil)
	var op *opError
	var conf *config.Error
	var problem *wire.Problem
	var usage *usageError
	switch {
	case errors.As(err, &op):
		hints = op.hints
	case errors.As(err, &conf):
		if conf.Excerpt != "" {
			message += "\n" + conf.Excerpt
		}
		hints = []string{conf.Hint}
	case errors.As(err, &usage):
		hints = []string{usage.command + " --help"}
	case errors.As(err, &problem):
		hints = []string{problem.Hint}
	}
	_, _ = fmt.Fprintln(w, "nudge: "+message)
	for _, h := range hints {
		if h != "" {
			_, _ = fmt.Fprintln(w, "hint: "+strings.ReplaceAll(h, "\n", "\n      "))
		}
	}
}
