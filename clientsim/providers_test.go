package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
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
		Files senderFiles
	}
	if err := json.Unmarshal(line, &at); err != nil {
		t.Fatal(err)
	}
	if len(at.Teams) != 1 || len(at.Teams[0].Topics) != 2 || len(at.Files.Accounts) != 2 {
		t.Errorf("%s", line)
	}
	for _, path := range []string{at.Files.CA, at.Files.APNsKeys["K1"], at.Files.Accounts["p1"], at.Files.Accounts["p2"], at.Files.VAPID} {
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
