package api

import (
	"crypto/ecdh"
	"encoding/base64"
	"encoding/hex"
	"net/url"
	"strings"

	"github.com/nudgesync/nudge/notify/device"
	"github.com/nudgesync/nudge/server/wire"
)

// Sizes of targets, in bytes.
const (
	minAPNsToken  = 16  // Apple names no length: today they have 32
	maxAPNsToken  = 100 // what the sender takes for one
	maxFCMToken   = 4096
	maxEndpoint   = 2048
	webPushSecret = 16 // RFC 8291, 3.2
	maxAppName    = 255
	maxVersion    = 64
)

// readTarget holds a registration's target against what its road delivers to. What it says of a target never repeats
// it.
func readTarget(r *wire.Registration) (device.Target, error) {
	var t wire.Target
	if r.Target != nil {
		t = *r.Target
	}
	switch {
	case len(r.App) > maxAppName || !printable(r.App) || r.App == "" && r.Road != wire.RoadNone:
		return device.Target{}, invalid("app is not a bundle id or a package's name", "")
	case len(r.AppVersion) > maxVersion || !printable(r.AppVersion):
		return device.Target{}, invalid("app_version is too long, or not of printable ASCII", "")
	}
	kind := wire.KindToken
	switch r.Road {
	case wire.RoadNone:
		if t != (wire.Target{}) {
			return device.Target{}, invalid("road none has no target", "Leave the target out.")
		}
		return device.Target{}, nil
	case wire.RoadAPNs, wire.RoadFCM:
	case wire.RoadWebPush:
		kind = wire.KindWebPush
	default:
		return device.Target{}, invalid("road is not known", "It is apns, fcm, webpush or none.")
	}
	if t.Kind != kind {
		return device.Target{}, invalid("target.kind does not fit the road", "It is "+kind+" here.")
	}
	if kind == wire.KindToken && (t.P256dh != "" || t.Auth != "") {
		return device.Target{}, invalid("target has keys, which belong to webpush", "Leave p256dh and auth out.")
	}
	out := device.Target{Kind: kind, Value: t.Value}
	switch r.Road {
	case wire.RoadAPNs:
		out.Value = strings.ToLower(t.Value) // one token is one target, however it is spelt
		if b, err := hex.DecodeString(out.Value); err != nil || len(b) < minAPNsToken || len(b) > maxAPNsToken {
			return device.Target{}, invalid("target.value is not a device token of APNs", "Send the token's bytes in hexadecimal.")
		}
	case wire.RoadFCM:
		if t.Value == "" || len(t.Value) > maxFCMToken || !printable(t.Value) || strings.Contains(t.Value, " ") {
			return device.Target{}, invalid("target.value is not a registration token of FCM", "Send it as the SDK gave it.")
		}
	case wire.RoadWebPush:
		var err error
		if out, err = readSubscription(t); err != nil {
			return device.Target{}, err
		}
	}
	return out, nil
}

// readSubscription is a browser's PushSubscription (the W3C's Push API, toJSON).
func readSubscription(t wire.Target) (device.Target, error) {
	const hint = "Send endpoint and keys of the browser's PushSubscription.toJSON()."
	u, err := url.Parse(t.Value)
	if err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || len(t.Value) > maxEndpoint || !printable(t.Value) {
		return device.Target{}, invalid("target.value is not an https address", hint)
	}
	point, err := decodeKey(t.P256dh)
	if err == nil {
		_, err = ecdh.P256().NewPublicKey(point)
	}
	if err != nil {
		return device.Target{}, invalid("target.p256dh is not a public key on P-256", hint)
	}
	secret, err := decodeKey(t.Auth)
	if err != nil || len(secret) != webPushSecret {
		return device.Target{}, invalid("target.auth is not 16 bytes in base64url", hint)
	}
	return device.Target{
		Kind: t.Kind, Value: t.Value,
		P256dh: base64.RawURLEncoding.EncodeToString(point), Auth: base64.RawURLEncoding.EncodeToString(secret),
	}, nil
}

// decodeKey reads base64, of either alphabet: libraries differ.
func decodeKey(s string) ([]byte, error) {
	s = strings.NewReplacer("+", "-", "/", "_").Replace(strings.TrimRight(s, "="))
	return base64.RawURLEncoding.DecodeString(s)
}

// readEnvironment is which of APNs's worlds the token is of. The other roads have but one.
func readEnvironment(r *wire.Registration) (string, error) {
	switch e := r.Environment; {
	case e == wire.Production, e == wire.Sandbox && r.Road == wire.RoadAPNs:
		return e, nil
	case e == "" && r.Road != wire.RoadAPNs:
		return wire.Production, nil
	}
	return "", invalid("environment does not fit the road", "It is production or, on apns, sandbox; apns needs it.")
}

// printable reports whether s is of printable ASCII alone.
func printable(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r > '~' })
}
