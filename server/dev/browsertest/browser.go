// Package browsertest drives a headless Chromium in tests: a real one, found on PATH.
package browsertest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
)

// patience bounds what should take a moment; it only shows when something hangs.
const patience = time.Minute

// Page is one tab. Its methods fail the test.
type Page struct {
	t   testing.TB
	ctx context.Context

	// Close ends the browser, as the test's end does. Once is enough.
	Close func()

	mu       sync.Mutex
	messages []string // what the page wrote to its console
	forgiven string   // messages that contain it are expected; "": none is
}

// Open starts a browser with an empty profile and opens a URL. The browser ends with the test. An
// uncaught error of the page, or anything else in its console, fails the test.
func Open(t testing.TB, url string) *Page {
	t.Helper()
	program, err := find()
	if err != nil {
		t.Fatal(err)
	}
	allocCtx, stop := chromedp.NewExecAllocator(context.Background(),
		chromedp.ExecPath(program), chromedp.UserDataDir(t.TempDir()),
		chromedp.Headless, chromedp.NoSandbox, chromedp.DisableGPU, chromedp.NoFirstRun,
		chromedp.Flag("disable-quic", true), chromedp.Flag("disable-background-networking", true),
		chromedp.Flag("disable-component-update", true), chromedp.Flag("disable-sync", true))
	ctx, cancel := chromedp.NewContext(allocCtx)
	p := &Page{t: t, ctx: ctx}
	if err := chromedp.Do(ctx); err != nil { // starts the browser
		cancel()
		stop()
		t.Fatal("start the browser:", err)
	}
	console := chromedp.Console(ctx)
	listened := make(chan struct{})
	go func() {
		defer close(listened)
		for m, err := range console {
			if err != nil {
				return
			}
			p.mu.Lock()
			p.messages = append(p.messages, m.String())
			p.mu.Unlock()
		}
	}()
	p.Close = sync.OnceFunc(func() {
		if err := chromedp.Cancel(ctx); err != nil && !errors.Is(err, context.Canceled) {
			t.Error("stop the browser:", err)
		}
		cancel()
		stop()
		<-listened
		for _, m := range p.messages {
			if p.forgiven == "" || !strings.Contains(m, p.forgiven) {
				t.Error("console:", m)
			}
		}
	})
	t.Cleanup(p.Close)
	p.Do(chromedp.Navigate(url))
	return p
}

// Forgive lets the console have messages that contain a text.
func (p *Page) Forgive(text string) { p.forgiven = text }

// find looks for Chromium under the names that it has.
func find() (string, error) {
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome", "chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			return path, nil
		}
	}
	return "", errors.New("no Chromium on PATH: install one (Debian: apt-get install chromium)")
}

// Do runs actions.
func (p *Page) Do(actions ...chromedp.Action[chromedp.Void]) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, patience)
	defer cancel()
	if err := chromedp.Do(ctx, actions...); err != nil {
		p.t.Fatal(err)
	}
}

// Click clicks on what a CSS selector finds, once it is there, visible and enabled.
func (p *Page) Click(selector string) {
	p.t.Helper()
	p.Do(chromedp.WaitVisible(chromedp.CSS(selector)), chromedp.WaitEnabled(chromedp.CSS(selector)), chromedp.Click(chromedp.CSS(selector)))
}

// Wait waits until a JavaScript expression is true.
func (p *Page) Wait(expression string) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, patience)
	defer cancel()
	// By interval, since frames pause in a tab that is not shown.
	_, err := chromedp.Run(ctx, chromedp.Poll[chromedp.Void](expression,
		chromedp.WithPollingInterval(20*time.Millisecond), chromedp.WithPollingTimeout(patience)))
	if err != nil {
		body, _ := chromedp.Run(p.ctx, chromedp.Text(chromedp.CSS("body")))
		p.t.Fatalf("wait for %s: %v; the page shows:\n%s", expression, err, body)
	}
}

// Eval is the value of a JavaScript expression; promises are awaited.
func Eval[T any](p *Page, expression string) T {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, patience)
	defer cancel()
	v, err := chromedp.Run(ctx, chromedp.Evaluate[T](expression, chromedp.EvalAwaitPromise))
	if err != nil {
		p.t.Fatalf("%s: %v", expression, err)
	}
	return v
}

// Shot writes a picture of the whole page, name.png, at a width and in a colour scheme ("light" or
// "dark"), to $NUDGE_SHOTS, or else to a directory that goes with the test. It returns the path.
func (p *Page) Shot(name string, width int64, scheme string) string {
	p.t.Helper()
	dir := os.Getenv("NUDGE_SHOTS")
	if dir == "" {
		dir = p.t.TempDir()
	}
	p.Do(
		func(ctx context.Context, t *chromedp.Target) (chromedp.Void, error) {
			_, err := cdp.Call(ctx, t, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
				Features: []*emulation.MediaFeature{
					{Name: "prefers-color-scheme", Value: scheme},
					{Name: "prefers-reduced-motion", Value: "reduce"}, // still pictures
				},
			})
			return chromedp.Void{}, err
		},
		chromedp.EmulateViewport(width, 900),
	)
	ctx, cancel := context.WithTimeout(p.ctx, patience)
	defer cancel()
	png, err := chromedp.Run(ctx, chromedp.FullScreenshot(100))
	if err != nil {
		p.t.Fatal("take a picture:", err)
	}
	path := filepath.Join(dir, fmt.Sprintf("%s-%d-%s.png", name, width, scheme))
	if err := os.WriteFile(path, png, 0o644); err != nil {
		p.t.Fatal(err)
	}
	return path
}
