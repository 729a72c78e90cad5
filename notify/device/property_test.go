package device_test

import (
	"slices"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"pgregory.net/rapid"

	"github.com/nudgesync/nudge/changefeed/change"
	"github.com/nudgesync/nudge/notify/device"
)

// world is a rig, and what a naive reading of the rules makes of what happens to it.
type world struct {
	*rig
	killed  []*device.Store // whose markers are killed on the way
	markers []*device.Marker
	inboxes []*device.Inbox
	claimed []device.Due

	written []written
	phones  map[string]*phone
	acked   map[[2]string]change.Position // by user and device, the newest ever heard
}

type written struct {
	row
	at change.Position
}

type phone struct {
	user, token string
	at          time.Time       // of registration
	news        change.Position // what it is due for whatever is in the log
}

func (w *world) reset(t tb) {
	w.exec(t, `truncate nudge.devices, nudge.due, nudge.wakes`)
	w.markers = []*device.Marker{w.store.NewMarker(nil), w.store.NewMarker(nil)}
	w.inboxes = []*device.Inbox{w.store.NewInbox(), w.store.NewInbox()}
	w.claimed, w.written, w.phones, w.acked = nil, nil, map[string]*phone{}, map[[2]string]change.Position{}
	w.mark(t)
}

// news is the newest change that a device did not write, zero if there is none.
func (w *world) news(id string) change.Position {
	p := w.phones[id]
	at := p.news
	for _, x := range w.written {
		if (x.scope == change.User(p.user) || x.scope == change.All) && x.origin != id && at.Before(x.at) {
			at = x.at
		}
	}
	return at
}

func (w *world) hear(user, id string, at change.Position) {
	if k := [2]string{user, id}; w.acked[k].Before(at) {
		w.acked[k] = at
	}
}

var (
	users = []string{"1", "2", "3"}
	ids   = []string{"a", "b", "c", "d", "e"}
)

// place draws somewhere in the log, its end included.
func (w *world) place(t *rapid.T) change.Position {
	places := []change.Position{w.head()}
	for _, x := range w.written {
		if x.at.Epoch == w.epoch {
			places = append(places, x.at)
		}
	}
	return rapid.SampledFrom(places).Draw(t, "at")
}

func (w *world) commitSome(t *rapid.T) {
	n := rapid.IntRange(1, 4).Draw(t, "rows")
	rows := make([]row, n)
	for i := range rows {
		rows[i] = of(rapid.SampledFrom(users).Draw(t, "user"), rapid.SampledFrom(append([]string{""}, ids...)).Draw(t, "origin"))
		if rapid.IntRange(0, 15).Draw(t, "everybody") == 0 {
			rows[i] = everybody()
		}
	}
	for i, at := range w.commit(t, rows...) {
		w.written = append(w.written, written{rows[i], at})
	}
}

func (w *world) registerOne(t *rapid.T) {
	id, user := rapid.SampledFrom(ids).Draw(t, "device"), rapid.SampledFrom(users).Draw(t, "user")
	reg := w.phone(user, id)
	reg.Take = true
	reg.Target.Value = rapid.SampledFrom(ids).Draw(t, "token")
	reg.Cursor = none
	if rapid.Bool().Draw(t, "has a cursor") {
		reg.Cursor = w.place(t)
	}
	got := w.register(t, reg)
	for other, p := range w.phones {
		if other != id && p.token == reg.Target.Value {
			delete(w.phones, other)
		}
	}
	p := w.phones[id]
	if p != nil && p.at.Equal(got.RegisteredAt) {
		if p.user != user || p.token != reg.Target.Value {
			t.Fatalf("another registration of %s has the time of the one before", id)
		}
		return // a repetition: its cursor is not looked at
	}
	p = &phone{user: user, token: reg.Target.Value, at: got.RegisteredAt}
	w.phones[id] = p
	if reg.Cursor.IsZero() {
		if p.news = w.explain(t, user, id).Due; p.news.IsZero() {
			t.Fatalf("%s is not due without a cursor", id)
		}
		return
	}
	w.hear(user, id, reg.Cursor)
}

