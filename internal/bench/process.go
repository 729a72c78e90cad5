package bench

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"
)

// stopWithin is how long a process may take to stop before it is killed.
const stopWithin = 30 * time.Second

// Process is a program that was started and said that it is there.
type Process struct {
	PID   int
	First string // the first line that it printed

	cmd   *exec.Cmd
	input io.WriteCloser
	lines chan string
	said  *said
}

// said keeps the end of what a process says to stderr.
type said struct {
	mu  sync.Mutex
	buf []byte
}

func (s *said) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.buf = append(s.buf, p...)
	s.buf = s.buf[max(0, len(s.buf)-4<<10):]
	return len(p), nil
}

func (s *said) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return string(bytes.TrimSpace(s.buf))
}

// Self is this program, to run again: figures of a process must not hold those of another.
func Self(ctx context.Context, args ...string) (*exec.Cmd, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	return exec.CommandContext(ctx, self, args...), nil
}

// Start runs a program, hands it input, and returns once it has printed its first line. What it reads
// ends only with it.
func Start(cmd *exec.Cmd, input []byte) (*Process, error) {
	p := &Process{cmd: cmd, lines: make(chan string, 64), said: &said{}}
	cmd.Stderr = p.said
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = stopWithin
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if p.input, err = cmd.StdinPipe(); err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", cmd.Path, err)
	}
	p.PID = cmd.Process.Pid
	go func() {
		defer close(p.lines)
		for scan := bufio.NewScanner(out); scan.Scan(); {
			p.lines <- scan.Text()
		}
	}()
	if len(input) > 0 {
		if _, err := p.input.Write(append(input, '\n')); err != nil {
			return nil, errors.Join(fmt.Errorf("start %s: %w", cmd.Path, err), p.Stop())
		}
	}
	if p.First, err = p.Line(); err != nil {
		return nil, err
	}
	return p, nil
}

// Line is the next line that the process prints. When there is none any more it has ended, and the error
// says how.
func (p *Process) Line() (string, error) {
	line, ok := <-p.lines
	if ok {
		return line, nil
	}
	err := p.cmd.Wait()
	if err == nil {
		err = errors.New("it ended")
	}
	return "", fmt.Errorf("%s: %w: %s", strings.Join(p.cmd.Args[:min(len(p.cmd.Args), 3)], " "), err, p.said)
}

// Tell writes a line to the process.
func (p *Process) Tell(line string) error {
	_, err := io.WriteString(p.input, line+"\n")
	return err
}

// Stop ends the process and waits for it.
func (p *Process) Stop() error {
	_ = p.input.Close()
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // it may have ended
	killed := time.AfterFunc(stopWithin, func() { _ = p.cmd.Process.Kill() })
	defer killed.Stop()
	for range p.lines { // until it has closed its end
	}
	if err := p.cmd.Wait(); err != nil {
		return fmt.Errorf("%s: %w: %s", p.cmd.Path, err, p.said)
	}
	return nil
}
