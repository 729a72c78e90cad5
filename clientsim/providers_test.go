package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nudgesync/nudge/clientsim/provider"
	"github.com/nudgesync/nudge/server/config"
)

// The command says where everything is, its files are good for that, and it tidies up.
func TestProvidersCommand(t *testing.T) {
	t.Parallel()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	r, w := io.Pipe()
	var stderr bytes.Buffer
	code := make(chan int, 1)
	go func() {
		code <- run(ctx, []string{"providers", "--json", "--team", "T1:K1:a.b,c.d", "--project", "p1,p2"}, w, &stderr)
		_ = w.Close()
	}()
	line, err := bufio.NewReader(r).ReadBytes('\n')
	if err != nil {
		t.Fatalf("%v, exit code %d\n%s", err, <-code, stderr.String())
	}
	var at struct {
		APNs  string
		Teams []struct{ Topics []string }
		Files provider.Files
	}
	if err := json.Unmarshal(line, &at); err != nil {
		t.Fatal(err)
	}
	if len(at.Teams) != 1 || len(at.Teams[0].Topics) != 2 || len(at.Files.Accounts) != 2 {
		t.Errorf("%s", line)
	}
	for _, path := range []string{at.Files.CA, at.Files.APNsKeys["K1"], at.Files.Accounts["p1"], at.Files.Accounts["p2"], at.Files.VAPID, at.Files.VAPIDKey, at.Files.TokenKey} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%q: %v %v", path, info, err)
		}
	}
	ca, err := os.ReadFile(at.Files.CA)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, ForceAttemptHTTP2: true}
	defer tr.CloseIdleConnections()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, at.APNs+"/3/device/00", strings.NewReader("{}"))
	if err != nil {
		t.Fatal(err)
	}
	res, err := (&http.Client{Transport: tr}).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	if res.StatusCode != http.StatusForbidden {
		t.Error(res.Status)
	}
	stop()
	if c := <-code; c != exitOK {
		t.Errorf("exit code %d\n%s", c, stderr.String())
	}
	if _, err := os.Stat(at.Files.Dir); !os.IsNotExist(err) {
		t.Errorf("%s is still there", at.Files.Dir)
	}
}

func TestProvidersCommandRefuses(t *testing.T) {
	t.Parallel()
	var out, errs bytes.Buffer
	if code := run(t.Context(), []string{"providers", "--team", "T1"}, &out, &errs); code != exitUsage {
		t.Errorf("exit code %d", code)
	}
	if code := run(t.Context(), []string{"providers", "--fcm", "0.0.0.0:0"}, &out, &errs); code != exitWrong {
		t.Errorf("exit code %d", code)
	}
}

// The section of nudge.yaml that it prints is good for nudge, with several teams and projects too.
func TestProvidersSectionIsNudges(t *testing.T) {
	t.Parallel()
	p, err := provider.Start(t.Context(), provider.Config{
		Teams: []provider.Team{
			{ID: "TEAM000001", KeyID: "KEY0000001", Topics: []string{"a.b", "c.d"}}, {ID: "TEAM000002", KeyID: "KEY0000002", Topics: []string{"e.f"}},
		},
		Projects: []string{"p1", "p2", "p3"},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	dir := t.TempDir()
	files, err := p.WriteFiles(dir)
	if err != nil {
		t.Fatal(err)
	}
	var printed bytes.Buffer
	if err := printProviders(&printed, p, files, false); err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(printed.String(), "\n\n")
	_, section, _ = strings.Cut(section, "\n\n")
	path := filepath.Join(dir, "nudge.yaml")
	yaml := fmt.Sprintf(serveYAML, "127.0.0.1/app", files.VAPIDKey, "127.0.0.1:0", "127.0.0.1:0") + section
	if err := os.WriteFile(path, []byte(yaml), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, _, err := config.Load(config.Source{Path: path})
	if err != nil {
		t.Fatalf("%v\n%s", err, yaml)
	}
	if push := cfg.Push; len(push.APNs) != 2 || len(push.FCM) != 3 || len(push.FCM[0].Apps) != 3 || push.FCM[2].Apps[0] != "p3" || !push.WebPush.On() {
		t.Errorf("%+v", push)
	}
}
