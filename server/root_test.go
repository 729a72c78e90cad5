package main

import (
	"bufio"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestUsageErrors(t *testing.T) {
	for name, tc := range map[string]struct {
		args   []string
		stderr string // the whole of it
	}{
		"unknown command": {
			[]string{"verzion"},
			"nudge: usage: unknown command \"verzion\", did you mean \"version\"?\nhint: nudge --help\n",
		},
		"unknown flag":      {[]string{"token", "--usr", "7"}, "nudge: usage: unknown flag: --usr\nhint: nudge token --help\n"},
		"surplus argument":  {[]string{"version", "now"}, "nudge: usage: unknown command \"now\" for \"nudge version\"\nhint: nudge version --help\n"},
		"bad flag":          {[]string{"token", "--ttl", "soon"}, ""},
		"token of nobody":   {[]string{"token"}, "nudge: usage: --user is needed\nhint: nudge token --help\n"},
		"token for no time": {[]string{"token", "--user", "7", "--ttl", "0s"}, "nudge: usage: --ttl has to be more than nothing\nhint: nudge token --help\n"},
		"log level":         {[]string{"--log-level", "loud", "version"}, "nudge: usage: --log-level \"loud\": want debug, info, warn or error\nhint: nudge --help\n"},
		"log format":        {[]string{"--log-format", "xml", "version"}, "nudge: usage: --log-format \"xml\": want text or json\nhint: nudge --help\n"},
	} {
		t.Run(name, func(t *testing.T) {
			r := nudge(t, nil, tc.args...)
			if r.status != exitUsage || r.stdout != "" {
				t.Errorf("status %d, stdout %q", r.status, r.stdout)
			}
			if tc.stderr != "" && r.stderr != tc.stderr || strings.Count(r.stderr, "nudge: ") != 1 {
				t.Errorf("stderr %q, want %q", r.stderr, tc.stderr)
			}
		})
	}
}

func TestHelpIsNoError(t *testing.T) {
	for _, args := range [][]string{nil, {"--help"}, {"help", "token"}, {"token", "--help"}} {
		if r := nudge(t, nil, args...); r.status != exitOK || r.stderr != "" || !strings.Contains(r.stdout, "Usage:") {
			t.Errorf("%v: %+v", args, r)
		}
	}
}

// Each defect of a configuration is printed once, with its place, excerpt and hint, and ends the
// program with status 2.
func TestConfigErrorsArePrinted(t *testing.T) {
	path := writeFile(t, t.TempDir(), "nudge.yaml", "source:\n  dns: postgres://u:hunter2@h/d\nroles: [feeed]\n")
	r := nudge(t, []string{"NUDGE_SOURCE_DNS=hunter2"}, "migrate", "--config", path, "--log-format", "json")
	if r.status != exitUsage || r.stdout != "" {
		t.Errorf("status %d, stdout %q", r.status, r.stdout)
	}
	for _, part := range []string{
		"nudge: config_unknown_key: " + path + ":2:3: source has no key \"dns\"\n  dns…\n  ^^^\nhint: did you mean \"dsn\"?\n",
		"nudge: config_invalid: " + path + ":3:9: \"feeed\" is not a role\n",
		"nudge: config_missing: " + path + ":1:1: source.dsn is needed\n",
		`"code":"config_unknown_variable"`,
		"did you mean NUDGE_SOURCE_DSN?",
	} {
		if strings.Count(r.stderr, part) != 1 {
			t.Errorf("stderr has this %d times, want once:\n%s", strings.Count(r.stderr, part), part)
		}
	}
	if strings.Contains(r.stderr, "hunter2") {
		t.Errorf("stderr:\n%s", r.stderr)
	}

	missing := filepath.Join(t.TempDir(), "nudge.yaml")
	r = nudge(t, nil, "migrate", "--config", missing)
	if r.status != exitUsage || !strings.Contains(r.stderr, "config_unreadable: "+missing) || !strings.Contains(r.stderr, "\nhint: ") {
		t.Errorf("a missing file: %+v", r)
	}
}

func TestStatusOf(t *testing.T) {
	for want, err := range map[int]error{
		exitOK: nil, exitFailed: errors.New("x"), exitUsage: &usageError{err: errors.New("x")}, 7: exitStatus(7),
	} {
		if got := statusOf(err); got != want {
			t.Errorf("%v: status %d, want %d", err, got, want)
		}
	}
	var out strings.Builder
	printError(&out, exitStatus(1))
	if out.Len() > 0 {
		t.Errorf("an exit status was printed: %q", out.String())
	}
	printError(&out, fail("some_code", errors.New("cause"), "message", "first", "second"))
	if want := "nudge: some_code: message: cause\nhint: first\nhint: second\n"; out.String() != want {
		t.Errorf("printed %q, want %q", out.String(), want)
	}
}

const childVariable = "NUDGE_TEST_CHILD"

// The first signal asks, the second ends a program that doesn't come to its end.
func TestSecondSignalEndsTheProcess(t *testing.T) {
	for _, sig := range []os.Signal{os.Interrupt, syscall.SIGTERM} {
		child := exec.CommandContext(t.Context(), os.Args[0])
		child.Env = append(os.Environ(), childVariable+"=1")
		out, err := child.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		expect := func(want string) {
			if !lines.Scan() || lines.Text() != want {
				t.Fatalf("%v: the child said %q, want %q", sig, lines.Text(), want)
			}
		}
		expect("ready")
		if err := child.Process.Signal(sig); err != nil {
			t.Fatal(err)
		}
		expect("cancelled")
		done := make(chan error, 1)
		go func() { done <- child.Wait() }()
		// The default effect comes back a moment after the cancellation, so more than one may be needed.
		for err = nil; err == nil; {
			select {
			case err = <-done:
			case <-time.After(10 * time.Millisecond): // a flood of them can meet a runtime that is dying already
				_ = child.Process.Signal(sig)
			}
		}
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != sig {
			t.Errorf("%v: the child ended with %v", sig, err)
		}
	}
}
