// Package config is nudge.yaml: its structure, its defaults, and how file, environment and flags
// become one validated Config.
//
// Loading is strict. An unknown key, a value of the wrong kind or a feature that this version does
// not have is an error that names its place; all of them are reported at once.
package config

import (
	"time"
)

// DefaultPath is where the configuration is looked for.
const DefaultPath = "nudge.yaml"

// Config is nudge.yaml. The yaml tags are the keys; a key's path ("source.dsn") is also its name in
// errors, in flags and, in capitals behind NUDGE_, in the environment.
type Config struct {
	Version int              `yaml:"version"` // of this format: 1
	Source  Database         `yaml:"source"`
	Log     Log              `yaml:"log"`
	Tables  map[string]Table `yaml:"tables"` // by "schema.name"
	Scopes  map[string]Scope `yaml:"scopes"`
	Auth    Auth             `yaml:"auth"`
	Listen  Listen           `yaml:"listen"`
	Roles   []string         `yaml:"roles"` // what this node does: feed, serve, push
	Bus     Bus              `yaml:"bus"`
	Push    Push             `yaml:"push"`
	Limits  Limits           `yaml:"limits"`
	Lanes   map[string]Lane  `yaml:"lanes"` // by the token's lane claim
	Values  Values           `yaml:"values"`
}

// Database is the app's own Postgres.
type Database struct {
	DSN     Secret `yaml:"dsn"` // the feed's role, with REPLICATION
	DSNFile string `yaml:"dsn_file"`
	// SnapshotDSN is for reading rows: another role, or a read replica. Empty: as DSN.
	SnapshotDSN     Secret `yaml:"snapshot_dsn"`
	SnapshotDSNFile string `yaml:"snapshot_dsn_file"`
	// OriginSecret is what the app signs its origin messages with. Empty: unsigned ones are believed.
	OriginSecret     Secret `yaml:"origin_secret"`
	OriginSecretFile string `yaml:"origin_secret_file"`
	Slot             string `yaml:"slot"`            // logical replication slot
	Publication      string `yaml:"publication"`     //
	MaxConnections   int    `yaml:"max_connections"` // of this node, at any load (I11)
}

// Log is the change log.
type Log struct {
	DSN       Secret        `yaml:"dsn"` // empty: in the source database, schema nudge
	DSNFile   string        `yaml:"dsn_file"`
	Retention time.Duration `yaml:"retention"` // a device away for longer starts over
	// Witness is a file that remembers how far the log has come, to notice that the database was restored.
	// Empty: none. No default can know which disk is not restored with the database.
	Witness string `yaml:"witness"`
}

// Table says whose the rows of one table are: exactly one of Owner, Parent and Scope.
type Table struct {
	Owner   string   `yaml:"owner"`  // the column that holds the user's id
	Parent  *Parent  `yaml:"parent"` // the row's owner is that of another row
	Scope   string   `yaml:"scope"`  // a shared scope's kind, or "global"
	By      string   `yaml:"by"`     // under Scope: the column that holds the scope's id
	Columns Columns  `yaml:"columns"`
	Write   []string `yaml:"write"`   // columns that devices may write
	Urgency string   `yaml:"urgency"` // how soon a push has to tell: now, soon (if empty) or lazy
}

// Parent routes a row as the row that it points to.
type Parent struct {
	Table string `yaml:"table"` // "schema.name"
	By    string `yaml:"by"`    // the column that holds the parent's key
}

// Columns narrows what devices see of a table, by one list or the other.
type Columns struct {
	Allow []string `yaml:"allow"`
	Deny  []string `yaml:"deny"`
}

// Scope is a kind of shared scope.
type Scope struct {
	Members Members `yaml:"members"`
}

// Members names the table that says who belongs to a scope.
type Members struct {
	Table string `yaml:"table"` // "schema.name"
	Scope string `yaml:"scope"` // the column with the scope's id
	User  string `yaml:"user"`  // the column with the user's id
	Role  string `yaml:"role"`  // the column with the user's role, if there is one
}

// Auth is how devices prove who they are.
type Auth struct {
	JWKSURL    string    `yaml:"jwks_url"` // the identity provider's keys, beside Keys
	Keys       []AuthKey `yaml:"keys"`
	Issuer     string    `yaml:"issuer"`     // a token's iss; empty: not checked
	Audience   string    `yaml:"audience"`   // among a token's aud; empty: not checked
	Algorithms []string  `yaml:"algorithms"` // those that keys may have; empty: HS256, RS256, ES256, EdDSA; fetched ones never HS256
	Claims     Claims    `yaml:"claims"`
}

