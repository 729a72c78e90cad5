package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/spf13/pflag"
)

// options are the flags of run.
type options struct {
	users    int
	devices  int // of each user
	rate     float64
	duration time.Duration
	settle   time.Duration
	against  string
	admin    string
	dsn      string
	keyFile  string
	seed     uint64
	json     bool
	quiet    bool
	report   string

	roads     []string // the n-th device of every user hears by the n-th of them
	providers string
	errors    float64 // share of pushes that the providers fail
	budgets   map[string]string
	apart     map[string]time.Duration // budgets, parsed
	rotations float64                  // share of sleeping devices whose token changes in the run
}

func defaults() *options {
	return &options{users: 200, devices: 3, rate: 200, duration: 30 * time.Second, settle: 15 * time.Second, roads: []string{socket}, budgets: budgets()}
}

func (o *options) bind(f *pflag.FlagSet) {
	f.IntVar(&o.users, "users", o.users, "users to create")
	f.IntVar(&o.devices, "devices", o.devices, "devices of each user")
	f.Float64Var(&o.rate, "rate", o.rate, "commits a second, at intended times fixed in advance")
	f.DurationVar(&o.duration, "duration", o.duration, "how long to write")
	f.DurationVar(&o.settle, "settle", o.settle, "how long to wait for quiet afterwards, at most")
	f.StringVar(&o.against, "against", "", "the server's URL; without it, dev.json names everything")
	f.StringVar(&o.admin, "admin", "", "URL of the admin listener; without it no cursor expires in the run")
	f.StringVar(&o.dsn, "dsn", "", "the app's database, to write to and to compare with")
	f.StringVar(&o.keyFile, "signing-key-file", "", "file with the HS256 key that the server accepts tokens of")
	f.StringSliceVar(&o.roads, "roads", o.roads, "how a user's devices hear, one after the other: socket, apns, fcm, webpush")
	f.StringVar(&o.providers, "providers", "", "control URL of the simulated providers (clientsim providers), for roads other than socket")
	f.Float64Var(&o.errors, "provider-errors", 0, "share of the pushes that the providers fail while there are writes")
	f.StringToStringVar(&o.budgets, "budgets", o.budgets, "the least time between two pushes to a device, by road: the server's push.budget")
	f.Float64Var(&o.rotations, "rotations", 0, "share of the devices without a socket whose token changes in the run")
	f.Uint64Var(&o.seed, "seed", 0, "makes devices and writes behave alike; 0 picks one and says which")
	f.BoolVar(&o.json, "json", false, "print the summary as JSON")
	f.BoolVar(&o.quiet, "quiet", false, "no progress")
	f.StringVar(&o.report, "report", "", "also write the summary to this file, as JSON")
}

// spareDescriptors are kept for everything that is no device: database, standard streams, pulls.
const spareDescriptors = 64

func (o *options) validate() error {
	switch {
	case o.users < 1:
		return errors.New("--users: want at least 1")
	case o.devices < 1:
		return errors.New("--devices: want at least 1")
	case o.rate <= 0 || o.rate > 100_000:
		return errors.New("--rate: want more than 0 and at most 100000 commits a second")
	case o.duration <= 0:
		return errors.New("--duration: want more than 0")
	case o.settle < 0:
		return errors.New("--settle: want 0 or more")
	case o.against != "" && (o.dsn == "" || o.keyFile == ""):
		return errors.New("--against: want --dsn and --signing-key-file too")
	case len(o.roads) == 0:
		return errors.New("--roads: want at least one")
	case o.errors < 0 || o.errors > 1:
		return errors.New("--provider-errors: want 0 to 1")
	case o.rotations < 0 || o.rotations > 1:
		return errors.New("--rotations: want 0 to 1")
	}
	o.apart = map[string]time.Duration{}
	for road, text := range budgets() {
		if own, ok := o.budgets[road]; ok {
			text = own
		}
		d, err := time.ParseDuration(text)
		if err != nil || d < 0 {
			return fmt.Errorf("--budgets: %s: want a duration, such as 20m, not %q", road, text)
		}
		o.apart[road] = d
	}
	for _, road := range o.roads {
		if _, push := platforms[road]; road != socket && !push {
			return fmt.Errorf("--roads: %q is not socket, apns, fcm or webpush", road)
		}
	}
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return fmt.Errorf("descriptor limit: %w", err)
	}
	want := uint64(o.users)*uint64(o.devices) + spareDescriptors
	if limit.Cur < want {
		fit := max(int64(limit.Cur)-spareDescriptors, 0)
		return fmt.Errorf("%d users × %d devices need %d descriptors, and the limit is %d: %d devices fit; raise it with ulimit -n %d",
			o.users, o.devices, want, limit.Cur, fit, want)
	}
	if o.seed == 0 {
		o.seed = rand.Uint64()>>1 + 1
	}
	return nil
}

// target is where a run goes. Its JSON is the file that "nudge dev" leaves.
type target struct {
	URL     string `json:"url"`
	Admin   string `json:"admin"`
	DSN     string `json:"dsn"`
	KeyFile string `json:"signing_key_file"`

	Providers struct {
		Control string `json:"control"`
	} `json:"providers"`
}

// target reads dev.json, unless --against is given; flags win over the file.
func (o *options) target() (target, error) {
	var t target
	if o.against == "" {
		path, err := devFile()
		if err != nil {
			return t, err
		}
		b, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			return t, fmt.Errorf("%s is not there: start \"nudge dev\", or name a server with --against", path)
		}
		if err != nil {
			return t, err
		}
		if err := json.Unmarshal(b, &t); err != nil {
			return t, fmt.Errorf("%s: %w", path, err)
		}
	}
	for _, flag := range []struct {
		value string
		field *string
	}{{o.against, &t.URL}, {o.admin, &t.Admin}, {o.dsn, &t.DSN}, {o.keyFile, &t.KeyFile}, {o.providers, &t.Providers.Control}} {
		if flag.value != "" {
			*flag.field = flag.value
		}
	}
	if slices.ContainsFunc(o.roads, func(r string) bool { return r != socket }) && t.Providers.Control == "" {
		return t, errors.New("--roads: there is no push without providers: start \"clientsim providers\", configure the server with what it prints, and name it with --providers")
	}
	return t, nil
}

// devFile is $XDG_STATE_HOME/nudge/dev.json, by the XDG Base Directory Specification.
func devFile() (string, error) {
	if dir := os.Getenv("XDG_STATE_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "nudge", "dev.json"), nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", fmt.Errorf("dev.json: %w", err)
	}
	return filepath.Join(home, ".local", "state", "nudge", "dev.json"), nil
}
