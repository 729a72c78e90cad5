package config

import (
	"encoding/base64"
	"slices"
	"strings"
	"time"
)

// Push is how devices without a socket are told.
type Push struct {
	Grace  time.Duration `yaml:"grace"` // to acknowledge, before a push goes out
	Budget Budget        `yaml:"budget"`
	// TokenKey seals the devices' targets in the database: 32 bytes in base64. Further lines are older keys, which
	// only open.
	TokenKey     Secret           `yaml:"token_key"`
	TokenKeyFile string           `yaml:"token_key_file"`
	APNs         []APNs           `yaml:"apns"`
	FCM          []FCM            `yaml:"fcm"`
	WebPush      WebPush          `yaml:"webpush"`
	Alerts       map[string]Alert `yaml:"alerts"` // by app
}

// Budget is the least time between two pushes to a device by one road, unless the device asks for something by itself
// in between. What the platforms let through is the default: pushes beyond it are held back by the phones, or cost
// the app its standing with them.
type Budget struct {
	APNs    time.Duration `yaml:"apns"`
	FCM     time.Duration `yaml:"fcm"`
	WebPush time.Duration `yaml:"webpush"`
}

// APNs is a team's signing key and the apps that it pushes to, in both environments.
type APNs struct {
	Team     string   `yaml:"team"`   // the ten characters of Apple's team id
	KeyID    string   `yaml:"key_id"` // of the key, likewise
	Key      Secret   `yaml:"key"`    // the .p8 file's text
	KeyFile  string   `yaml:"key_file"`
	Topics   []string `yaml:"topics"`   // bundle ids
	Workers  int      `yaml:"workers"`  // pushes under way at once; 0: the default
	Endpoint string   `yaml:"endpoint"` // instead of Apple's, for tests
	CAFile   string   `yaml:"ca_file"`  // whom to trust there instead of the system's
}

// FCM is a Firebase project and the apps in it.
type FCM struct {
	Project         string   `yaml:"project"`
	Credentials     Secret   `yaml:"credentials"` // the service account's JSON
	CredentialsFile string   `yaml:"credentials_file"`
	Apps            []string `yaml:"apps"` // package names; of iOS apps that go through FCM, bundle ids
	Workers         int      `yaml:"workers"`
	Rate            int      `yaml:"rate"`     // pushes a second at most; 0: the default
	Endpoint        string   `yaml:"endpoint"` // instead of Google's, for tests
	CAFile          string   `yaml:"ca_file"`
	// WithoutAuthentication needs no credentials: for an endpoint on this machine alone.
	WithoutAuthentication bool `yaml:"without_authentication"`
}

// WebPush is how we prove to be the same sender to every browser's push service (VAPID, RFC 8292).
type WebPush struct {
	Subject      string   `yaml:"subject"`   // mailto: or https:, where a push service reaches the operator
	VAPIDKey     Secret   `yaml:"vapid_key"` // the private key, base64url
	VAPIDKeyFile string   `yaml:"vapid_key_file"`
	Workers      int      `yaml:"workers"`
	AllowHosts   []string `yaml:"allow_hosts"` // that may be private addresses, for a push service of one's own
	CAFile       string   `yaml:"ca_file"`
}

// Alert is the text of a push that is shown, as keys of the app's own localised texts.
type Alert struct {
	TitleLocKey string `yaml:"title_loc_key"`
	BodyLocKey  string `yaml:"body_loc_key"`
}

// Urgencies of a table's changes.
const (
	UrgencyNow  = "now"  // past the budget, visibly, if the app has an alert
	UrgencySoon = "soon" // as soon as the budget lets it
	UrgencyLazy = "lazy" // an hour later than it could
)

// Names of roads, as devices register them.
const (
	RoadAPNs    = "apns"
	RoadFCM     = "fcm"
	RoadWebPush = "webpush"
)

// On says whether there is anything to push with.
func (p *Push) On() bool { return len(p.APNs) > 0 || len(p.FCM) > 0 || p.WebPush.On() }

// On says whether Web Push is configured.
func (w *WebPush) On() bool { return w.Subject != "" || w.VAPIDKey != "" }

// Reaches says whether a device of an app can be pushed to over a road. Subscriptions of Web Push belong to a browser
// and to us, so any app may have them.
func (p *Push) Reaches(road, app string) bool {
	switch road {
	case RoadAPNs:
		return slices.ContainsFunc(p.APNs, func(a APNs) bool { return slices.Contains(a.Topics, app) })
	case RoadFCM:
		return slices.ContainsFunc(p.FCM, func(f FCM) bool { return slices.Contains(f.Apps, app) })
	case RoadWebPush:
		return p.WebPush.On()
	}
	return false
}

// TokenKeys are the keys for targets, the one that seals first; nil if one of them is none.
func (p *Push) TokenKeys() [][]byte {
	var keys [][]byte
	for line := range strings.Lines(string(p.TokenKey)) {
		line = strings.TrimSpace(line)
		if line == "" {
			continue
		}
		key, err := base64.StdEncoding.DecodeString(line)
		if err != nil || len(key) != tokenKeySize {
			return nil
		}
		keys = append(keys, key)
	}
	return keys
}
