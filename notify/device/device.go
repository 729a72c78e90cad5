package device

import (
	"errors"
	"fmt"
	"time"

	"github.com/nudgesync/nudge/changefeed/change"
)

// The roads of a push. A device of RoadNone is known and never pushed to.
const (
	RoadAPNs    = "apns"
	RoadFCM     = "fcm"
	RoadWebPush = "webpush"
	RoadNone    = "none"
)

// Status says whether a device can be pushed to. The values are the protocol's.
type Status string

// The states of a registration. All but Active last until the device registers again.
const (
	Active      Status = "active"
	Disabled    Status = "disabled"    // its target is gone: told by the provider, taken by another device, or revoked
	Quarantined Status = "quarantined" // its target does not fit what we send; somebody has to look
)

// Reasons of a Disabled device that no provider gave.
const (
	ReasonMoved   = "moved"   // another device id registered the same target
	ReasonRevoked = "revoked" // the user or the device was revoked after it had registered
)

// Target is where a provider delivers: a token of APNs or FCM, or a subscription of Web Push, whose value
// is its endpoint. It is a secret.
type Target struct {
	Kind   string `json:"kind"` // token or webpush
	Value  string `json:"value"`
	P256dh string `json:"p256dh,omitempty"`
	Auth   string `json:"auth,omitempty"`
}

// String shows no more than tells two targets apart at a glance.
func (t Target) String() string {
	if len(t.Value) <= 12 {
		return t.Kind + ":…"
	}
	return t.Kind + ":…" + t.Value[len(t.Value)-4:]
}

// GoString is String, so that %#v tells no more either.
func (t Target) GoString() string { return t.String() }

// Registration is what a device says of itself.
type Registration struct {
	User, Device string
	Road         string
	Target       Target // of RoadNone: none
	App          string // bundle id or package
	Environment  string // production or sandbox
	AppVersion   string
	// Cursor is how far the device has come, zero if it does not say: then it is due at once.
	Cursor change.Position
	// Session is the device's live session on this node, "" if there is none.
	Session string
	// Take has a device of another user become this user's. Without it that is ErrForeign.
	Take bool
}

// Device is a registration as it stands. Its target is never told.
type Device struct {
	User, Device string
	Road         string
	App          string
	Environment  string
	AppVersion   string
	RegisteredAt time.Time // microseconds; the database's clock
	Status       Status
	Reason       string // why it is not active
}

var (
	// ErrUnknown: the user has no such device.
	ErrUnknown = errors.New("no such device")
	// ErrForeign: the device is another user's.
	ErrForeign = errors.New("the device is another user's")
	// ErrInvalid is wrapped, with what is wrong, by what Register returns for a registration that can't be one.
	ErrInvalid = errors.New("invalid registration")
)

const (
	maxTarget = 4096 // bytes of a target's value: endpoints of Web Push are the longest
	maxKey    = 256  // bytes of a Web Push key, in base64
	maxName   = 255  // bytes of an app, an environment or a version
)

// validate returns an ErrInvalid that names the field.
func (r *Registration) validate() error {
	invalid := func(what string) error { return fmt.Errorf("%w: %s", ErrInvalid, what) }
	switch {
	case !change.ValidUser(r.User):
		return invalid("user")
	case !change.ValidDevice(r.Device):
		return invalid("device")
	case !validText(r.App, maxName) || r.App == "" && r.Road != RoadNone:
		return invalid("app")
	case !validText(r.Environment, maxName):
		return invalid("environment")
	case !validText(r.AppVersion, maxName):
		return invalid("app_version")
	}
	kind := "token"
	switch r.Road {
	case RoadNone:
		return nil
	case RoadAPNs, RoadFCM:
	case RoadWebPush:
		kind = "webpush"
		if r.Target.P256dh == "" || r.Target.Auth == "" {
			return invalid("target: a Web Push subscription has p256dh and auth")
		}
	default:
		return invalid("road")
	}
	switch t := r.Target; {
	case t.Kind != kind:
		return invalid("target.kind")
	case t.Value == "" || !validText(t.Value, maxTarget):
		return invalid("target.value")
	case !validText(t.P256dh, maxKey) || !validText(t.Auth, maxKey):
		return invalid("target: p256dh or auth")
	}
	return nil
}
