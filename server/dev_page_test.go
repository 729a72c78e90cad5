package main

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/jackc/pgx/v5"

	"github.com/nudgesync/nudge/internal/devpg/pgtest"
	"github.com/nudgesync/nudge/server/dev/browsertest"
)

// The whole journey, as a person sees it: what one device writes shows on the other, which was nudged;
// the one that wrote was not; a change in the database shows on both; a device that was away catches up.
func TestDevPage(t *testing.T) {
	home := t.TempDir()
	d := startDev(t, home, "--ephemeral", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0")
	conn, err := pgx.Connect(t.Context(), d.state.DSN)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.Background()) }()

	page := browsertest.Open(t, d.state.URL+"/")
	connected := `["phone", "tablet"].every((d) => document.getElementById(d).dataset.state === "online" &&
		document.querySelectorAll("#" + d + " [data-list=intakes] li").length === 5)`
	page.Wait(connected)
	open := browsertest.Eval[[]string](page, `[...document.querySelectorAll("#phone li[data-taken=false]")].map((li) => li.dataset.id)`)
	if len(open) < 3 {
		t.Fatalf("the demo user has %d open intakes, want at least 3", len(open))
	}
	shows := func(device, id string, taken bool) string {
		return `document.querySelector("#` + device + ` li[data-id='` + id + `'][data-taken=` + strconv.FormatBool(taken) + `]") !== null`
	}
	nudges := func(device string) int {
		return browsertest.Eval[int](page, `Number(document.getElementById("`+device+`").dataset.nudges)`)
	}
	line := func(device, kind string) string {
		return `document.querySelector("#events li[data-side=` + device + `][data-kind=` + kind + `]")`
	}

	phone, tablet := nudges("phone"), nudges("tablet")
	page.Click("#phone li[data-id='" + open[0] + "'] button")
	page.Wait(shows("tablet", open[0], true))
	page.Wait(shows("phone", open[0], true))
	page.Wait(line("phone", "own") + " && " + line("tablet", "nudge"))
	if n := nudges("phone"); n != phone {
		t.Errorf("the phone, which wrote, was nudged %d times", n-phone)
	}
	if n := nudges("tablet"); n == tablet {
		t.Error("the tablet was not nudged")
	}
	own := browsertest.Eval[string](page, line("phone", "own")+".textContent")
	if !strings.Contains(own, "Not nudged: it wrote it itself.") || !strings.Contains(own, "commit to screen") {
		t.Errorf("the lane says %q of the write", own)
	}

	if _, err := conn.Exec(t.Context(), "update intakes set taken_at = now() where id = $1", open[1]); err != nil {
		t.Fatal(err)
	}
	page.Wait(shows("phone", open[1], true))
	page.Wait(shows("tablet", open[1], true))
	page.Wait(line("phone", "nudge") + ` !== null`)

	page.Click("#phone [data-do=link]")
	page.Wait(`document.getElementById("phone").dataset.state === "offline"`)
	page.Click("#tablet li[data-id='" + open[2] + "'] button")
	page.Wait(shows("tablet", open[2], true))
	if !browsertest.Eval[bool](page, shows("phone", open[2], false)) {
		t.Error("the phone is offline and shows the change")
	}
	for _, width := range []int64{1280, 390} {
		for _, scheme := range []string{"light", "dark"} {
			t.Log(page.Shot("dev", width, scheme))
		}
		if wide := browsertest.Eval[int](page, "document.documentElement.scrollWidth"); int64(wide) > width {
			t.Errorf("at %d pixels the page is %d wide", width, wide)
		}
	}
	page.Click("#phone [data-do=link]")
	page.Wait(shows("phone", open[2], true))

	// Each device resumes from its cursor.
	page.Do(chromedp.Reload())
	page.Wait(connected + " && " + shows("phone", open[2], true) + " && " + shows("tablet", open[2], true))
	if events := browsertest.Eval[string](page, `document.getElementById("events").textContent`); strings.Contains(events, "pulled everything") {
		t.Errorf("after a reload: %s", events)
	}

	for _, want := range []string{d.state.URL + "/", browsertest.Eval[string](page, `document.getElementById("psql").textContent`), "clientsim run"} {
		if !strings.Contains(d.output.String(), want) {
			t.Errorf("the output does not name %q:\n%s", want, d.output)
		}
	}
	page.Close() // its devices would complain that the server is gone
	if status := d.stop(); status != exitOK {
		t.Errorf("stopped with status %d", status)
	}
	if _, err := os.Stat(filepath.Join(home, "nudge", "dev.json")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("dev.json is still there (%v)", err)
	}
	if err := conn.Ping(t.Context()); err == nil {
		t.Error("Postgres still answers")
	}
}

