package main

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/nudgesync/nudge/clientsim/provider"
	"github.com/nudgesync/nudge/internal/devpg"
	"github.com/nudgesync/nudge/internal/devpg/pgtest"
)

// program builds the real server with a build tag, "" for none.
func program(t *testing.T, tag string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "nudge")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-tags", tag, "-o", path, "../server")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build the server: %v\n%s", err, out)
	}
	return path
}

// server is the real program on a database of its own: `nudge dev --dsn`, or `nudge serve`.
type server struct {
	t          *testing.T
	bin, state string
	dsn        string
	url, admin string
	args, env  []string
	cmd        *exec.Cmd
	log        *bytes.Buffer
	exited     chan struct{}
}

func startServer(t *testing.T, bin string, env ...string) *server {
	t.Helper()
	s := &server{t: t, bin: bin, state: t.TempDir(), dsn: pgtest.Database(t), env: env}
	s.url, s.admin = freeAddr(t), freeAddr(t)
	s.args = []string{"dev", "--dsn", s.dsn, "--listen", s.url, "--admin", s.admin}
	s.start()
	t.Cleanup(func() {
		s.stop(os.Interrupt)
		if t.Failed() {
			t.Logf("the server said:\n%s", s.log)
		}
	})
	return s
}

// serveYAML is the configuration of an operator with the demo's tables and the demo's signing key.
const serveYAML = `
version: 1
source: {dsn: "postgres://nudge_feed:feed@%[1]s", snapshot_dsn: "postgres://nudge_read:read@%[1]s"}
tables:
  public.users: {owner: id}
  public.medications: {owner: user_id}
  public.intakes: {owner: user_id}
auth:
  keys: [{id: dev, algorithm: HS256, secret_file: %[2]q}]
  issuer: nudge-dev
  audience: nudge
listen: {public: %[3]q, admin: %[4]q}
`

// startProviders starts simulated providers, and returns their part of nudge.yaml.
func startProviders(t *testing.T) (p *provider.Providers, yaml string) {
	t.Helper()
	p, err := provider.Start(context.Background(), provider.Config{LogSize: 200_000})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	files, err := p.WriteFiles(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return p, p.PushSection(files, "grace: 2s", "budget: {apns: 4s, fcm: 3s}")
}

// startServe is startServer for `nudge serve`, which an operator configured and attached, with roles of its
// own, on a cluster of its own. more is what its nudge.yaml has besides.
func startServe(t *testing.T, bin, more string) *server {
	t.Helper()
	pg, err := devpg.Start(t.Context(), devpg.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := pg.Stop(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	})
	s := &server{t: t, bin: bin, state: t.TempDir(), dsn: pg.DSN("postgres")}
	s.url, s.admin = freeAddr(t), freeAddr(t)
	// The app: its schema and its users. The demo makes them, and takes nudge away again.
	s.args = []string{"dev", "--dsn", s.dsn, "--listen", s.url, "--admin", s.admin}
	s.start()
	s.stop(os.Interrupt)

	source, err := url.Parse(s.dsn)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(s.state, "nudge.yaml")
	yaml := fmt.Sprintf(serveYAML, source.Host+source.RequestURI(), filepath.Join(s.state, "nudge", "dev.key"), s.url, s.admin)
	if err := os.WriteFile(path, []byte(yaml+more), 0o600); err != nil {
		t.Fatal(err)
	}
	s.env = []string{"NUDGE_ADMIN_DSN=" + s.dsn}
	for _, command := range []string{"detach", "attach"} {
		cmd := exec.CommandContext(t.Context(), bin, command, "--apply", "--config", path)
		cmd.Env = append(os.Environ(), s.env...)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", command, err, out)
		}
	}
	s.args = []string{"serve", "--config", path}
	s.start()
	t.Cleanup(func() {
		s.stop(os.Interrupt)
		if t.Failed() {
			t.Logf("the server said:\n%s", s.log)
		}
	})
	return s
}

func freeAddr(t *testing.T) string {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

// start runs the program and returns once it is ready.
func (s *server) start() {
	s.t.Helper()
	s.log = &bytes.Buffer{}
	s.cmd = exec.CommandContext(context.Background(), s.bin, s.args...)
	s.cmd.Env = append(append(os.Environ(), "XDG_STATE_HOME="+s.state), s.env...)
	s.cmd.Stdout, s.cmd.Stderr = s.log, s.log
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	exited := make(chan struct{})
	s.exited = exited
	cmd := s.cmd
	go func() { defer close(exited); _ = cmd.Wait() }()
	deadline := time.Now().Add(60 * time.Second)
	for !ready(s.t.Context(), "http://"+s.url) {
		select {
		case <-exited:
			s.t.Fatalf("the server ended:\n%s", s.log)
		case <-time.After(20 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			s.t.Fatal("the server did not get ready")
		}
	}
}

func ready(ctx context.Context, url string) bool {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/readyz", nil)
	if err != nil {
		return false
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return false
	}
	_ = res.Body.Close()
	return res.StatusCode == http.StatusOK
}

// stop signals the program, if it runs, and waits for its end.
func (s *server) stop(sig os.Signal) {
	select {
	case <-s.exited:
		return
	default:
	}
	if err := s.cmd.Process.Signal(sig); err != nil {
		s.t.Error(err)
	}
	select {
	case <-s.exited:
	case <-time.After(30 * time.Second):
		s.t.Error("the server did not stop")
		_ = s.cmd.Process.Signal(syscall.SIGKILL)
		<-s.exited
	}
	http.DefaultClient.CloseIdleConnections()
}

// clientsim runs the simulator against the server.
func (s *server) clientsim(args ...string) (code int, output string) {
	var out, errs bytes.Buffer
	args = append([]string{
		"run", "--against", "http://" + s.url, "--dsn", s.dsn,
		"--signing-key-file", filepath.Join(s.state, "nudge", "dev.key"), "--quiet",
	}, args...)
	if s.admin != "" {
		args = append(args, "--admin", "http://"+s.admin)
	}
	code = run(s.t.Context(), args, &out, &errs)
	return code, fmt.Sprint(out.String(), errs.String())
}

// explain is what the server knows of a device that is stale.
func (s *server) explain(user, device string) string {
	cmd := exec.CommandContext(s.t.Context(), s.bin, "explain", "--config", filepath.Join(s.state, "nudge.yaml"), user, device)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Sprintf("explain: %v\n%s", err, out)
	}
	return string(out)
}
