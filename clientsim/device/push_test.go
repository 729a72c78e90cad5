package device_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nudgesync/nudge/clientsim/device"
	"github.com/nudgesync/nudge/server/wire"
)

// pocketed is a device that does not run, and a server that answers its requests in turn.
func pocketed(t *testing.T, answers ...http.HandlerFunc) (d *device.Device, state *device.State, asked func() []string) {
	t.Helper()
	var requests []string // in turn: a device does one thing at a time
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		requests = append(requests, r.Method+" "+r.URL.String()+" "+string(body))
		if r.Header.Get("Authorization") != "Bearer secret" || r.Header.Get("Nudge-Device") != "phone" || len(answers) == 0 {
			w.WriteHeader(http.StatusTeapot)
			return
		}
		answers[0](w, r)
		answers = answers[1:]
	}))
	t.Cleanup(server.Close)
	state = device.NewState()
	d, err := device.New(device.Config{
		URL: server.URL, ID: "phone", State: state, HTTP: server.Client(),
		Token: func(context.Context) (string, error) { return "secret", nil },
		After: func(d time.Duration) <-chan time.Time {
			requests = append(requests, "waits "+d.String())
			fired := make(chan time.Time, 1)
			fired <- time.Time{}
			return fired
		},
		Random: func() float64 { return 0.5 },
	})
	if err != nil {
		t.Fatal(err)
	}
	return d, state, func() []string { return requests }
}

func pages(p *wire.Page) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { _ = json.NewEncoder(w).Encode(p) }
}

func says(status int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) }
}

// Every page's pull names the push that woke the app, for nobody may be looking; and what was saved is acknowledged:
// nothing else would say so before the next push (A6).
func TestWoken(t *testing.T) {
	d, _, asked := pocketed(t,
		pages(page("1", true, `upsert a t 1 {}`)), pages(page("2", false, `upsert a t 2 {}`)), says(http.StatusNoContent))
	if err := d.Woken(t.Context(), "p.1"); err != nil {
		t.Fatal(err)
	}
	want := []string{"GET /v1/changes?nudge=p.1 ", "GET /v1/changes?nudge=p.1&since=1 ", `POST /v1/ack {"cursor":"2"}`}
	if d := cmp.Diff(want, asked()); d != "" {
		t.Error(d)
	}
}

// The push's time is used: what fails is tried again, at the server's hint if there is one.
func TestWokenTriesAgain(t *testing.T) {
	d, state, asked := pocketed(t,
		says(http.StatusBadGateway), problem(wire.Overloaded, 3*time.Second),
		pages(page("1", false)), says(http.StatusServiceUnavailable), pages(page("2", false)), says(http.StatusNoContent))
	if err := d.Woken(t.Context(), "p.1"); err != nil {
		t.Fatal(err)
	}
	var waits []string
	for _, a := range asked() {
		if a[:5] == "waits" {
			waits = append(waits, a)
		}
	}
	if len(waits) != 3 || waits[1] != "waits 3s" || state.Cursor() != "2" {
		t.Errorf("waited %q, cursor %q", waits, state.Cursor())
	}
	if last := asked()[len(asked())-1]; last != `POST /v1/ack {"cursor":"2"}` {
		t.Errorf("the last request is %q", last)
	}
}

func TestWokenStops(t *testing.T) {
	d, _, asked := pocketed(t, problem(wire.TokenRevoked, 0))
	err := d.Woken(t.Context(), "")
	if stop, ok := errors.AsType[*device.StopError](err); !ok || stop.Code != wire.CloseRevoked {
		t.Errorf("error %v", err)
	}
	if n := len(asked()); n != 1 {
		t.Errorf("%d requests", n)
	}
	ctx, cancel := context.WithCancel(t.Context())
	d, _, asked = pocketed(t, func(w http.ResponseWriter, _ *http.Request) {
		cancel() // the platform ends the app
		w.WriteHeader(http.StatusBadGateway)
	})
	if err := d.Woken(ctx, ""); err == nil {
		t.Error("the app was ended, and says that it succeeded")
	}
	if n := slices.IndexFunc(asked(), func(a string) bool { return a[:5] == "waits" }); n >= 0 {
		t.Errorf("it waits: %q", asked())
	}
}

// A device that wrote itself has its pull wait for that, over HTTP too.
func TestWokenByItsPerson(t *testing.T) {
	d, _, asked := pocketed(t, pages(page("1", false)), says(http.StatusNoContent))
	d.Wrote()
	if err := d.Woken(t.Context(), ""); err != nil {
		t.Fatal(err)
	}
	if first := asked()[0]; first != "GET /v1/changes?wait=2s " {
		t.Errorf("asked %q", first)
	}
}

// A registration says how far the device is, so that whatever it has missed is pushed.
func TestRegister(t *testing.T) {
	d, _, asked := pocketed(t, pages(page("7", false)), says(http.StatusNoContent), says(http.StatusOK), problem(wire.DeviceMismatch, 0))
	if err := d.Woken(t.Context(), ""); err != nil {
		t.Fatal(err)
	}
	r := wire.Registration{Road: wire.RoadFCM, Target: &wire.Target{Kind: wire.KindToken, Value: "t0"}, App: "com.example.app"}
	if err := d.Register(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	want := `PUT /v1/devices/phone {"road":"fcm","target":{"kind":"token","value":"t0"},"app":"com.example.app","cursor":"7"}`
	if got := asked()[2]; got != want {
		t.Errorf("asked %s", got)
	}
	if _, stop := errors.AsType[*device.StopError](d.Register(t.Context(), r)); !stop {
		t.Error("another user's device id does not stop the device")
	}
}
