package devpg

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
)

// process is a running child. exited is closed when it has ended and its output is read; err is set by then.
type process struct {
	cmd    *exec.Cmd
	output *serverLog
	exited chan struct{}
	err    error
}

// spawn starts a program as the cluster's owner. The goroutine that forks stays on its thread until
// the child has ended: on Linux the child is signalled when that thread dies, not when the process does.
func (c *Cluster) spawn(name string, args ...string) (*process, error) {
	cmd := exec.Command(name, args...) //nolint:noctx // it outlives the context of Start
	cmd.Dir = "/"
	cmd.Env = environment()
	cmd.SysProcAttr = childAttr(c.owner)
	// A backend that survives its postmaster for a moment must not hold Wait up.
	cmd.WaitDelay = 5 * time.Second
	p := &process{cmd: cmd, output: &serverLog{log: c.log}, exited: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = p.output, p.output
	started := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		err := cmd.Start()
		started <- err
		if err != nil {
			return
		}
		p.err = cmd.Wait()
		if p.err == nil {
			p.err = errors.New("exit status 0")
		}
		close(p.exited)
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	return p, nil
}

// signal tells the process to end. One that has ended already is no error.
func (p *process) signal(s syscall.Signal) error {
	if err := p.cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	return nil
}

// environment is ours without what would change how Postgres starts or speaks.
func environment() []string {
	env := []string{"LC_ALL=C", "TZ=UTC"}
	for _, kv := range os.Environ() {
		name, _, _ := strings.Cut(kv, "=")
		if strings.HasPrefix(name, "PG") || strings.HasPrefix(name, "LC_") || name == "LANG" || name == "TZ" {
			continue
		}
		env = append(env, kv)
	}
	return env
}

// serverLog passes lines on to the logger, and keeps the last ones to explain a failure.
type serverLog struct {
	log *slog.Logger

	mu   sync.Mutex
	part []byte // of a line whose end has not come yet
	last []string
}

func (l *serverLog) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.part = append(l.part, b...)
	for {
		line, rest, ok := bytes.Cut(l.part, []byte("\n"))
		if !ok {
			return len(b), nil
		}
		l.line(string(line))
		l.part = append([]byte(nil), rest...)
	}
}

func (l *serverLog) line(s string) {
	level := slog.LevelDebug
	if (strings.Contains(s, "FATAL:") || strings.Contains(s, "PANIC:")) && !ordinary(s) {
		level = slog.LevelError
	}
	l.log.Log(context.Background(), level, "postgres", "line", s)
	if l.last = append(l.last, s); len(l.last) > 20 {
		l.last = l.last[1:]
	}
}

// ordinary reports whether a line is a FATAL of every start and stop: whoever knocks before the server
// is up (cannot_connect_now) or is still there when it ends (admin_shutdown). See linePrefix.
func ordinary(line string) bool {
	return strings.Contains(line, " 57P03 FATAL:") || strings.Contains(line, " 57P01 FATAL:")
}

func (l *serverLog) tail() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Join(l.last, "\n")
}
