package config

import (
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/nudgesync/nudge/server/auth"
)

// minOriginSecret is HMAC-SHA256's own size, in bytes (RFC 2104, 3).
const minOriginSecret = 32

// maxIdentifier is the length of Postgres's names, in bytes.
const maxIdentifier = 63

func (l *loader) validate(cfg *Config) {
	if cfg.Version != 1 {
		l.invalid("version", "", "version %d is not one that this program reads; it reads 1", cfg.Version)
	}
	l.unsupported(cfg)
	l.source(cfg)
	l.tables(cfg.Tables)
	l.auth(&cfg.Auth)
	l.listen(&cfg.Listen)
	l.roles(cfg.Roles)
	l.limits(&cfg.Limits)
	l.push(&cfg.Push)
	if w := cfg.Values.WideNumbers; w != "number" && w != "string" {
		l.invalid("values.wide_numbers", "", "values.wide_numbers is number or string, not %q", w)
	}
}

func (l *loader) invalid(path, hint, format string, args ...any) {
	l.addKey(path, &Error{Code: Invalid, Message: fmt.Sprintf(format, args...), Hint: hint})
}

func (l *loader) missing(path, hint string) {
	l.addKey(path, &Error{Code: Missing, Message: path + " is needed", Hint: hint})
}

var slotName = regexp.MustCompile(`^[a-z0-9_]{1,63}$`)

func (l *loader) source(cfg *Config) {
	if cfg.Source.DSN == "" {
		l.missing("source.dsn", "the app's database: source: {dsn: postgres://nudge_feed:…@host/app}, source.dsn_file or NUDGE_SOURCE_DSN")
	}
	l.dsn("source.dsn", cfg.Source.DSN)
	l.dsn("source.snapshot_dsn", cfg.Source.SnapshotDSN)
	l.dsn("log.dsn", cfg.Log.DSN)
	if !slotName.MatchString(cfg.Source.Slot) {
		l.invalid("source.slot", "", "source.slot %q is not a slot's name: lower-case letters, digits and _, at most %d", cfg.Source.Slot, maxIdentifier)
	}
	if p := cfg.Source.Publication; p == "" || len(p) > maxIdentifier {
		l.invalid("source.publication", "", "source.publication has 1 to %d bytes", maxIdentifier)
	}
	l.between("source.max_connections", int64(cfg.Source.MaxConnections), 4, 10_000)
	if s := cfg.Source.OriginSecret; s != "" && s != unknownSecret && len(s) < minOriginSecret {
		l.invalid("source.origin_secret", "openssl rand -base64 48 makes a good one", "source.origin_secret needs %d bytes or more, this has %d", minOriginSecret, len(s))
	}
	if cfg.Log.Retention <= 0 {
		l.invalid("log.retention", "", "log.retention has to be more than nothing")
	}
}

// dsn doesn't repeat the parser's error, since that may quote the password.
func (l *loader) dsn(path string, dsn Secret) {
	if dsn == "" || dsn == unknownSecret {
		return
	}
	if _, err := pgconn.ParseConfig(string(dsn)); err != nil {
		l.invalid(path, "postgres://user:password@host:5432/database?sslmode=verify-full, with special characters in % form; files that it names must be readable",
			"%s is not a Postgres connection string", path)
	}
}

func (l *loader) tables(tables map[string]Table) {
	if len(tables) == 0 {
		l.missing("tables", "name at least one: tables: {public.intakes: {owner: user_id}}")
	}
	for _, name := range sortedKeys(tables) {
		t, path := tables[name], join("tables", name)
		l.tableName(path, name)
		var routes []string
		for _, r := range []struct {
			key string
			set bool
		}{{"owner", t.Owner != ""}, {"parent", t.Parent != nil}, {"scope", t.Scope != ""}} {
			if r.set {
				routes = append(routes, r.key)
			}
		}
		switch {
		case len(routes) == 0:
			l.addKey(path, &Error{
				Code: Missing, Message: path + " doesn't say whose its rows are",
				Hint: "name the column with the user's id: {owner: user_id}",
			})
		case len(routes) > 1:
			l.invalid(path, "keep one of them", "%s has %s, but a row has one owner", path, strings.Join(routes, " and "))
		}
		if t.By != "" && t.Scope == "" {
			l.invalid(path+".by", "", "%s.by belongs to scope, which isn't there", path)
		}
		if t.Owner != "" {
			l.column(path+".owner", t.Owner)
		}
		if len(t.Columns.Allow) > 0 && len(t.Columns.Deny) > 0 {
			l.invalid(path+".columns", "keep one of them", "%s.columns has allow and deny", path)
		}
		l.columns(path+".columns.allow", t.Columns.Allow)
		l.columns(path+".columns.deny", t.Columns.Deny)
		l.columns(path+".write", t.Write)
		l.urgency(path+".urgency", t.Urgency)
	}
}

