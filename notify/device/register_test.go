package device_test

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nudgesync/nudge/notify/device"
)

func TestRegistration(t *testing.T) {
	r := newRig(t)
	r.mark(t)
	first := r.register(t, r.phone("7", "a"))
	if first.Status != device.Active || first.User != "7" || first.Road != device.RoadAPNs || first.AppVersion != "1.0" {
		t.Fatalf("%+v", first)
	}
	got, err := r.store.Get(t.Context(), "7", "a")
	if err != nil || got != first {
		t.Fatalf("%+v, %v", got, err)
	}
	r.commit(t, of("7", ""))
	r.mark(t)
	// A repetition changes nothing but the version.
	phone := r.phone("7", "a")
	phone.AppVersion = "1.1"
	again := r.register(t, phone)
	if !again.RegisteredAt.Equal(first.RegisteredAt) || again.AppVersion != "1.1" {
		t.Errorf("%+v", again)
	}
	if x := r.explain(t, "7", "a"); x.Due.IsZero() {
		t.Error("a repetition settled what was due")
	}
	for _, c := range []struct {
		name   string
		change func(*device.Registration)
	}{
		{"target", func(g *device.Registration) { g.Target.Value = "other" }},
		{"app", func(g *device.Registration) { g.App = "other" }},
		{"environment", func(g *device.Registration) { g.Environment = "sandbox" }},
		{"road", func(g *device.Registration) { g.Road = device.RoadFCM }},
		{"none", func(g *device.Registration) { g.Road, g.Target = device.RoadNone, device.Target{} }},
	} {
		c.change(&phone)
		next := r.register(t, phone)
		if !next.RegisteredAt.After(again.RegisteredAt) {
			t.Errorf("%s: registered at %s, before that %s", c.name, next.RegisteredAt, again.RegisteredAt)
		}
		again = next
	}
	if x := r.explain(t, "7", "a"); x.Listens {
		t.Error("a device without a road listens")
	}
	for _, user := range []string{"8", "7"} {
		want := map[string]error{"8": device.ErrUnknown, "7": nil}[user]
		if err := r.store.Remove(t.Context(), user, "a"); !errors.Is(err, want) {
			t.Errorf("removed by %s: %v", user, err)
		}
	}
	for _, err := range []error{
		func() error { _, err := r.store.Get(t.Context(), "7", "a"); return err }(),
		func() error { _, err := r.store.Explain(t.Context(), "7", "a"); return err }(),
	} {
		if !errors.Is(err, device.ErrUnknown) {
			t.Error(err)
		}
	}
}

// A device that moves to another user hears of the old one no more.
func TestDeviceChangesHands(t *testing.T) {
	r := newRig(t)
	r.mark(t)
	first := r.register(t, r.phone("7", "a"))
	r.commit(t, of("7", ""))
	r.mark(t)
	phone := r.phone("8", "a")
	if _, err := r.store.Register(t.Context(), phone); !errors.Is(err, device.ErrForeign) {
		t.Fatal(err)
	}
	if x := r.explain(t, "7", "a"); x.Due.IsZero() {
		t.Error("a refused registration settled what was due")
	}
	phone.Take = true
	if got := r.register(t, phone); got.User != "8" || !got.RegisteredAt.After(first.RegisteredAt) {
		t.Fatalf("%+v", got)
	}
	if _, err := r.store.Get(t.Context(), "7", "a"); !errors.Is(err, device.ErrUnknown) {
		t.Error(err)
	}
	r.commit(t, of("7", ""))
	r.mark(t)
	r.heard(t, "7", "a", device.Event{Acked: r.head(), Session: "s"})
	if x := r.wantDue(t, "8", "a", none); x.Session != "" {
		t.Error("the old user was heard")
	}
	at := r.commit(t, of("8", ""))[0]
	r.mark(t)
	r.heard(t, "7", "a", device.Event{Acked: r.head()})
	r.wantDue(t, "8", "a", at)
	if d := r.claim(t, "a")["a"]; d.User != "8" {
		t.Errorf("%+v", d)
	}
}

