package main

import (
	"fmt"
	"io"
	"log/slog"
	"strings"

	"github.com/nudgesync/nudge/server/config"
)

// app is what every command needs of the process it runs in. Commands take nothing from package os
// but files, so that a test can run any of them in a process of its own making.
type app struct {
	// Fixed by run.
	stdin  io.Reader
	stdout io.Writer
	stderr io.Writer
	env    []string // as os.Environ has it

	// Set from the root's flags before a command's RunE starts.
	log        *slog.Logger
	configPath string

	// overrides are flags that stand for a key of nudge.yaml, by that key's path
	// ("listen.public"). A command fills it before it calls config.
	overrides map[string]string

	loaded *config.Config
}

// config loads nudge.yaml, environment and overrides at the first call, validated, and returns the
// same afterwards. Its errors are of type *config.Error, joined; a command returns them as they are.
func (a *app) config() (*config.Config, error) {
	if a.loaded != nil {
		return a.loaded, nil
	}
	cfg, warnings, err := config.Load(config.Source{Path: a.configPath, Env: a.env, Flags: a.overrides})
	for _, w := range warnings {
		a.log.Warn("doubtful configuration", "code", w.Code, "key", w.Key, "reason", w.Message, "hint", w.Hint)
	}
	if err != nil {
		return nil, err
	}
	a.loaded = cfg
	return cfg, nil
}

// getenv is os.Getenv over the app's own environment.
func (a *app) getenv(name string) string {
	for i := len(a.env) - 1; i >= 0; i-- { // the last one wins, as in os/exec
		if k, v, ok := strings.Cut(a.env[i], "="); ok && k == name {
			return v
		}
	}
	return ""
}

// opError is a failure that an operator can act on. It is printed as "nudge: code: message" and a
// "hint:" line each.
type opError struct {
	code    string
	message string
	hints   []string
	cause   error
}

// fail makes an opError around cause, which may be nil. message does not repeat cause.
func fail(code string, cause error, message string, hints ...string) error {
	return &opError{code: code, message: message, hints: hints, cause: cause}
}

// Error is "code: message: cause".
func (e *opError) Error() string {
	if e.cause == nil {
		return e.code + ": " + e.message
	}
	return fmt.Sprintf("%s: %s: %v", e.code, e.message, e.cause)
}

// Unwrap is the cause.
func (e *opError) Unwrap() error { return e.cause }

// exitStatus ends the program with that status and prints nothing: the command has said what is
// wrong on its own.
type exitStatus int

// Error makes an exitStatus an error.
func (s exitStatus) Error() string { return fmt.Sprintf("exit status %d", int(s)) }
