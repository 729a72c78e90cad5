package wire

import "time"

// Roads of a push, and none of them.
const (
	RoadAPNs    = "apns"
	RoadFCM     = "fcm"
	RoadWebPush = "webpush"
	RoadNone    = "none"
)

// Kinds of a Target.
const (
	KindToken   = "token"
	KindWebPush = "webpush"
)

// Environments of APNs. Whatever goes by another road is of production.
const (
	Production = "production"
	Sandbox    = "sandbox"
)

// Target is where a push reaches a device. It is never returned.
type Target struct {
	Kind   string `json:"kind"`
	Value  string `json:"value"`            // the token, in hexadecimal on apns; the endpoint of a subscription
	P256dh string `json:"p256dh,omitempty"` // webpush alone, base64url; likewise Auth
	Auth   string `json:"auth,omitempty"`
}

// Registration is the body of PUT /v1/devices/{id}.
type Registration struct {
	Road        string  `json:"road"`
	Target      *Target `json:"target,omitempty"` // absent on road none
	App         string  `json:"app"`              // bundle id or package; of a web page, any name
	Environment string  `json:"environment,omitempty"`
	AppVersion  string  `json:"app_version,omitempty"`
	// Cursor is the one that the device holds: if it is behind, it is told. Without one it is told in any case.
	Cursor string `json:"cursor,omitempty"`
}

// Device is a registration as it stands.
type Device struct {
	Device       string    `json:"device"`
	Road         string    `json:"road"`
	App          string    `json:"app"`
	Environment  string    `json:"environment"`
	AppVersion   string    `json:"app_version"`
	RegisteredAt time.Time `json:"registered_at"` // it moves when anything but app_version changes
	Status       string    `json:"status"`        // active, disabled or quarantined; to register again makes it active
	Reason       *string   `json:"reason"`        // why it is not active
}