// A target belongs to the device that registered it last, whichever key hashed it.
func TestTargetIsTaken(t *testing.T) {
	r := newRig(t)
	r.mark(t)
	r.register(t, r.phone("7", "a"))
	r.commit(t, of("7", ""))
	r.mark(t)
	take := func(s *device.Store, user, id string) {
		t.Helper()
		phone := r.phone(user, id)
		phone.Target.Value = "token of a"
		if _, err := s.Register(t.Context(), phone); err != nil {
			t.Fatal(err)
		}
	}
	gone := func(user, id string) {
		t.Helper()
		if x := r.explain(t, user, id); x.Status != device.Disabled || x.Reason != device.ReasonMoved || x.Road != device.RoadNone || x.Listens {
			t.Errorf("%+v", x)
		}
	}
	take(r.store, "8", "b")
	gone("7", "a")
	rotated := r.cfg
	var err error
	if rotated.Keys, err = device.NewKeys(bytes.Repeat([]byte{1}, 32), make([]byte, 32)); err != nil {
		t.Fatal(err)
	}
	s := device.NewStore(rotated)
	take(s, "9", "c")
	gone("8", "b")
	// A repetition is one under either key.
	was := r.explain(t, "9", "c").RegisteredAt
	take(s, "9", "c")
	if at := r.explain(t, "9", "c").RegisteredAt; !at.Equal(was) {
		t.Errorf("registered at %s, before that %s", at, was)
	}
	r.commit(t, of("9", ""))
	r.mark(t)
	r.claim(t) // the old key alone does not open it
	if x := r.explain(t, "9", "c"); x.Wakes[0].Reason != "target_unreadable" || x.Due.IsZero() {
		t.Errorf("%+v", x)
	}
	r.pass(t, time.Hour)
	got, err := s.Claim(t.Context(), device.Selection{Road: device.RoadAPNs, Others: true}, 10)
	if err != nil || len(got) != 1 || got[0].Target.Value != "token of a" {
		t.Errorf("%+v, %v", got, err)
	}
}

// Two devices that register one target at once do not stand in each other's way.
func TestTargetIsTakenByManyAtOnce(t *testing.T) {
	r := newRig(t)
	r.mark(t)
	errs := make(chan error)
	for i := range 8 {
		go func() {
			phone := r.phone("7", id(i))
			phone.Target.Value = "one"
			_, err := r.store.Register(t.Context(), phone)
			errs <- err
		}()
	}
	for range 8 {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	active := 0
	all, err := r.store.Explain(t.Context(), "7", "")
	if err != nil || len(all) != 8 {
		t.Fatal(len(all), err)
	}
	for _, x := range all {
		if x.Listens {
			active++
		}
	}
	if active != 1 {
		t.Errorf("%d devices have the target", active)
	}
}

// Who is revoked after having registered is pushed to no more, until it registers again.
func TestRevokedIsNotPushedTo(t *testing.T) {
	for name, revoke := range map[string]string{
		"user":   `insert into nudge.revocations (user_id, device, jti, at) values ('7', '', '', now())`,
		"device": `insert into nudge.revocations (user_id, device, jti, at) values ('7', 'a', '', now())`,
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.mark(t)
			r.register(t, r.phone("7", "a"))
			r.register(t, r.phone("8", "b"))
			r.commit(t, of("7", ""), of("8", ""))
			r.mark(t)
			r.exec(t, revoke)
			r.claim(t, "b")
			if x := r.explain(t, "7", "a"); x.Status != device.Disabled || x.Reason != device.ReasonRevoked || x.Listens {
				t.Errorf("%+v", x)
			}
			r.register(t, r.phone("7", "a"))
			r.commit(t, of("7", ""))
			r.mark(t)
			r.claim(t, "a")
		})
	}
}

