package push

import (
	"context"
	"log/slog"
	"time"
)

// Roads, as devices register them.
const (
	APNs    = "apns"
	FCM     = "fcm"
	WebPush = "webpush"
)

// Environments of APNs. The other roads have Production alone.
const (
	Production = "production"
	Sandbox    = "sandbox"
)

// Urgencies: what the tables of the change are configured with. A due device has the highest since it became due.
const (
	Lazy = iota
	Soon
	Now
)

// Store is the durable state of due devices. It is used from several goroutines.
type Store interface {
	// Claim takes up to n devices that are due now, oldest deadline first, and holds them for
	// Config.Lease: nobody else gets them before that has passed. None is not an error.
	Claim(ctx context.Context, of Selection, n int) ([]Due, error)

	// Settle writes what became of claims, all in one statement. A claim that is not the device's newest
	// any more is skipped. An error means that nothing was written, or that it is unknown; the same results
	// may come again.
	Settle(ctx context.Context, results []Result) error
}

// Selection is the devices that a lane is for.
type Selection struct {
	Road        string
	Environment string   // "", with Others alone: any
	Apps        []string // devices of these apps
	Others      bool     // or, instead, of all apps but these
	Urgency     int      // and only of this urgency or a higher one
}

// Target is where a provider finds a device. It is a secret: printed, logged or marshalled it shows its kind alone.
type Target struct {
	Kind   string // "token" or "webpush"
	Value  string // a registration token, or the endpoint of a Web Push subscription
	P256dh string // Web Push: the browser's key, base64
	Auth   string // Web Push: the shared secret, base64
}

// String is the target's kind.
func (t Target) String() string { return "redacted " + t.Kind }

// GoString is the target's kind.
func (t Target) GoString() string { return t.String() }

// MarshalText is the target's kind.
func (t Target) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// LogValue is the target's kind.
func (t Target) LogValue() slog.Value { return slog.StringValue(t.String()) }

// Due is a claimed device.
type Due struct {
	Device, User           string
	Road, App, Environment string
	Target                 Target
	Hash                   []byte    // of the target: a device is disabled only if it still has this one
	RegisteredAt           time.Time // and was not registered anew
	Nudge                  string    // the id of this wake-up, which the device echoes
	Urgency                int
	Attempts               int           // claims in a row without success, this one included and those given back unsent not
	DueFor                 time.Duration // when it was claimed, by the store's clock
	Claim                  int64
}

// Alert is the text of a visible push: keys of the app's own localised strings, no data.
type Alert struct {
	TitleLocKey, BodyLocKey string
}

// Message is one push.
type Message struct {
	Nudge            string
	App, Environment string
	Target           Target
	Alert            *Alert // nil: silent
	Urgency          int
	TTL              time.Duration // how long the provider may keep it for a device that is offline
}

// Sender makes one attempt at a provider. It is called by several workers.
type Sender interface {
	// Send returns when the provider has answered, or ctx has ended. It repeats nothing that the provider
	// may have taken, but for one try on a new connection when the old one broke.
	Send(ctx context.Context, m Message) Answer
}

// Outcome is what a provider's answer means, in order of the decision table.
type Outcome int

// Outcomes. Whatever is not Disable or Quarantine leaves the device due.
const (
	Retry         Outcome = iota // nothing wrong with device or request: again, later
	Accepted                     // taken, which is not delivered
	Disable                      // the target is dead
	Quarantine                   // the target is not for this app: somebody must look
	Fault                        // we sent nonsense: somebody must look
	Misconfigured                // our credentials or settings are wrong: no push of this sender can work
	Throttled                    // too many to this target
	SlowDown                     // too many of this sender
	outcomes
)

func (o Outcome) String() string {
	return [...]string{"retry", "accepted", "disable", "quarantine", "fault", "misconfigured", "throttled", "slow_down"}[o]
}

// Answer is what came of an attempt.
type Answer struct {
	Outcome Outcome
	Reason  string // the provider's own word, or ours; one of a fixed set, for it is a metric's label
	// Doubt marks a Disable or Quarantine that wrong settings of ours would bring about as well.
	Doubt      bool
	RetryAfter time.Duration // what the provider asked for; 0: nothing
	Gone       time.Time     // APNs 410: when the token was last known to be dead
	ID         string        // the provider's name of the push
	Hint       string        // for operators: what to look at. Never holds what the provider said
}

// Verdict is what becomes of a claimed device.
type Verdict int

// Verdicts.
const (
	Later       Verdict = iota // it stays due, and may be claimed again after Wait
	Sent                       // it stays due until it acknowledges; the road's interval begins
	Disabled                   // its registration is disabled, if it is still the one that was claimed
	Quarantined                // likewise
)

// Result settles one claim.
type Result struct {
	Due     Due
	Verdict Verdict
	Wait    time.Duration // Later
	// Attempted is false if nothing was sent: the rest of the result is empty then, and nothing belongs in
	// the ledger.
	Attempted  bool
	Outcome    Outcome
	Reason     string
	ID         string
	Gone       time.Time
	SentAt     time.Time
	AnsweredAt time.Time
}
