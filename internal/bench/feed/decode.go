package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/nudgesync/nudge/changefeed/change"
	"github.com/nudgesync/nudge/changefeed/pgoutput"
	"github.com/nudgesync/nudge/changefeed/route"
	"github.com/nudgesync/nudge/changefeed/value"
)

// decode does the feed's part of the work without the log: it reads, decodes, routes and renders each
// row, and drops the transaction at its commit.
func (r run) decode(ctx context.Context, source *pgxpool.Pool, routing *route.Config) (report, error) {
	cfg, err := pgconn.ParseConfig(r.DSN)
	if err != nil {
		return report{}, fmt.Errorf("parse DSN: %w", err)
	}
	for k, v := range value.SessionSettings() {
		cfg.RuntimeParams[k] = v
	}
	cfg.RuntimeParams["replication"] = "database"
	// Nothing is reported, and the server must not miss it. Not 0: once half of this has passed since the last
	// report, it looks for one after each message.
	cfg.RuntimeParams["wal_sender_timeout"] = "1h"
	started := time.Now()
	conn, err := pgconn.ConnectConfig(ctx, cfg)
	if err != nil {
		return report{}, fmt.Errorf("open replication connection: %w", err)
	}
	var args []string
	for _, o := range pluginOptions {
		args = append(args, o[0]+" '"+o[1]+"'")
	}
	err = pglogrepl.StartReplication(ctx, conn, r.Slot, 0, pglogrepl.StartReplicationOptions{
		Mode: pglogrepl.LogicalReplication, PluginArgs: args,
	})
	if err != nil {
		return report{}, errors.Join(fmt.Errorf("START_REPLICATION: %w", err), conn.Close(ctx))
	}
	stream, err := conn.Hijack()
	if err != nil {
		return report{}, fmt.Errorf("take over the connection: %w", err)
	}
	defer func() { _ = stream.Conn.Close() }()
	defer context.AfterFunc(ctx, func() { _ = stream.Conn.Close() })()

	d := router{rules: routing, tables: map[uint32]*route.Table{}}
	for {
		msg, err := stream.Frontend.Receive()
		if err != nil {
			return report{}, fmt.Errorf("replication connection: %w", err)
		}
		switch msg := msg.(type) {
		case *pgproto3.CopyData:
			if msg.Data[0] == 'w' {
				at, err := d.message(msg.Data[25:])
				if err != nil {
					return report{}, err
				}
				if uint64(at) > r.Target {
					return report{Elapsed: time.Since(started), Processes: processes(ctx, source, r.Slot)}, nil
				}
			} else if at := binary.BigEndian.Uint64(msg.Data[1:]); at > r.Target && d.routed == 0 {
				return report{}, errors.New("the slot stands behind the backlog")
			}
		case *pgproto3.ErrorResponse:
			return report{}, fmt.Errorf("replication: %w", pgconn.ErrorResponseToPgError(msg))
		}
	}
}

// router is the feed's session, without what it keeps for the log.
type router struct {
	rules   *route.Config
	decoder pgoutput.Decoder
	tables  map[uint32]*route.Table
	tx      route.Tx
	begun   change.LSN
	routed  int
}

// message routes one message of the stream. At a commit it returns its end, else 0.
func (d *router) message(data []byte) (change.LSN, error) {
	m, err := d.decoder.Decode(data)
	if err != nil {
		return 0, err
	}
	switch m.Kind {
	case pgoutput.Begin:
		d.begun = m.CommitLSN
	case pgoutput.Relation:
		rule := d.rules.Tables[m.Rel.Schema+"."+m.Rel.Name]
		d.tables[m.Rel.ID], err = route.NewTable(m.Rel, rule, value.Builtin(), value.Options{})
		return 0, err
	case pgoutput.Insert:
		d.tables[m.RelationID].Insert(&d.tx, m.New)
	case pgoutput.Commit:
		changes, _ := d.tx.Commit(1, d.begun, m.Time, "") // nothing goes to disk: there is no limit
		d.routed += len(changes)
		return m.EndLSN, nil
	case pgoutput.Update, pgoutput.Delete, pgoutput.Truncate, pgoutput.Logical, pgoutput.Origin, pgoutput.Type:
	}
	return 0, nil
}