func (w *world) markSome(t *rapid.T) {
	switch how := rapid.IntRange(0, 5).Draw(t, "how"); how {
	case 0, 1:
		if _, err := w.killed[how].NewMarker(nil).Mark(t.Context()); err == nil && how == 1 {
			t.Fatal("a killed marker did not notice")
		}
	case 2:
		var g errgroup.Group
		for _, m := range w.markers {
			g.Go(func() error {
				_, err := m.Mark(t.Context())
				return err
			})
		}
		if err := g.Wait(); err != nil {
			t.Fatal(err)
		}
	default:
		if _, err := w.markers[how%2].Mark(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

func (w *world) acknowledge(t *rapid.T) {
	id, user := rapid.SampledFrom(ids).Draw(t, "device"), rapid.SampledFrom(users).Draw(t, "user")
	if p := w.phones[id]; p != nil && rapid.IntRange(0, 3).Draw(t, "stranger") > 0 {
		user = p.user
	}
	e := device.Event{Acked: w.place(t), Pulled: rapid.Bool().Draw(t, "pulled"), Served: rapid.Bool().Draw(t, "served")}
	if rapid.Bool().Draw(t, "socket") {
		e.Session, e.Ended = "s", rapid.Bool().Draw(t, "ended")
	}
	rapid.SampledFrom(w.inboxes).Draw(t, "inbox").Heard(user, id, e)
	w.hear(user, id, e.Acked)
}

func (w *world) flush(t *rapid.T) {
	i := rapid.IntRange(0, 1).Draw(t, "inbox")
	if rapid.IntRange(0, 4).Draw(t, "crash") == 0 {
		w.inboxes[i] = w.store.NewInbox()
		return
	}
	if err := w.inboxes[i].Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func (w *world) push(t *rapid.T) {
	got, err := w.store.Claim(t.Context(), device.Selection{Road: device.RoadAPNs, Others: true}, rapid.IntRange(1, 5).Draw(t, "most"))
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range got {
		if p := w.phones[d.Device]; p == nil || p.user != d.User || p.token != d.Target.Value {
			t.Fatalf("claimed %s of %s, %+v", d.Device, d.User, p)
		}
	}
	w.claimed = append(w.claimed, got...)
}

func (w *world) settleOne(t *rapid.T) {
	if len(w.claimed) == 0 {
		t.Skip("nothing is claimed")
	}
	i := rapid.IntRange(0, len(w.claimed)-1).Draw(t, "which")
	d := w.claimed[i]
	w.claimed = slices.Delete(w.claimed, i, i+1)
	v := rapid.SampledFrom([]device.Verdict{device.Accepted, device.Accepted, device.Later, device.Unsent, device.Disable, device.Quarantine}).Draw(t, "verdict")
	w.settle(t, d, v)
	if p := w.phones[d.Device]; (v == device.Disable || v == device.Quarantine) && p != nil && p.at.Equal(d.RegisteredAt) {
		delete(w.phones, d.Device)
	}
}

func (w *world) check(t *rapid.T) {
	w.mark(t)
	due := func(id string) change.Position {
		x, err := w.store.Explain(t.Context(), w.phones[id].user, id)
		if err != nil || !x[0].Listens {
			t.Fatalf("%s: %+v, %v", id, x, err)
		}
		return x[0].Due
	}
	for id, p := range w.phones {
		acked := w.acked[[2]string{p.user, id}]
		if acked.Before(w.news(id)) && due(id) != w.news(id) {
			t.Fatalf("%s has %s, there is %s, and it is due for %s", id, acked, w.news(id), due(id))
		}
		// Whatever was lost on the way, it says again what it has.
		w.inboxes[0].Heard(p.user, id, device.Event{Acked: acked})
	}
	if err := w.inboxes[0].Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	for id, p := range w.phones {
		acked := w.acked[[2]string{p.user, id}]
		if want := w.news(id); !acked.Before(want) && !due(id).IsZero() {
			t.Fatalf("%s has %s, there is %s, and it is due for %s", id, acked, want, due(id))
		}
	}
	var rows int
	if err := w.pool.QueryRow(t.Context(), `select count(*) from nudge.due`).Scan(&rows); err != nil || rows != len(w.phones) {
		t.Fatalf("%d devices listen, want %d; %v", rows, len(w.phones), err)
	}
}

// Whatever happens in whatever order, a device is due if and only if there is something that it did not write and
// has not acknowledged.
func TestI09DueIsWhatIsNotAcknowledged(t *testing.T) {
	w := &world{rig: newRig(t)}
	w.killed = []*device.Store{w.killedAt(t, beforeMark), w.killedAt(t, beforeCommit)}
	rapid.Check(t, func(t *rapid.T) {
		w.reset(t)
		t.Repeat(map[string]func(*rapid.T){
			"commit":      w.commitSome,
			"register":    w.registerOne,
			"mark":        w.markSome,
			"acknowledge": w.acknowledge,
			"flush":       w.flush,
			"push":        w.push,
			"settle":      w.settleOne,
			"remove": func(t *rapid.T) {
				id := rapid.SampledFrom(ids).Draw(t, "device")
				if p := w.phones[id]; p != nil {
					if err := w.store.Remove(t.Context(), p.user, id); err != nil {
						t.Fatal(err)
					}
					delete(w.phones, id)
				}
			},
			"epoch": func(t *rapid.T) {
				if rapid.IntRange(0, 3).Draw(t, "really") > 0 {
					t.Skip("epochs are long")
				}
				w.begin(t, w.lsn+100)
				w.mark(t)
				for _, p := range w.phones {
					p.news = w.head()
				}
			},
			"time": func(t *rapid.T) {
				w.pass(t, rapid.SampledFrom([]time.Duration{time.Second, time.Minute, time.Hour}).Draw(t, "time"))
			},
			"check": w.check,
		})
		w.check(t)
	})
}