func TestTargetsAreSecret(t *testing.T) {
	r := newRig(t)
	phone := r.phone("7", "a")
	phone.Target.Value = "0123456789abcdef0123456789abcdef"
	r.register(t, phone)
	var sealed []byte
	if err := r.pool.QueryRow(t.Context(), `select target from nudge.devices`).Scan(&sealed); err != nil {
		t.Fatal(err)
	}
	shown := []string{string(sealed), fmt.Sprint(phone.Target), fmt.Sprintf("%+v", phone), fmt.Sprintf("%#v", phone)}
	for _, s := range shown {
		if strings.Contains(s, "456789") || strings.Contains(s, "9abcdef") {
			t.Errorf("shown: %q", s)
		}
	}
	// A target that is put into another device's row does not open there.
	r.mark(t)
	r.register(t, r.phone("8", "b"))
	r.exec(t, `update nudge.devices set target = $1 where device = 'b'`, sealed)
	r.commit(t, of("8", ""))
	r.mark(t)
	r.claim(t)
}

func TestKeys(t *testing.T) {
	for _, keys := range [][][]byte{nil, {make([]byte, 31)}, {make([]byte, 32), nil}} {
		if _, err := device.NewKeys(keys...); err == nil {
			t.Errorf("%d keys are taken", len(keys))
		}
	}
}

func TestRegistrationIsRefused(t *testing.T) {
	r := newRig(t)
	for name, spoil := range map[string]func(*device.Registration){
		"user":        func(g *device.Registration) { g.User = "" },
		"device":      func(g *device.Registration) { g.Device = "a b" },
		"road":        func(g *device.Registration) { g.Road = "pigeon" },
		"app":         func(g *device.Registration) { g.App = "" },
		"environment": func(g *device.Registration) { g.Environment = "a\x00" },
		"version":     func(g *device.Registration) { g.AppVersion = "\xff" },
		"kind":        func(g *device.Registration) { g.Target.Kind = "webpush" },
		"empty":       func(g *device.Registration) { g.Target.Value = "" },
		"huge":        func(g *device.Registration) { g.Target.Value = strings.Repeat("x", 5000) },
		"keys":        func(g *device.Registration) { g.Road, g.Target.Kind = device.RoadWebPush, "webpush" },
		"long key": func(g *device.Registration) {
			g.Road, g.Target = device.RoadWebPush, device.Target{Kind: "webpush", Value: "https://p", P256dh: strings.Repeat("x", 300), Auth: "x"}
		},
	} {
		phone := r.phone("7", "a")
		spoil(&phone)
		if _, err := r.store.Register(t.Context(), phone); !errors.Is(err, device.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A user's devices are a hundred at most: the ones that no push reaches make room first, then the oldest.
func TestDevicesOfAUserAreBounded(t *testing.T) {
	r := newRig(t)
	r.mark(t)
	r.register(t, r.phone("8", "other"))
	for n := range 100 {
		reg := r.phone("7", id(n))
		if n == 50 {
			reg.Road, reg.Target = device.RoadNone, device.Target{}
		}
		r.register(t, reg)
	}
	gone := func(want ...int) {
		t.Helper()
		for n := range 103 {
			_, err := r.store.Get(t.Context(), "7", id(n))
			if is := errors.Is(err, device.ErrUnknown); is != slices.Contains(want, n) {
				t.Errorf("%s is gone: %v, %v", id(n), is, err)
			}
		}
	}
	r.register(t, r.phone("7", id(3))) // a repetition takes no place
	gone(100, 101, 102)
	r.register(t, r.phone("7", id(100)))
	gone(50, 101, 102)
	r.register(t, r.phone("7", id(101)))
	r.register(t, r.phone("7", id(102)))
	gone(0, 1, 50)
	if _, err := r.store.Get(t.Context(), "8", "other"); err != nil {
		t.Error(err)
	}
	var due int
	if err := r.pool.QueryRow(t.Context(), `select count(*) from nudge.due where user_id = '7'`).Scan(&due); err != nil || due != 100 {
		t.Errorf("%d are listened for, %v", due, err)
	}
}
