package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/nudgesync/nudge/changefeed/route"
	"github.com/nudgesync/nudge/changefeed/value"
	"github.com/nudgesync/nudge/server/attach"
	"github.com/nudgesync/nudge/server/config"
)

// databases are a node's pools. Two of them are the same pool where their DSNs are the same.
type databases struct {
	source   *pgxpool.Pool // the primary: catalog, gate
	log      *pgxpool.Pool // the change log
	snapshot *pgxpool.Pool // live rows, of the primary or a read replica
	// upkeep is one connection to the change log's database of its own: who is locked out, and the order to
	// poll, have to be read also while pulls use up everything else.
	upkeep *pgxpool.Pool
	// push is for devices that are pushed to, of the change log's database: neither they nor pulls have to wait for the
	// others. nil where nobody is pushed to.
	push *pgxpool.Pool
	all  []*pgxpool.Pool
}

// pushConnections are one to mark, one to write down what was heard, and one for senders and registrations.
const pushConnections = 3

// openDatabases connects. All pools together stay one below source.max_connections: the feed's
// replication connection is the one left (I11). One more is upkeep's, three are for pushes if there are any, the
// others are shared out.
func openDatabases(ctx context.Context, cfg *config.Config) (*databases, error) {
	dsns := []string{string(cfg.Source.DSN), cfg.LogDSN(), cfg.SnapshotDSN()}
	pools := map[string]*pgxpool.Pool{}
	for _, dsn := range dsns {
		pools[dsn] = nil
	}
	apart, purpose := 2, "one to replicate, and one for revocations"
	if cfg.Push.On() {
		apart, purpose = apart+pushConnections, "one to replicate, one for revocations, and three for pushes"
	}
	each := (cfg.Source.MaxConnections - apart) / len(pools)
	if each < 2 {
		return nil, &config.Error{
			Code: config.Invalid, Key: "source.max_connections",
			Message: fmt.Sprintf("source.max_connections is %d, too few for %d different DSNs", cfg.Source.MaxConnections, len(pools)),
			Hint:    fmt.Sprintf("allow at least %d: two for each DSN, %s", 2*len(pools)+apart, purpose),
		}
	}
	d := &databases{}
	open := func(dsn string, most int) (*pgxpool.Pool, error) {
		pool, err := openPool(ctx, dsn, most)
		if err != nil {
			d.close()
			return nil, fail(attach.CodeConnect, err, "connect to the database",
				"is it up, and do the DSNs in nudge.yaml name it? nudge check tells more")
		}
		d.all = append(d.all, pool)
		return pool, nil
	}
	var err error
	for _, dsn := range dsns {
		if pools[dsn] != nil {
			continue
		}
		if pools[dsn], err = open(dsn, each); err != nil {
			return nil, err
		}
	}
	if d.upkeep, err = open(cfg.LogDSN(), 1); err != nil {
		return nil, err
	}
	if cfg.Push.On() {
		if d.push, err = open(cfg.LogDSN(), pushConnections); err != nil {
			return nil, err
		}
	}
	d.source, d.log, d.snapshot = pools[dsns[0]], pools[dsns[1]], pools[dsns[2]]
	return d, nil
}

func openPool(ctx context.Context, dsn string, most int) (*pgxpool.Pool, error) {
	cfg, err := pgxpool.ParseConfig(dsn)
	if err != nil {
		return nil, err
	}
	for k, v := range value.SessionSettings() { // what rows look like as text (P18)
		cfg.ConnConfig.RuntimeParams[k] = v
	}
	cfg.ConnConfig.RuntimeParams["application_name"] = "nudge"
	cfg.ConnConfig.RuntimeParams["default_transaction_isolation"] = "read committed" // A9
	// Whoever holds a lock for long, an ALTER TABLE that hangs, makes a pull fail and not the pool run dry.
	cfg.ConnConfig.RuntimeParams["lock_timeout"] = "5s"
	cfg.MaxConns = int32(most)
	// A network that went silent leaves connections that look alive.
	cfg.PingTimeout = 5 * time.Second
	dialer := net.Dialer{KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 10 * time.Second, Interval: 5 * time.Second, Count: 3}}
	cfg.ConnConfig.DialFunc = dialer.DialContext
	pool, err := pgxpool.NewWithConfig(ctx, cfg)
	if err != nil {
		return nil, err
	}
	if err := pool.Ping(ctx); err != nil {
		pool.Close()
		return nil, err
	}
	return pool, nil
}

// snapshots is how many pages of rows may be read at once: as configured, but never so many that feed and
// log find no connection.
func (d *databases) snapshots(configured int) int {
	return min(configured, max(1, int(d.snapshot.Config().MaxConns)/2))
}

func (d *databases) close() {
	for _, p := range d.all {
		p.Close()
	}
}

// resolveRouting completes the configuration's tables from the source's catalog.
func resolveRouting(ctx context.Context, db *pgxpool.Pool, cfg *config.Config) (*route.Config, error) {
	specs := map[string]route.Spec{}
	names := make([]string, 0, len(cfg.Tables))
	for name, t := range cfg.Tables {
		names = append(names, name)
		specs[name] = route.Spec{Owner: t.Owner, Allow: t.Columns.Allow, Deny: t.Columns.Deny}
	}
	catalog, err := route.Catalog(ctx, db, names)
	if err != nil {
		return nil, fail(attach.CodeConnect, err, "read the catalog")
	}
	routing, err := route.Resolve(specs, catalog, cfg.Values.WideNumbers == "string")
	if err != nil {
		code, message, _ := strings.Cut(err.Error(), ": ")
		return nil, fail(code, nil, message, "mend tables in nudge.yaml; nudge check tells more")
	}
	return routing, nil
}

// checkSource refuses to start on a database that nudge check finds fault with: each fault is a line of
// the log, the first one the error.
func checkSource(ctx context.Context, cfg *config.Config, log *slog.Logger) error {
	all, err := findings(ctx, cfg)
	if err != nil {
		return err
	}
	var first error
	for _, f := range all {
		if !f.Wrong() {
			continue
		}
		log.Error("the database is not as it must be", "code", f.Code, "subject", f.Subject, "message", f.Message, "fix", f.Fix)
		if first == nil {
			first = fail(f.Code, nil, f.Message, f.Fix)
		}
	}
	return first
}
