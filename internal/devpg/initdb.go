package devpg

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// socketPathMax is what a Unix socket's path may take on every system, with the name that Postgres
// gives it.
const socketPathMax = 103 - len("/.s.PGSQL.65535.lock")

// account is whom the server runs as when we are root.
type account struct {
	name     string
	uid, gid uint32
}

// unprivileged finds whom to drop root to: Postgres refuses to run as root. Nil: we are not root.
func unprivileged() (*account, error) {
	if os.Geteuid() != 0 {
		return nil, nil //nolint:nilnil // no account is an answer
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
		gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
		if err := errors.Join(err1, err2); err != nil {
			return nil, fmt.Errorf("user %s: %w", name, err)
		}
		return &account{name: name, uid: uint32(uid), gid: uint32(gid)}, nil
	}
	return nil, errors.New("we are root, as whom Postgres refuses to run, and there is neither a user postgres nor nobody to run it as")
}

func (c *Cluster) data() string { return filepath.Join(c.root, "data") }

// prepare makes the directory and, unless it holds one already, the cluster, and writes its settings.
func (c *Cluster) prepare(ctx context.Context) error {
	if err := c.makeRoot(); err != nil {
		return err
	}
	made, err := os.ReadFile(filepath.Join(c.data(), "PG_VERSION"))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if err := c.initdb(ctx); err != nil {
			return err
		}
	case err != nil:
		return fmt.Errorf("read cluster: %w", err)
	default:
		if err := c.sameMajor(ctx, string(bytes.TrimSpace(made))); err != nil {
			return err
		}
	}
	return c.writeSettings()
}

func (c *Cluster) makeRoot() error {
	if c.root == "" {
		dir, err := os.MkdirTemp("", "nudge-pg-")
		if err != nil {
			return fmt.Errorf("make cluster directory: %w", err)
		}
		c.root, c.remove = dir, true
	}
	root, err := filepath.Abs(c.root)
	if err != nil {
		return fmt.Errorf("cluster directory: %w", err)
	}
	c.root = root
	if err := os.MkdirAll(filepath.Dir(root), 0o755); err != nil {
		return fmt.Errorf("make cluster directory: %w", err)
	}
	if err := os.Mkdir(root, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("make cluster directory: %w", err)
	}
	if c.owner == nil {
		return nil
	}
	if err := os.Chown(root, int(c.owner.uid), int(c.owner.gid)); err != nil {
		return fmt.Errorf("give the cluster directory to %s: %w", c.owner.name, err)
	}
	for _, dir := range []string{root, c.bin} {
		if err := c.owner.reaches(dir); err != nil {
			return err
		}
	}
	return nil
}

// reaches says which directory above dir keeps the account out, before Postgres says it less clearly.
func (a *account) reaches(dir string) error {
	for parent := filepath.Dir(dir); ; parent = filepath.Dir(parent) {
		info, err := os.Stat(parent)
		if err != nil {
			return err
		}
		if !a.mayEnter(info) {
			return fmt.Errorf("user %s, as whom Postgres runs because we are root, may not enter %s: put %s elsewhere, or chmod o+x %s", a.name, parent, dir, parent)
		}
		if parent == filepath.Dir(parent) {
			return nil
		}
	}
}

// initdb works beside the final place and moves there when complete, so that an interrupted one is
// never taken for a cluster.
func (c *Cluster) initdb(ctx context.Context) error {
	fresh := filepath.Join(c.root, "data.new")
	if err := os.RemoveAll(fresh); err != nil {
		return fmt.Errorf("remove half-made cluster: %w", err)
	}
	p, err := c.spawn(c.program("initdb"), "-D", fresh, "-U", Superuser, "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync")
	if err != nil {
		return fmt.Errorf("start initdb: %w", err)
	}
	select {
	case <-p.exited:
	case <-ctx.Done():
		_ = p.cmd.Process.Kill()
		<-p.exited
		return fmt.Errorf("initdb: %w", context.Cause(ctx))
	}
	if !p.cmd.ProcessState.Success() {
		return fmt.Errorf("initdb (%w): %s", p.err, p.output.tail())
	}
	conf, err := os.OpenFile(filepath.Join(fresh, "postgresql.conf"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("configure cluster: %w", err)
	}
	_, err = conf.WriteString("\ninclude_if_exists = '" + settingsFile + "'\n")
	if err := errors.Join(err, conf.Close()); err != nil {
		return fmt.Errorf("configure cluster: %w", err)
	}
	if err := os.Rename(fresh, c.data()); err != nil {
		return fmt.Errorf("move cluster into place: %w", err)
	}
	return nil
}

func (c *Cluster) sameMajor(ctx context.Context, made string) error {
	out, err := exec.CommandContext(ctx, c.program("postgres"), "--version").Output()
	if err != nil {
		return fmt.Errorf("postgres --version: %w", err)
	}
	if v := version(string(out)); strconv.Itoa(v) != made {
		return fmt.Errorf("%s was made by Postgres %s, and %s holds version %d: set %s, or remove the directory to start afresh", c.data(), made, c.bin, v, BinEnv)
	}
	return nil
}

const settingsFile = "nudge.conf"

// linePrefix is Postgres's own with the SQLSTATE behind it, by which serverLog judges a line.
const linePrefix = "%m [%p] %e "

// writeSettings uses a file, not the command line, so that ALTER SYSTEM can override.
func (c *Cluster) writeSettings() error {
	settings := map[string]string{
		"listen_addresses":        "127.0.0.1",
		"unix_socket_directories": "",
		"log_line_prefix":         linePrefix,
		"wal_level":               "logical",
		"max_connections":         "200",
		"max_wal_senders":         "40",
		"max_replication_slots":   "40",
		"fsync":                   strconv.FormatBool(c.opts.Fsync),
		"full_page_writes":        strconv.FormatBool(c.opts.Fsync),
	}
	if len(c.root) <= socketPathMax {
		settings["unix_socket_directories"] = `"` + c.root + `"`
	}
	maps.Copy(settings, c.opts.Settings)
	var b strings.Builder
	b.WriteString("# Written at every start.\n")
	quote := strings.NewReplacer(`\`, `\\`, `'`, `''`)
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		fmt.Fprintf(&b, "%s = '%s'\n", name, quote.Replace(settings[name]))
	}
	path := filepath.Join(c.data(), settingsFile)
	if err := os.WriteFile(path, []byte(b.String()), 0o644); err != nil {
		return fmt.Errorf("write settings: %w", err)
	}
	// Whatever our umask is, the server must be able to read it; nobody else can enter the directory.
	if err := os.Chmod(path, 0o644); err != nil {
		return fmt.Errorf("write settings: %w", err)
	}
	return nil
}