// AuthKey is one static key: an HS256 secret, or a public key in PEM. A token that names no key is tried with the first
// four of its algorithm, static ones before fetched ones.
type AuthKey struct {
	ID            string `yaml:"id"` // the kid of tokens signed with it; empty: only tokens without a kid
	Algorithm     string `yaml:"algorithm"`
	Secret        Secret `yaml:"secret"` // at least 32 bytes, as it is or behind "base64:"
	SecretFile    string `yaml:"secret_file"`
	PublicKey     Secret `yaml:"public_key"` // redacted, because it is where a private key lands by mistake
	PublicKeyFile string `yaml:"public_key_file"`
}

// Claims names the token's claims.
type Claims struct {
	User   string `yaml:"user"`
	Device string `yaml:"device"` // empty: a device belongs to the first user that registers it
	Lane   string `yaml:"lane"`
}

// Listen is where the node listens.
type Listen struct {
	Public string `yaml:"public"` // host:port; port 0 takes a free one
	Admin  string `yaml:"admin"`  // host:port for metrics, health and operators; not for the internet
	// AdminHosts are further names, without port, under which Admin may be asked for. IP addresses and
	// localhost always may: a rebound DNS name is always a name.
	AdminHosts []string `yaml:"admin_hosts"`
	// Origins are the web pages' origins that may open sockets and read answers (CORS), exactly as
	// browsers send them: "https://app.example.com".
	Origins []string `yaml:"origins"`
}

// Bus carries batches between nodes.
type Bus struct {
	RedisURL     Secret `yaml:"redis_url"` // empty: in this process
	RedisURLFile string `yaml:"redis_url_file"`
	KeyFile      string `yaml:"key_file"` // seals what is sent
}

// Limits bounds what one node spends.
type Limits struct {
	PageRows       int    `yaml:"page_rows"`        // changes a page has, unless the device asks for less
	PageBytes      Bytes  `yaml:"page_bytes"`       // of a page, near enough
	TailBytes      Bytes  `yaml:"tail_bytes"`       // memory for the newest changes
	SpillBytes     Bytes  `yaml:"spill_bytes"`      // memory that one transaction may take before it goes to files
	SpillDir       string `yaml:"spill_dir"`        // of those files; empty: the system's for temporary ones
	Snapshots      int    `yaml:"snapshots"`        // pages of live rows read at the same time
	HandshakeRate  int    `yaml:"handshake_rate"`   // new sockets a second
	MaxSockets     int    `yaml:"max_sockets"`      // open ones
	MaxUserSockets int    `yaml:"max_user_sockets"` // of those, one user's
	DevicePulls    int    `yaml:"device_pulls"`     // of one device, a second, and five times as many at once
	UserPulls      int    `yaml:"user_pulls"`       // likewise, of one user
	Queue          int    `yaml:"queue"`            // pulls of a class that wait for the database
	// QueueWait is how long a pull waits for the database at most; snapshots and devices that a push woke
	// wait for twice that.
	QueueWait time.Duration `yaml:"queue_wait"`
}

// Lane is a tenant class with limits of its own.
type Lane struct {
	Limits Limits `yaml:"limits"`
}

// Values is how column values become JSON.
type Values struct {
	WideNumbers string `yaml:"wide_numbers"` // int8 and numeric as: number, or string
}

// Names of roles.
const (
	RoleFeed  = "feed"  // reads the source's log, if no other node does
	RoleServe = "serve" // holds sockets and answers pulls
	RolePush  = "push"  // sends pushes
)

// Default is the configuration with nothing configured: every key that has a default has it.
func Default() *Config {
	return &Config{
		Version: 1,
		Source:  Database{Slot: "nudge", Publication: "nudge", MaxConnections: 20},
		Log:     Log{Retention: 720 * time.Hour},
		Auth:    Auth{Claims: Claims{User: "sub"}},
		Listen:  Listen{Public: "127.0.0.1:8080", Admin: "127.0.0.1:8081"},
		Roles:   []string{RoleFeed, RoleServe, RolePush},
		Push:    Push{Grace: 8 * time.Second, Budget: Budget{APNs: 20 * time.Minute, FCM: 3 * time.Minute, WebPush: 3 * time.Minute}},
		Limits: Limits{
			PageRows: 500, PageBytes: 1 << 20, TailBytes: 128 << 20, SpillBytes: 32 << 20,
			Snapshots: 4, HandshakeRate: 200, MaxSockets: 50_000, MaxUserSockets: 64,
			DevicePulls: 50, UserPulls: 100, Queue: 1000, QueueWait: 2 * time.Second,
		},
		Values: Values{WideNumbers: "number"},
	}
}

// LogDSN is the database of the change log.
func (c *Config) LogDSN() string {
	if c.Log.DSN != "" {
		return string(c.Log.DSN)
	}
	return string(c.Source.DSN)
}

// SnapshotDSN is the database that rows are read from.
func (c *Config) SnapshotDSN() string {
	if c.Source.SnapshotDSN != "" {
		return string(c.Source.SnapshotDSN)
	}
	return string(c.Source.DSN)
}
