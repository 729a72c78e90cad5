package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/nudgesync/nudge/server/wire"
)

// clientsim runs the program against the world.
func (w *world) clientsim(args ...string) (code int, stdout, stderr string) {
	w.t.Helper()
	var out, errs bytes.Buffer
	args = append([]string{
		"run", "--against", w.url, "--admin", w.url, "--dsn", w.dsn, "--signing-key-file", w.keyFile, "--seed", "7",
	}, args...)
	code = run(w.t.Context(), args, &out, &errs)
	return code, out.String(), errs.String()
}

func wants(t *testing.T, text string, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if !strings.Contains(text, part) {
			t.Errorf("no %q in\n%s", part, text)
		}
	}
}

func TestRunFindsNothingWrong(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	report := filepath.Join(t.TempDir(), "report.json")
	code, stdout, stderr := w.clientsim("--users", "4", "--devices", "4", "--rate", "40", "--duration", "3s", "--report", report)
	if code != exitOK {
		t.Fatalf("exit code %d\n%s%s", code, stdout, stderr)
	}
	wants(t, stdout, "stale devices: 0\n", "mismatched rows: 0\n", "torn transactions: 0\n", "leaked rows: 0\n",
		"1 devices returned with one\n", "expired cursors without a reset: 0\n")
	b, err := os.ReadFile(report)
	if err != nil {
		t.Fatal(err)
	}
	var sum summary
	if err := json.Unmarshal(b, &sum); err != nil {
		t.Fatal(err)
	}
	if sum.Commits+sum.Failed != 120 || sum.Failed != 0 || !sum.Settled || sum.Devices != 16 || sum.Rejoins < 3 ||
		sum.Resets["expired"] == 0 || sum.Resets["new"] < 16 || sum.Applied.Count == 0 || sum.Compared == 0 || sum.OriginNudges == 0 {
		t.Errorf("report %s", b)
	}
}

func TestRunNamesWhatIsWrong(t *testing.T) {
	tests := []struct {
		name    string
		devices string // of each of two users; from three on, every behaviour is among them
		plant   func(*world)
		want    []string
	}{
		{
			// Few writes: who writes pulls for itself, and then has what the others wrote.
			"nudges that never come", "2",
			func(w *world) { w.rate, w.mute = "4", func(device string) bool { return device != "" } },
			[]string{": device sim-", " of user ", "settled:           no"},
		},
		{
			"a change that is skipped", "2",
			func(w *world) {
				w.tamper = func(device string, page *wire.Page) {
					if strings.HasSuffix(device, "-1") {
						page.Changes = append(page.Changes[:1:1], page.Changes[2:]...)
					}
				}
			},
			[]string{"stale devices: 2\n", "mismatched rows: 2\n", "missing: device sim-", "-1 of user ", "public.users {\"id\":"},
		},
		{
			"a transaction that is torn for a moment", "2",
			func(w *world) {
				var torn atomic.Bool
				w.tamper = func(_ string, page *wire.Page) {
					if len(page.Changes) > 2 && torn.CompareAndSwap(false, true) {
						c := &page.Changes[2] // the first medication
						c.Row = bytes.Replace(c.Row, []byte(`"stock": 1000`), []byte(`"stock": 999`), 1)
					}
				}
			},
			[]string{"mismatched rows: 0\n", "torn transactions: 1\n", "torn: device sim-", "stock 999, but 1000 supplied and 0 taken"},
		},
		{
			"a cursor that is honoured past the trim", "3",
			func(w *world) {
				w.tamper = func(_ string, page *wire.Page) {
					if page.Changes[0].Reason == "expired" {
						page.Changes[0].Reason = "repair"
					}
				}
			},
			[]string{"stale devices: 0\n", "expired cursors without a reset: 1\n"},
		},
		{
			"a row that is leaked for a moment", "2",
			func(w *world) {
				var leaked atomic.Bool
				w.tamper = func(_ string, page *wire.Page) {
					if leaked.CompareAndSwap(false, true) {
						page.Changes = append(page.Changes[:len(page.Changes)-1:len(page.Changes)-1], wire.Change{
							Op: wire.OpUpsert, Scope: page.Changes[1].Scope, Table: "public.intakes",
							Key: json.RawMessage(`{"id":"x"}`), Row: json.RawMessage(`{"id":"x","user_id":3}`),
						}, page.Changes[len(page.Changes)-1])
					}
				}
			},
			[]string{"mismatched rows: 0\n", "leaked rows: 1\n", "leaked: device sim-", `its user_id is "3"`},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.rate = "40"
			tt.plant(w)
			code, stdout, stderr := w.clientsim("--users", "2", "--devices", tt.devices, "--rate", w.rate, "--duration", "3s", "--settle", "3s", "--quiet")
			if code != exitWrong {
				t.Errorf("exit code %d, want %d\n%s", code, exitWrong, stderr)
			}
			wants(t, stdout, tt.want...)
			if stderr != "" {
				t.Errorf("quiet, and yet: %s", stderr)
			}
		})
	}
}

func TestRunJSON(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	code, stdout, stderr := w.clientsim("--users", "1", "--devices", "2", "--rate", "20", "--duration", "500ms", "--json")
	var sum summary
	if err := json.Unmarshal([]byte(stdout), &sum); err != nil || code != exitOK || !sum.OK || sum.Commits != 10 {
		t.Errorf("exit code %d, error %v\n%s%s", code, err, stdout, stderr)
	}
}

func TestBadTokenStopsTheRun(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	if err := os.WriteFile(w.keyFile, []byte("another key"), 0o600); err != nil {
		t.Fatal(err)
	}
	code, stdout, stderr := w.clientsim("--users", "1", "--devices", "1")
	if code != exitWrong {
		t.Errorf("exit code %d\n%s", code, stdout)
	}
	wants(t, stderr, "4501 token_bad")
}

func TestUsage(t *testing.T) {
	t.Setenv("XDG_STATE_HOME", t.TempDir())
	for _, tt := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"run", "--users", "0"}, exitUsage, "--users"},
		{[]string{"run", "--devices", "-1"}, exitUsage, "--devices"},
		{[]string{"run", "--rate", "0"}, exitUsage, "--rate"},
		{[]string{"run", "--duration", "x"}, exitUsage, "duration"},
		{[]string{"run", "--usrs", "1"}, exitUsage, "unknown flag"},
		{[]string{"run", "extra"}, exitUsage, "extra"},
		{[]string{"walk"}, exitUsage, "unknown command"},
		{[]string{"run", "--against", "http://127.0.0.1:1"}, exitUsage, "--dsn"},
		{[]string{"run", "--users", "1000000", "--devices", "1000"}, exitUsage, "devices fit; raise it with ulimit -n"},
		{[]string{"run"}, exitWrong, "start \"nudge dev\""},
		{[]string{"run", "--against", "http://127.0.0.1:1", "--dsn", "host=127.0.0.1", "--signing-key-file", "absent"}, exitWrong, "signing key"},
	} {
		var out, errs bytes.Buffer
		if code := run(t.Context(), tt.args, &out, &errs); code != tt.code || !strings.Contains(errs.String(), tt.want) {
			t.Errorf("%v: exit code %d, want %d; stderr %q, want it to contain %q", tt.args, code, tt.code, errs.String(), tt.want)
		}
	}
	var out, errs bytes.Buffer
	if code := run(t.Context(), []string{"version"}, &out, &errs); code != exitOK || !strings.HasPrefix(out.String(), "clientsim ") {
		t.Errorf("version: exit code %d, %q", code, out.String())
	}
}