func (l *loader) urgency(path, u string) {
	known := []string{UrgencyNow, UrgencySoon, UrgencyLazy}
	if u == "" || slices.Contains(known, u) {
		return
	}
	hint := "one of " + strings.Join(known, ", ")
	if near := nearest(u, known); near != "" {
		hint = fmt.Sprintf("did you mean %q?", near)
	}
	l.invalid(path, hint, "%s: %q is not an urgency", path, u)
}

func (l *loader) tableName(path, name string) {
	schema, table, ok := strings.Cut(name, ".")
	if ok && schema != "" && table != "" && !strings.Contains(table, ".") && len(schema) <= maxIdentifier && len(table) <= maxIdentifier {
		return
	}
	hint := ""
	if !ok && name != "" {
		hint = fmt.Sprintf("did you mean %q?", "public."+name)
	}
	l.invalid(path, hint, "%q is not a table's name with its schema", name)
}

func (l *loader) columns(path string, names []string) {
	for i, c := range names {
		l.column(fmt.Sprintf("%s[%d]", path, i), c)
	}
}

func (l *loader) column(path, name string) {
	if name == "" || len(name) > maxIdentifier {
		l.invalid(path, "", "%s: a column's name has 1 to %d bytes", path, maxIdentifier)
	}
}

func (l *loader) auth(a *Auth) {
	for i, alg := range a.Algorithms {
		l.algorithm(fmt.Sprintf("auth.algorithms[%d]", i), alg)
	}
	if a.Claims.User == "" {
		l.missing("auth.claims.user", "the claim that holds the user's id: sub")
	}
	l.jwks(a)
	ids := map[string]bool{}
	for i, k := range a.Keys {
		path := fmt.Sprintf("auth.keys[%d]", i)
		if k.ID != "" && ids[k.ID] {
			l.invalid(path+".id", "", "%s.id: two keys have the id %q", path, k.ID)
		}
		ids[k.ID] = true
		l.authKey(path, k)
		if k.Algorithm != "" && len(a.Algorithms) > 0 && !slices.Contains(a.Algorithms, k.Algorithm) {
			l.invalid(path+".algorithm", "", "%s.algorithm %q is not among auth.algorithms", path, k.Algorithm)
		}
	}
}

func (l *loader) jwks(a *Auth) {
	if a.JWKSURL == "" {
		return
	}
	if err := auth.CheckURL(a.JWKSURL); err != nil { // it doesn't repeat the URL, which may hold a secret
		l.invalid("auth.jwks_url", "such as https://id.example.com/.well-known/jwks.json", "auth.jwks_url: %v", err)
	}
	if len(a.Algorithms) > 0 && !slices.ContainsFunc(a.Algorithms, func(alg string) bool { return alg != auth.HS256 }) {
		l.invalid("auth.algorithms", "name those of the provider's keys, or leave it out", "auth.algorithms: a fetched key can't have HS256, and it allows no other")
	}
	if a.Audience == "" {
		l.warnings = append(l.warnings, Warning{
			Code: "config_token_of_others", Key: "auth.audience",
			Message: "auth.jwks_url without auth.audience: a token that the provider issued for another application is let in",
			Hint:    "set auth.audience, and auth.issuer, to what your tokens have",
		})
	}
}

func (l *loader) authKey(path string, k AuthKey) {
	if k.Algorithm == "" {
		l.missing(path+".algorithm", "one of "+strings.Join(auth.Algorithms(), ", "))
		return
	}
	if !l.algorithm(path+".algorithm", k.Algorithm) {
		return
	}
	own, other := ".public_key", ".secret"
	value, otherValue := k.PublicKey, k.Secret
	if k.Algorithm == auth.HS256 {
		own, other, value, otherValue = other, own, otherValue, value
	}
	if otherValue != "" {
		l.invalid(path+other, "", "%s%s does not belong to a key for %s, which has %s", path, other, k.Algorithm, own[1:])
	}
	switch value {
	case unknownSecret:
	case "":
		l.missing(path+own, "or "+own[1:]+"_file")
	default:
		if _, err := auth.ParseKey(k.ID, k.Algorithm, []byte(value)); err != nil {
			l.invalid(path+own, "", "%s%s: %v", path, own, err)
		}
	}
}

func (l *loader) algorithm(path, name string) bool {
	if slices.Contains(auth.Algorithms(), name) {
		return true
	}
	hint := "one of " + strings.Join(auth.Algorithms(), ", ")
	if near := nearest(name, auth.Algorithms()); near != "" {
		hint = fmt.Sprintf("did you mean %q?", near)
	}
	l.invalid(path, hint, "%s: %q is not an algorithm that tokens may have", path, name)
	return false
}

