package changefeed_test

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/nudgesync/nudge/changefeed"
	"github.com/nudgesync/nudge/changefeed/change"
	"github.com/nudgesync/nudge/changefeed/changelog"
	"github.com/nudgesync/nudge/changefeed/route"
)

// sleeperEnv has this binary be a feed instead of a test: the DSN, the slot and the step, separated by blanks.
const sleeperEnv = "NUDGE_TEST_SLEEPER"

// runSleeper is a feed in a process of its own, which stops itself the first time it comes to a step after
// it has been told to by SIGUSR1, and logs to its standard output.
func runSleeper() {
	ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer cancel()
	tell := make(chan os.Signal, 1)
	signal.Notify(tell, syscall.SIGUSR1)
	log := slog.New(slog.NewTextHandler(os.Stdout, nil))
	die := func(err error) {
		if err != nil {
			log.Error("the sleeper failed", "error", err)
			os.Exit(1)
		}
	}
	var dsn, slot, step string
	_, err := fmt.Sscan(os.Getenv(sleeperEnv), &dsn, &slot, &step)
	die(err)
	pool, err := pgxpool.New(ctx, dsn)
	die(err)
	defer pool.Close()
	catalog, err := route.Catalog(ctx, pool, []string{"public.items"})
	die(err)
	routing, err := route.Resolve(map[string]route.Spec{"public.items": {Owner: "user_id"}}, catalog, false)
	die(err)
	var slept atomic.Bool
	feed, err := changefeed.New(changefeed.Config{
		DSN: dsn, Source: pool, Log: changelog.Open(pool, slot), Routing: routing, Slot: slot, Publication: "nudge",
		Name: "sleeper", Logger: log, Metrics: changefeed.NewMetrics(prometheus.NewRegistry()),
		Publish: func(context.Context, change.Frame) {},
		Failpoint: func(s changefeed.Step) error {
			if string(s) == step && len(tell) > 0 && slept.CompareAndSwap(false, true) {
				log.Info("the sleeper sleeps")
				return syscall.Kill(os.Getpid(), syscall.SIGSTOP)
			}
			return nil
		},
	})
	die(err)
	die(feed.Run(ctx))
}

// sleeper is that process.
type sleeper struct {
	*os.Process
	t     *testing.T
	lines *bufio.Scanner
}

func startSleeper(r *rig, step changefeed.Step) *sleeper {
	r.t.Helper()
	exe, err := os.Executable()
	if err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.t.Context()), 2*time.Minute)
	r.t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, exe)
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s %s %s", sleeperEnv, r.dsn, r.slot, step))
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		r.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // killed
	})
	return &sleeper{cmd.Process, r.t, bufio.NewScanner(out)}
}

// says waits for a line of its log.
func (s *sleeper) says(what string) {
	s.t.Helper()
	for s.lines.Scan() {
		if strings.Contains(s.lines.Text(), what) {
			return
		}
	}
	s.t.Fatalf("the sleeper never said %q", what)
}

// P10: a feed's process that is stopped loses the slot after wal_sender_timeout, and another one takes over.
// Woken up, it goes on where it was, about to append; and is fenced.
func TestP10StoppedProcessIsFenced(t *testing.T) {
	t.Parallel()
	for _, step := range []changefeed.Step{changefeed.BeforeAppend, changefeed.AfterAppend} {
		t.Run(string(step), func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			s := startSleeper(r, step)
			r.settle()
			r.exec(`insert into items select i, 1 from generate_series(1, 20) i`)
			before := r.settle()
			if before.Leader != "sleeper" {
				t.Fatalf("the leader is %q", before.Leader)
			}
			if err := s.Signal(syscall.SIGUSR1); err != nil {
				t.Fatal(err)
			}
			// The signal may come later than the first of these.
			asleep := make(chan struct{})
			go func() { s.says("the sleeper sleeps"); close(asleep) }()
			for awake := true; awake; {
				r.exec(`update items set version = version + 1`)
				select {
				case <-asleep:
					awake = false
				case <-time.After(20 * time.Millisecond):
				}
			}
			slept := time.Now()
			successor := r.start(func(c *changefeed.Config) { c.Name = "successor" })
			r.exec(`update items set version = version + 1`)
			deadline := time.Now().Add(40 * time.Second)
			for {
				state, err := r.log.Feed(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				if state.Leader == "successor" {
					break
				}
				if time.Now().After(deadline) {
					t.Fatal("nobody took over")
				}
				<-time.After(20 * time.Millisecond)
			}
			t.Logf("taken over after %v", time.Since(slept).Round(10*time.Millisecond))
			if err := s.Signal(syscall.SIGCONT); err != nil {
				t.Fatal(err)
			}
			s.says("feed stopped, starting over")
			r.exec(`update items set version = version + 1`)
			if after := r.settle(); after.Epoch != before.Epoch || after.Leader != "successor" {
				t.Errorf("state %+v", after)
			}
			successor()
			r.check()
		})
	}
}