// A second run finds the database of the first, and --fresh does not.
func TestDevKeepsItsDatabase(t *testing.T) {
	home := t.TempDir()
	openToAll(t, home)
	count := func(args ...string) (n int) {
		t.Helper()
		d := startDev(t, home, append(args, "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0")...)
		conn, err := pgx.Connect(t.Context(), d.state.DSN)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = conn.Close(context.Background()) }()
		if err := conn.QueryRow(t.Context(), "with n as (insert into users values (1000 + (select count(*) from users), 'new') returning 1) select count(*) from users").Scan(&n); err != nil {
			t.Fatal(err)
		}
		for _, fresh := range []string{"--fresh=false", "--fresh"} { // a database in use is neither shared nor removed
			r := nudge(t, append(os.Environ(), "XDG_STATE_HOME="+home), "dev", fresh)
			if r.status != exitFailed || !strings.HasPrefix(r.stderr, "nudge: dev_running: ") {
				t.Errorf("a second one meanwhile, %s: %+v", fresh, r)
			}
		}
		if status := d.stop(); status != exitOK {
			t.Fatalf("stopped with status %d", status)
		}
		return n
	}
	if n := count(); n != 7 {
		t.Errorf("a first run starts with %d users, want 7", n)
	}
	if n := count(); n != 8 {
		t.Errorf("a second run starts with %d users, want 8", n)
	}
	if n := count("--fresh"); n != 7 {
		t.Errorf("a fresh run starts with %d users, want 7", n)
	}
}

func TestDevRefuses(t *testing.T) {
	dsn := pgtest.Database(t)
	conn, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.Background()) }()
	if _, err := conn.Exec(t.Context(), "create table users (id uuid primary key, email text)"); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		args   []string
		status int
		says   string
	}{
		"a database of another app": {[]string{"--dsn", dsn}, exitFailed, "dev_foreign_tables"},
		"flags that contradict":     {[]string{"--dsn", dsn, "--fresh"}, exitUsage, "--fresh"},
		"a port of nobody":          {[]string{"--dsn", dsn, "--listen", "127.0.0.1:99999"}, exitUsage, "listen.public"},
		"a database that is away":   {[]string{"--dsn", "postgres://postgres@127.0.0.1:1/x"}, exitFailed, "dev_connect"},
	} {
		t.Run(name, func(t *testing.T) {
			var stdout, stderr strings.Builder
			env := append(os.Environ(), "XDG_STATE_HOME="+t.TempDir())
			status := run(t.Context(), append([]string{"dev"}, c.args...), strings.NewReader(""), &stdout, &stderr, env)
			if status != c.status || !strings.Contains(stderr.String(), c.says) {
				t.Errorf("status %d, want %d; it said:\n%s", status, c.status, &stderr)
			}
		})
	}
}

// runningDev is a `nudge dev` in this process.
type runningDev struct {
	state  devState
	output *watchedOutput
	stop   func() int // as Ctrl-C does; returns the exit status
}

// startDev runs `nudge dev` until it names its page.
func startDev(t *testing.T, stateHome string, args ...string) *runningDev {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	out := &watchedOutput{want: "The page", seen: make(chan struct{})}
	env := append(os.Environ(), "XDG_STATE_HOME="+stateHome)
	status := 0
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		status = run(ctx, append([]string{"dev"}, args...), strings.NewReader(""), out, t.Output(), env)
	}()
	d := &runningDev{output: out, stop: func() int {
		cancel()
		<-ended
		return status
	}}
	t.Cleanup(func() { d.stop() })
	select {
	case <-out.seen:
	case <-ended:
		t.Fatalf("nudge dev ended with status %d", status)
	case <-time.After(2 * time.Minute):
		t.Fatal("nudge dev does not get ready")
	}
	data, err := os.ReadFile(filepath.Join(stateHome, "nudge", "dev.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, &d.state); err != nil {
		t.Fatal(err)
	}
	return d
}

// openToAll lets the user that Postgres runs as pass through a test's directory.
func openToAll(t *testing.T, dir string) {
	t.Helper()
	for ; dir != os.TempDir() && dir != filepath.Dir(dir); dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
}

// watchedOutput collects output and says when a text has come.
type watchedOutput struct {
	want string
	seen chan struct{} // closed when it has

	mu   sync.Mutex
	text strings.Builder
}

// Write never fails.
func (o *watchedOutput) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	had := strings.Contains(o.text.String(), o.want)
	o.text.Write(p)
	if !had && strings.Contains(o.text.String(), o.want) {
		close(o.seen)
	}
	return len(p), nil
}

// String is all of it so far.
func (o *watchedOutput) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}
