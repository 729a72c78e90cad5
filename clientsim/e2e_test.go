package main

import (
	"os"
	"regexp"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/nudgesync/nudge/clientsim/provider"
)

// duration of the runs against the real server.
func duration() string {
	if os.Getenv("NUDGE_LONG") != "" {
		return "60s"
	}
	return "8s"
}

func TestRealServer(t *testing.T) {
	s := startServer(t, program(t, ""))
	code, out := s.clientsim("--users", "60", "--devices", "3", "--rate", "60", "--duration", duration())
	if code != exitOK {
		t.Fatalf("exit code %d\n%s", code, out)
	}
	wants(t, out, "stale devices: 0\n", "mismatched rows: 0\n", "torn transactions: 0\n", "leaked rows: 0\n")
	if n := number(t, out, `resets: .*new (\d+)`); n < 180 {
		t.Errorf("%d first resets of 180 devices", n)
	}
	if n := number(t, out, `expired cursors: +(\d+) devices`); n == 0 {
		t.Error("no device returned with an expired cursor")
	}
	t.Log(out)
}

// `nudge serve` is killed and restarted twice in mid-run.
func TestChaosRestart(t *testing.T) {
	s := startServe(t, program(t, ""), "")
	done := make(chan struct{})
	killed := make(chan int, 1)
	go func() {
		kills := 0
		for range 2 {
			select {
			case <-done:
			case <-time.After(3 * time.Second):
				s.stop(syscall.SIGKILL)
				s.start()
				kills++
			}
		}
		killed <- kills
	}()
	code, out := s.clientsim("--users", "60", "--devices", "3", "--rate", "60", "--duration", "12s")
	close(done)
	if n := <-killed; n != 2 {
		t.Errorf("killed %d times", n)
	}
	if code != exitOK {
		t.Fatalf("exit code %d\n%s", code, out)
	}
	wants(t, out, "stale devices: 0\n", "mismatched rows: 0\n", "torn transactions: 0\n", "leaked rows: 0\n")
	// Most are cut twice; some happen to be away.
	if n := number(t, out, `\((\d+) reconnects\)`); n < 180 {
		t.Errorf("%d reconnects of 180 devices that were cut twice", n)
	}
}

// Devices without a socket hear by push, though providers fail, tokens change and the server is killed: every one of
// them is up to date in the end, nobody was pushed to past its budget or for what it wrote itself.
func TestChaosPush(t *testing.T) {
	p, yaml := startProviders(t)
	s := startServe(t, program(t, ""), yaml)
	size := struct{ users, rate, duration, settle string }{"60", "30", "12s", "90s"}
	kills, between := 1, 5*time.Second
	if os.Getenv("NUDGE_LONG") != "" {
		size = struct{ users, rate, duration, settle string }{"2000", "100", "120s", "180s"}
		kills, between = 3, 25*time.Second
	}
	done := make(chan struct{})
	killed := make(chan int, 1)
	go func() {
		n := 0
		// There are writes from the first push on.
		pushed := func(e provider.Entry) bool { return e.Event == provider.EventAnswered }
		if _, err := p.Log().Wait(t.Context(), 0, pushed); err != nil {
			t.Error(err)
		}
		for range kills {
			select {
			case <-done:
			case <-time.After(between):
				s.stop(syscall.SIGKILL)
				s.start()
				n++
			}
		}
		killed <- n
	}()
	code, out := s.clientsim("--users", size.users, "--devices", "3", "--rate", size.rate, "--duration", size.duration,
		"--settle", size.settle, "--roads", "socket,apns,fcm", "--providers", p.ControlURL, "--provider-errors", "0.05",
		"--rotations", "0.1", "--budgets", "apns=4s,fcm=3s")
	close(done)
	if n := <-killed; n != kills {
		t.Errorf("killed %d times", n)
	}
	if code != exitOK {
		for _, m := range regexp.MustCompile(`device (\S+) of user (\d+)`).FindAllStringSubmatch(out, 3) {
			t.Log(s.explain(m[2], m[1]))
		}
		t.Fatalf("exit code %d\n%s", code, out)
	}
	wants(t, out, "stale devices: 0\n", "mismatched rows: 0\n", "torn transactions: 0\n", "leaked rows: 0\n",
		"pushes past a budget: 0\n", "pushes to the origin: 0\n")
	for _, road := range []string{"apns", "fcm"} {
		if n := number(t, out, road+`: +\d+ devices, (\d+) pushes accepted`); n == 0 {
			t.Errorf("nothing was pushed by %s", road)
		}
		if n := number(t, out, road+`: .* (\d+) failed,`); n == 0 {
			t.Errorf("%s never failed", road)
		}
	}
	t.Log(out)
}

// The oracle can fail: a server with a planted bug is found out, and what it did is named.
func TestPlantedBugsAreFound(t *testing.T) {
	bin := program(t, "plant")
	t.Run("none", func(t *testing.T) { // what the others find is their bug
		s := startServer(t, bin)
		if code, out := s.clientsim("--users", "30", "--devices", "3", "--rate", "50", "--duration", "4s"); code != exitOK {
			t.Errorf("exit code %d\n%s", code, out)
		}
	})
	for _, tt := range []struct{ bug, found, named string }{
		{"drop-nudges", `stale devices: [1-9]`, `(changed|missing|extra): device sim-\S+ of user \d+, public\.\w+ {`},
		{"skip-change", `mismatched rows: [1-9]`, `extra: device sim-\S+ of user \d+, public\.\w+ {`},
		{"tear-transaction", `torn transactions: [1-9]`, `torn: device sim-\S+ of user \d+, public\.medications {`},
		{"leak-row", `leaked rows: [1-9]`, `leaked: device sim-\S+ of user \d+, public\.\w+ {`},
	} {
		t.Run(tt.bug, func(t *testing.T) {
			// Past the rows that the simulator makes before its devices come. Nothing is trimmed, or the
			// resets that follow would heal what the bug did.
			s := startServer(t, bin, "NUDGE_PLANT="+tt.bug, "NUDGE_PLANT_AFTER=1500")
			s.admin = ""
			code, out := s.clientsim("--users", "60", "--devices", "3", "--rate", "80", "--duration", duration(), "--settle", "5s")
			if code != exitWrong {
				t.Errorf("exit code %d", code)
			}
			for _, want := range []string{tt.found, tt.named} {
				if !regexp.MustCompile(want).MatchString(out) {
					t.Errorf("no %q in\n%s", want, out)
				}
			}
		})
	}
}

func number(t *testing.T, text, pattern string) int {
	t.Helper()
	m := regexp.MustCompile(pattern).FindStringSubmatch(text)
	if m == nil {
		t.Fatalf("no %q in\n%s", pattern, text)
	}
	n, err := strconv.Atoi(m[1])
	if err != nil {
		t.Fatal(err)
	}
	return n
}
