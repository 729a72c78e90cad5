package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nudgesync/nudge/clientsim/provider"
	"github.com/nudgesync/nudge/server/wire"
)

// pocket is where the phones are: simulated providers, and what is told to them (their control API; see package
// provider). It listens for the wake-ups of the phones that it made.
type pocket struct {
	control string // URL
	client  *http.Client
	server  *http.Server
	hook    string // the URL that wakes an app

	mu     sync.Mutex
	phones map[string]*member // by the phone's id
}

// openPocket reaches the providers at control and starts to listen for wake-ups.
func openPocket(ctx context.Context, control string, client *http.Client) (*pocket, error) {
	p := &pocket{control: strings.TrimRight(control, "/"), client: client, phones: map[string]*member{}}
	if err := p.call(ctx, http.MethodGet, "/", nil, nil); err != nil {
		return nil, fmt.Errorf("no providers at %s: %w", control, err)
	}
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p.hook = "http://" + l.Addr().String() + "/"
	p.server = &http.Server{Handler: http.HandlerFunc(p.wake), ReadHeaderTimeout: answerTime}
	go func() { _ = p.server.Serve(l) }() // it ends with close
	return p, nil
}

const answerTime = 10 * time.Second

// close waits for the apps that are at work.
func (p *pocket) close() {
	ctx, cancel := context.WithTimeout(context.Background(), answerTime)
	defer cancel()
	if p.server.Shutdown(ctx) != nil {
		_ = p.server.Close()
	}
}

// wake is a phone that starts its app in the background. The request ends when the platform would end the app.
func (p *pocket) wake(w http.ResponseWriter, r *http.Request) {
	var woken struct{ Phone, Nudge string }
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, wire.MaxClientFrame)).Decode(&woken); err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	if m := p.member(woken.Phone); m != nil {
		m.pushed(r.Context(), woken.Nudge)
	}
}

// member is whose phone that is; nil if it is none of this run.
func (p *pocket) member(phone string) *member {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.phones[phone]
}

// platforms of the roads.
var platforms = map[string]provider.Platform{
	wire.RoadAPNs: provider.IOS, wire.RoadFCM: provider.Android, wire.RoadWebPush: provider.Browser,
}

// phone installs the app on a new phone for the member.
func (p *pocket) phone(ctx context.Context, m *member) error {
	var made struct {
		ID     string          `json:"id"`
		Target provider.Target `json:"target"`
	}
	// Registered first: a push may come as soon as somebody knows the token.
	p.mu.Lock()
	p.phones[m.id] = m
	p.mu.Unlock()
	err := p.call(ctx, http.MethodPost, "/phones", provider.PhoneConfig{
		ID: m.id, Platform: platforms[m.road], App: app, WakeURL: p.hook,
	}, &made)
	if err != nil {
		return fmt.Errorf("phone %s: %w", m.id, err)
	}
	m.aim(made.Target)
	return nil
}

// rotate has the platform replace the member's token.
func (p *pocket) rotate(ctx context.Context, m *member) error {
	var view struct {
		Target provider.Target `json:"target"`
	}
	if err := p.call(ctx, http.MethodPost, "/phones/"+url.PathEscape(m.id)+"/rotate", nil, &view); err != nil {
		return err
	}
	m.aim(view.Target)
	return nil
}

// offline takes the phone's network away, or gives it back.
func (p *pocket) offline(ctx context.Context, m *member, off bool) error {
	return p.call(ctx, http.MethodPatch, "/phones/"+url.PathEscape(m.id), map[string]bool{"offline": off}, nil)
}

// fail has the providers answer a share of the pushes with errors that pass: half of them an error of their own,
// half a connection that breaks.
func (p *pocket) fail(ctx context.Context, share float64) error {
	for _, name := range []provider.Name{provider.APNs, provider.FCM, provider.WebPush} {
		for _, f := range []provider.Fault{
			{Kind: provider.FaultAnswer, Status: http.StatusServiceUnavailable}, {Kind: provider.FaultReset},
		} {
			f.Provider, f.Rate = name, share/2
			if err := p.call(ctx, http.MethodPost, "/faults", f, nil); err != nil {
				return err
			}
		}
	}
	return nil
}

// heal ends all that fail began.
func (p *pocket) heal(ctx context.Context) error {
	return p.call(ctx, http.MethodDelete, "/faults", nil, nil)
}

// advance moves the phones' clock on, and returns what it shows then.
func (p *pocket) advance(ctx context.Context, d time.Duration) (time.Time, error) {
	var clock struct{ Now time.Time }
	err := p.call(ctx, http.MethodPost, "/clock", map[string]string{"advance": d.String()}, &clock)
	return clock.Now, err
}

// answers returns what the providers answered to pushes after entry n of their log, waiting a while for the first.
func (p *pocket) answers(ctx context.Context, n int64) ([]provider.Entry, error) {
	var entries []provider.Entry
	err := p.call(ctx, http.MethodGet, "/log?event="+provider.EventAnswered+"&wait=1s&since="+strconv.FormatInt(n, 10), nil, &entries)
	return entries, err
}

// failed returns how many requests each provider was made to fail, since it began.
func (p *pocket) failed(ctx context.Context) (map[provider.Name]int64, error) {
	var stats map[provider.Name]map[string]int64
	if err := p.call(ctx, http.MethodGet, "/stats", nil, &stats); err != nil {
		return nil, err
	}
	failed := map[provider.Name]int64{}
	for name, counts := range stats {
		failed[name] = counts[provider.EventFault]
	}
	return failed, nil
}

func (p *pocket) call(ctx context.Context, method, path string, body, into any) error {
	var in io.Reader = http.NoBody
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return err
		}
		in = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, p.control+path, in)
	if err != nil {
		return err
	}
	resp, err := p.client.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		var problem struct{ Error string }
		if json.Unmarshal(answer, &problem) != nil || problem.Error == "" {
			return fmt.Errorf("HTTP %d", resp.StatusCode)
		}
		return errors.New(problem.Error)
	}
	if into == nil {
		return nil
	}
	return json.Unmarshal(answer, into)
}
