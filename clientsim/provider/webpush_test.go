package provider_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	webpush "github.com/SherClockHolmes/webpush-go"

	"github.com/nudgesync/nudge/clientsim/provider"
)

// editing changes a request on its way.
type editing struct {
	client *http.Client
	edit   func(*http.Request)
}

func (e editing) Do(r *http.Request) (*http.Response, error) {
	e.edit(r)
	return e.client.Do(r)
}

func pushWeb(t *testing.T, to provider.Target, body string, o webpush.Options, edit func(*http.Request), c *http.Client) (int, http.Header) {
	t.Helper()
	o.HTTPClient = editing{client: c, edit: edit}
	if o.Subscriber == "" {
		o.Subscriber = "ops@example.com"
	}
	res, err := webpush.SendNotificationWithContext(t.Context(), []byte(body), &webpush.Subscription{
		Endpoint: to.Value, Keys: webpush.Keys{P256dh: to.P256dh, Auth: to.Auth},
	}, &o)
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	return res.StatusCode, res.Header
}

func TestWebPush(t *testing.T) {
	t.Parallel()
	p := start(t, provider.Config{})
	c := plain(t, p)
	heard := make(chan string, 1)
	ph := addPhone(t, p, provider.PhoneConfig{Platform: provider.Browser, Wake: hear(heard)})
	good := webpush.Options{VAPIDPublicKey: p.VAPID.Public, VAPIDPrivateKey: p.VAPID.Private, TTL: 60, Topic: "nudge", Urgency: webpush.UrgencyNormal}
	same := func(*http.Request) {}

	status, head := pushWeb(t, ph.Target(), `{"nudge":"p.1"}`, good, same, c)
	if status != 201 || head.Get("Location") == "" || head.Get("TTL") != "60" {
		t.Error(status, head)
	}
	if nudge := <-heard; nudge != "p.1" {
		t.Errorf("the browser heard %q", nudge)
	}

	private, public, err := webpush.GenerateVAPIDKeys()
	if err != nil {
		t.Fatal(err)
	}
	strange := good
	strange.VAPIDPublicKey, strange.VAPIDPrivateKey = public, private
	mixed := good
	mixed.VAPIDPrivateKey = private
	elsewhere := ph.Target()
	elsewhere.Value = strings.Replace(elsewhere.Value, "127.0.0.1", "localhost", 1)
	unknown := ph.Target()
	unknown.Value = p.WebPushURL + "/push/nobody"
	del := func(name string) func(*http.Request) { return func(r *http.Request) { r.Header.Del(name) } }
	tests := []struct {
		name    string
		want    int
		options webpush.Options
		edit    func(*http.Request)
		to      provider.Target
	}{
		{"no VAPID", 401, good, del("Authorization"), ph.Target()},
		{"another sender", 403, strange, same, ph.Target()},
		{"signed by another", 403, mixed, same, ph.Target()},
		{"other audience", 403, good, same, elsewhere},
		{"no TTL", 400, good, del("TTL"), ph.Target()},
		{"no encoding", 400, good, del("Content-Encoding"), ph.Target()},
		{"bad topic", 400, good, func(r *http.Request) { r.Header.Set("Topic", "not base64url") }, ph.Target()},
		{"bad urgency", 400, good, func(r *http.Request) { r.Header.Set("Urgency", "very") }, ph.Target()},
		{"too large", 413, good, payload(strings.Repeat("x", 4097)), ph.Target()},
		{"unknown", 404, good, same, unknown},
	}
	for _, tt := range tests {
		if status, _ := pushWeb(t, tt.to, `{}`, tt.options, tt.edit, c); status != tt.want {
			t.Errorf("%s: %d, want %d", tt.name, status, tt.want)
		}
	}

	for _, skew := range []time.Duration{13 * time.Hour, -13 * time.Hour} { // expired; more than 24 h ahead
		p.Skew(skew)
		if status, _ := pushWeb(t, ph.Target(), `{}`, good, same, c); status != 403 {
			t.Errorf("skew %v: %d, want 403", skew, status)
		}
	}
	p.Skew(0)

	// The service cannot see that; the browser can.
	other := addPhone(t, p, provider.PhoneConfig{Platform: provider.Browser})
	crossed := other.Target()
	crossed.Value = ph.Target().Value
	before := p.Log().Stats()[provider.WebPush][provider.EventWoken]
	if status, _ := pushWeb(t, crossed, `{"nudge":"p.2"}`, good, same, c); status != 201 {
		t.Error(status)
	}
	s := p.Log().Stats()[provider.WebPush]
	if s["dropped undecryptable: not for this subscription"] != 1 || s[provider.EventWoken] != before {
		t.Errorf("%v", s)
	}

	for sent := 0; ; sent++ {
		if status, head := pushWeb(t, other.Target(), `{}`, good, same, c); status != 201 {
			if status != 429 || head.Get("Retry-After") != "1" || sent < 120 {
				t.Error(sent, status, head)
			}
			break
		}
		if sent == 2000 {
			t.Fatal("no limit")
		}
	}
	ph.Uninstall()
	if status, _ := pushWeb(t, ph.Target(), `{}`, good, same, c); status != 410 {
		t.Errorf("unsubscribed: %d", status)
	}
	fault(t, p, provider.Fault{
		Provider: provider.WebPush, Kind: provider.FaultAnswer, Status: 503, After: provider.Duration(time.Minute), Token: ph.Target().Value[len(p.WebPushURL+"/push/"):],
	})
	if status, head := pushWeb(t, ph.Target(), `{}`, good, same, c); status != 503 || head.Get("Retry-After") != "60" {
		t.Error(status, head)
	}
}
