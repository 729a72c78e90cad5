package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"sync"

	sdk "github.com/SherClockHolmes/webpush-go"

	"github.com/nudgesync/nudge/notify/push"
)

// request is what a sender sent, to be sent again as it is.
type request struct {
	path   string
	header http.Header
	body   []byte
}

// recorder stands for a provider. It accepts everything and keeps it.
type recorder struct {
	*httptest.Server

	mu   sync.Mutex
	kept []request
}

func newRecorder() *recorder {
	r := &recorder{}
	r.Server = httptest.NewUnstartedServer(r)
	r.EnableHTTP2 = true
	r.StartTLS()
	return r
}

func (r *recorder) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body, err := io.ReadAll(req.Body)
	if err != nil {
		return // the sender went
	}
	r.mu.Lock()
	r.kept = append(r.kept, request{path: req.URL.Path, header: req.Header, body: body})
	r.mu.Unlock()
	if strings.HasPrefix(req.URL.Path, "/v1/projects/") {
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"name":"projects/demo/messages/1"}`)
	}
}

// record has the road's sender send to each target, and returns its requests.
func (p *providers) record(ctx context.Context, road string, targets []target) ([]request, error) {
	r := newRecorder()
	defer r.Close()
	s, err := p.sender(ctx, road, workers, r)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	if road == push.WebPush { // where the target says where to send to
		moved := make([]target, len(targets))
		for i, t := range targets {
			t.Value = r.URL + strings.TrimPrefix(t.Value, p.WebPush)
			moved[i] = t
		}
		targets = moved
	}
	if err := warm(ctx, s, targets[0]); err != nil {
		return nil, err
	}
	if _, err := share(workers, len(targets), func(i int) error { return sendOne(ctx, s, targets[i]) }); err != nil {
		return nil, err
	}
	if road == push.WebPush {
		return r.kept, p.signed(ctx, targets[0], r.kept)
	}
	return r.kept, nil
}

// signed gives requests that were made for the recorder the signature for the provider: it names the origin.
func (p *providers) signed(ctx context.Context, t target, requests []request) error {
	private, public, err := p.vapid()
	if err != nil {
		return err
	}
	var authorization []string
	options := &sdk.Options{
		HTTPClient: taker(func(req *http.Request) { authorization = req.Header["Authorization"] }),
		Subscriber: strings.TrimPrefix(subject, "mailto:"), VAPIDPrivateKey: private, VAPIDPublicKey: public,
	}
	sub := &sdk.Subscription{Endpoint: p.WebPush + "/push/any", Keys: sdk.Keys{P256dh: t.P256dh, Auth: t.Auth}}
	if _, err := sdk.SendNotificationWithContext(ctx, nil, sub, options); !errors.Is(err, errTaken) { //nolint:bodyclose // there is none
		return fmt.Errorf("sign for Web Push: %w", err)
	}
	for _, r := range requests {
		r.header["Authorization"] = authorization
	}
	return nil
}

// taker looks at a request and sends nothing.
type taker func(*http.Request)

var errTaken = errors.New("it was only looked at")

func (t taker) Do(req *http.Request) (*http.Response, error) {
	t(req)
	return nil, errTaken
}

// bare is the floor: a client that sends what was recorded.
type bare struct {
	origin    *url.URL
	transport *http.Transport
	requests  []request
}

func (p *providers) bare(road string, requests []request) (*bare, error) {
	pem, err := os.ReadFile(p.Files.CA)
	if err != nil {
		return nil, fmt.Errorf("trust the providers: %w", err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	var only http.Protocols
	only.SetHTTP2(true)
	origin, err := url.Parse(map[string]string{push.APNs: p.APNs, push.FCM: p.FCM, push.WebPush: p.WebPush}[road])
	return &bare{
		origin: origin, requests: requests,
		transport: &http.Transport{Protocols: &only, TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}},
	}, err
}

func (b *bare) send(ctx context.Context, i int) error {
	r := b.requests[i%len(b.requests)]
	u := *b.origin
	u.Path = r.path
	req := (&http.Request{
		Method: http.MethodPost, URL: &u, Host: u.Host, Header: r.header,
		Body: io.NopCloser(bytes.NewReader(r.body)), ContentLength: int64(len(r.body)),
	}).WithContext(ctx)
	resp, err := b.transport.RoundTrip(req)
	if err != nil {
		return err
	}
	text, err := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if err == nil && resp.StatusCode/100 != 2 {
		err = fmt.Errorf("the provider answered %s: %.200s", resp.Status, text)
	}
	return err
}
