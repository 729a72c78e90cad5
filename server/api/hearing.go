package api

import (
	"strings"

	"github.com/nudgesync/nudge/changefeed/change"
	"github.com/nudgesync/nudge/notify/device"
	"github.com/nudgesync/nudge/server/pull"
	"github.com/nudgesync/nudge/server/wire"
)

// Hears is told what is heard of devices, so that nobody is pushed to who is in touch. It is called with every pull:
// it must not block.
type Hears interface {
	Heard(user, device string, e device.Event)
}

// hear passes on what was heard of a device, if anybody wants to know.
func (a *API) hear(key deviceKey, e device.Event) {
	if a.cfg.Hears != nil {
		a.cfg.Hears.Heard(key.user, key.device, e)
	}
}

// pulled is what an answered pull tells of the device: its cursor proves what it holds, and the page that it is
// handed proves nothing (A6).
func pulled(ans *pull.Answer, nudge, session string) device.Event {
	if !strings.HasPrefix(nudge, wire.PushNudge) { // nobody keeps a ledger of the others
		nudge = ""
	}
	return device.Event{Pulled: true, Acked: ans.Acked, Served: !ans.NothingNew, Nudge: nudge, Session: session}
}

// hear passes on that the device was heard over this session, and which cursor it has shown to hold, if one.
func (s *session) hear(acked change.Position) {
	s.api.hear(deviceKey{s.user, s.device}, device.Event{Acked: acked, Session: s.id})
}

// hearHello is hear of the cursor of a hello, which the device has saved.
func (s *session) hearHello(cursor string) {
	if s.api.cfg.Hears == nil {
		return
	}
	var acked change.Position
	if cursor != "" {
		if pos, err := s.api.cfg.Engine.Saved(s.user, cursor); err == nil { // compared already
			acked = pos
		}
	}
	s.hear(acked)
}