func (l *loader) listen(c *Listen) {
	l.address("listen.public", c.Public)
	host := l.address("listen.admin", c.Admin)
	if c.Public == c.Admin && c.Public != "" && !strings.HasSuffix(c.Public, ":0") {
		l.invalid("listen.admin", "", "listen.admin and listen.public are both %s", c.Admin)
	}
	if ip := net.ParseIP(host); host == "" && c.Admin != "" || ip != nil && ip.IsUnspecified() {
		l.warnings = append(l.warnings, Warning{
			Code: "config_admin_exposed", Key: "listen.admin",
			Message: "listen.admin answers on every address of this machine, without authentication",
			Hint:    "listen on 127.0.0.1 or on a network that only operators reach",
		})
	}
	for i, h := range c.AdminHosts {
		l.adminHost(fmt.Sprintf("listen.admin_hosts[%d]", i), h)
	}
	for i, o := range c.Origins {
		l.origin(fmt.Sprintf("listen.origins[%d]", i), o)
	}
}

// adminHost accepts a name as it stands in a URL: compared with what requests ask for.
func (l *loader) adminHost(path, name string) {
	u, err := url.Parse("http://" + name)
	if err != nil || name == "" || u.Host != name || u.Port() != "" || strings.ContainsAny(name, "*:[]") {
		l.invalid(path, "a name without scheme and port: nudge.internal", "%s: %q is not a host name", path, name)
	}
}

// address returns the host of a well-formed host:port.
func (l *loader) address(path, addr string) string {
	host, port, err := net.SplitHostPort(addr)
	if err == nil {
		_, err = strconv.ParseUint(port, 10, 16)
	}
	if err != nil {
		l.invalid(path, "127.0.0.1:8080 for this machine, :8080 for all of its addresses", "%s: %q is not host:port", path, addr)
	}
	return host
}

// origin accepts what a browser would send, and nothing that merely looks like it: origins are
// compared as they are.
func (l *loader) origin(path, o string) {
	const want = "exactly as browsers send it: https://app.example.com"
	u, err := url.Parse(o)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" ||
		strings.ContainsAny(o, "*") || o != strings.ToLower(u.Scheme+"://"+u.Host) {
		l.invalid(path, want, "%s: %q is not an origin", path, o)
		return
	}
	if u.Scheme == "https" && u.Port() == "443" || u.Scheme == "http" && u.Port() == "80" {
		l.invalid(path, want, "%s: browsers leave out the port of %q", path, o)
	}
}

func (l *loader) roles(roles []string) {
	known := []string{RoleFeed, RoleServe, RolePush}
	if len(roles) == 0 {
		l.missing("roles", "some of "+strings.Join(known, ", "))
	}
	for i, r := range roles {
		if slices.Contains(known, r) {
			continue
		}
		hint := "some of " + strings.Join(known, ", ")
		if near := nearest(r, known); near != "" {
			hint = fmt.Sprintf("did you mean %q?", near)
		}
		l.invalid(fmt.Sprintf("roles[%d]", i), hint, "%q is not a role", r)
		return
	}
	for _, r := range []string{RoleFeed, RoleServe} {
		if len(roles) > 0 && !slices.Contains(roles, r) {
			l.addKey("roles", &Error{
				Code: Unsupported, Message: "roles: a node without " + r + ", which this version doesn't do",
				Hint: "this version is one node, and that has to feed and to serve: leave roles out",
			})
		}
	}
}

// Ceilings of limits: beyond them a page no longer fits what clients accept, or a number is a typing
// error.
func (l *loader) limits(c *Limits) {
	l.between("limits.page_rows", int64(c.PageRows), 1, 5000)
	l.between("limits.page_bytes", int64(c.PageBytes), 4<<10, 64<<20)
	l.between("limits.tail_bytes", int64(c.TailBytes), 1<<20, 1<<40)
	l.between("limits.spill_bytes", int64(c.SpillBytes), 1<<20, 1<<40)
	if d := c.SpillDir; d != "" && !filepath.IsAbs(d) {
		l.invalid("limits.spill_dir", "it doesn't count from this file's directory, nor from the working one", "limits.spill_dir %q does not begin with /", d)
	}
	l.between("limits.snapshots", int64(c.Snapshots), 1, 1000)
	l.between("limits.handshake_rate", int64(c.HandshakeRate), 1, 1_000_000)
	l.between("limits.max_sockets", int64(c.MaxSockets), 1, 10_000_000)
	l.between("limits.max_user_sockets", int64(c.MaxUserSockets), 1, 10_000_000)
	l.between("limits.device_pulls", int64(c.DevicePulls), 1, 1_000_000)
	l.between("limits.user_pulls", int64(c.UserPulls), 1, 1_000_000)
	l.between("limits.queue", int64(c.Queue), 1, 1_000_000)
	if w := c.QueueWait; w < 10*time.Millisecond || w > 4*time.Second { // a pull, which may wait twice, is given up after 10 s
		l.invalid("limits.queue_wait", "", "limits.queue_wait is %v, but goes from 10ms to 4s", w)
	}
}

func (l *loader) between(path string, n, low, high int64) {
	if n < low || n > high {
		l.invalid(path, "", "%s is %d, but goes from %d to %d", path, n, low, high)
	}
}
