package device

import (
	"context"
	"errors"
	"time"

	"github.com/nudgesync/nudge/changefeed/change"
)

var errNotYet = errors.New("not yet")

// Register puts a device, and has it due if the log has something for it that its cursor lacks. A target that
// another device id had is taken from it, which is then Disabled, "moved". Another user, target, road, app or
// environment, or not being Active, renews RegisteredAt. ErrInvalid, ErrForeign.
func (s *Store) Register(ctx context.Context, r Registration) (Device, error) {
	return Device{}, errNotYet
}

// Get returns the user's device; ErrUnknown.
func (s *Store) Get(ctx context.Context, user, device string) (Device, error) {
	return Device{}, errNotYet
}

// Remove forgets the user's device; ErrUnknown.
func (s *Store) Remove(ctx context.Context, user, device string) error { return errNotYet }

// Due is a device that a worker has claimed: nobody else gets it before Lease has passed.
type Due struct {
	User, Device string
	Road         string
	App          string
	Environment  string
	Target       Target
	RegisteredAt time.Time
	Hash         []byte // of the target; for Settle
	Nudge        string // the push's id, opaque: "p.…"
	Head         change.Position
	Urgency      Urgency
	Attempts     int // how many in a row, this one included, since a push was last accepted
	DueSince     time.Time
}

// Lease is how long a claimed device is left to the worker that has it.
const Lease = time.Minute

// Claim takes up to n devices of the road whose time has come, the longest overdue first.
func (s *Store) Claim(ctx context.Context, road string, n int) ([]Due, error) {
	return nil, errNotYet
}

// Verdict is what a push's answer means for the device.
type Verdict string

// The verdicts.
const (
	Accepted   Verdict = "accepted"   // the provider has it: wait for the pull, repeat if none comes
	Later      Verdict = "later"      // the device stays due, After from now
	Disable    Verdict = "disable"    // the target is gone
	Quarantine Verdict = "quarantine" // the target does not fit
)

// Result is what became of one claimed device.
type Result struct {
	Device       string
	Nudge        string    // Due's: a result of a claim that is over changes nothing
	Hash         []byte    // Due's: Disable and Quarantine hit the registration that was pushed to and no later one
	RegisteredAt time.Time // Due's, likewise
	Verdict      Verdict
	Reason       string        // as the provider put it
	ID           string        // the provider's own id of the push, if it has one
	After        time.Duration // of Later; a Disable that does not apply is tried again after at least a minute
	// Gone, if not zero, is since when the provider knows the target to be gone (APNs 410): a device that
	// registered after that is not disabled.
	Gone time.Time
}

// Settle writes what became of claimed devices, in one statement.
func (s *Store) Settle(ctx context.Context, results []Result) error { return errNotYet }

// Marker has devices become due by what the log holds. Any number of nodes may run one: a pass excludes others.
type Marker struct{ store *Store }

// Pass is what one pass of the Marker did.
type Pass struct {
	Busy     bool            // another node is at it: nothing was done
	Position change.Position // every change below it has been marked
	Changes  int             // how many were read
	Marked   int             // devices whose row was written
	More     bool            // there is more to mark already
}

// NewMarker returns the store's marker. observe, if not nil, is told of every pass.
func (s *Store) NewMarker(observe func(Pass, time.Duration)) *Marker { return &Marker{store: s} }

// Mark makes one pass.
func (m *Marker) Mark(ctx context.Context) (Pass, error) { return Pass{}, errNotYet }

// Wake says that the log has grown. It does not block.
func (m *Marker) Wake() {}

// Run marks when woken, at most four times a second, and once a second anyway, and trims the ledger. It is
// called once, and returns nil when ctx ends.
func (m *Marker) Run(ctx context.Context) error { return errNotYet }

// Event is one thing heard of a device.
type Event struct {
	// Acked is a cursor that the device holds, zero if it named none: the position of an ack, or a pull's since.
	// A cursor in mid-snapshot acknowledges nothing, and must not be given (A6).
	Acked change.Position
	// Pulled: the device asks for changes.
	Pulled bool
	// Served: it was sent a page that is more than "nothing new". That pauses escalation and proves nothing.
	Served bool
	// Nudge is the id that it echoed, if it did.
	Nudge string
	// Session is the id, unique among all nodes, of the session that the device was heard over, or that has Ended.
	Session string
	Ended   bool
}

// Inbox gathers what is heard of devices, and writes it once a second.
type Inbox struct{ store *Store }

// NewInbox returns an inbox of the store, one a node.
func (s *Store) NewInbox() *Inbox { return &Inbox{store: s} }

// Heard notes an event. It does not block, and keeps one entry a device.
func (b *Inbox) Heard(user, device string, e Event) {}

// Flush writes what was heard so far, in one statement.
func (b *Inbox) Flush(ctx context.Context) error { return errNotYet }

// Run flushes once a second, and once more after ctx has ended. It is called once; its error is always nil.
func (b *Inbox) Run(ctx context.Context) error { return errNotYet }

// Explanation is all that is known of a device.
type Explanation struct {
	Device
	Head    change.Position // the user's newest change, zero if the log has none
	Marked  change.Position // every change below it has been marked
	Listens bool            // the device is active and has a road; what follows is zero otherwise
	Acked   change.Position // what it last acknowledged while something was due
	Due     change.Position // zero: it is not due
	// Times are zero where they do not apply.
	DueSince  time.Time
	NextAt    time.Time // when a worker may take it
	HeldUntil time.Time // a worker has it, or its provider wants to be left alone, until then
	NotBefore time.Time // its budget is spent until then
	PushedAt  time.Time // the last push that was accepted
	Urgency   Urgency
	Attempts  int    // in a row that were not accepted
	Unheard   int    // pushes accepted since the device was last heard of
	Session   string // the session it was last heard over, "" if that has ended
	Wakes     []Wake // the last 20, newest first
}

// Wake is a line of the ledger: one push.
type Wake struct {
	Nudge      string
	Road       string
	Head       change.Position
	Status     string // sent, or a Verdict
	Reason     string
	ID         string // the provider's
	SentAt     time.Time
	AnsweredAt time.Time // zero: no answer yet; likewise below
	PulledAt   time.Time
	AckedAt    time.Time
}

// Explain returns all that is known of the user's devices, or of one of them; ErrUnknown if there is none.
func (s *Store) Explain(ctx context.Context, user, device string) ([]Explanation, error) {
	return nil, errNotYet
}

// Stats are for metrics.
type Stats struct {
	Due      map[string]int           // due devices by road
	Oldest   map[string]time.Duration // the age of the one that is due for longest, by road
	Silent   int                      // devices that were pushed to, have been due for an hour, and were not heard of
	Disabled map[string]int           // by reason, devices that are not active
	// Pulled are the times from accepted to pulled of the wakes that were pulled in the last minute, by road.
	Pulled map[string][]time.Duration
}

// Stats reads them, in one statement.
func (s *Store) Stats(ctx context.Context) (Stats, error) { return Stats{}, errNotYet }
