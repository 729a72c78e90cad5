package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime/pprof"
	"strconv"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/nudgesync/nudge/changefeed/route"
	"github.com/nudgesync/nudge/changefeed/value"
)

// begin is the run that only begins a feed's first epoch.
const begin = "begin"

// pluginOptions are the feed's, for all runs.
var pluginOptions = [][2]string{{"proto_version", "1"}, {"publication_names", publication}, {"messages", "true"}}

// run is what a child process is to do.
type run struct {
	What   string // begin, durable or decode
	DSN    string
	Slot   string
	Target uint64 // LSN up to which it must come
}

// child runs this program again, so that each run's memory and garbage are its own.
func child(ctx context.Context, r run, profile string) (report, error) {
	self, err := os.Executable()
	if err != nil {
		return report{}, err
	}
	cmd := exec.CommandContext(ctx, self, "-run", r.What, "-dsn", r.DSN, "-slot", r.Slot,
		"-target", strconv.FormatUint(r.Target, 10), "-cpuprofile", profile)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, os.Stderr
	if err := cmd.Run(); err != nil {
		return report{}, fmt.Errorf("run %s: %w", r.What, err)
	}
	var rep report
	if err := json.Unmarshal(out.Bytes(), &rep); err != nil {
		return report{}, fmt.Errorf("run %s: %w", r.What, err)
	}
	return rep, nil
}

// child is what the child process does.
func (r run) child(ctx context.Context, profile string, out io.Writer) (err error) {
	source, err := pool(ctx, r.DSN, "bench source")
	if err != nil {
		return err
	}
	defer source.Close()
	catalog, err := route.Catalog(ctx, source, []string{"public.intakes"})
	if err != nil {
		return err
	}
	routing, err := route.Resolve(map[string]route.Spec{"public.intakes": {Owner: "user_id"}}, catalog, false)
	if err != nil {
		return err
	}
	if profile != "" {
		f, err := os.Create(profile)
		if err != nil {
			return fmt.Errorf("profile: %w", err)
		}
		defer func() { err = errors.Join(err, f.Close()) }()
		if err := pprof.StartCPUProfile(f); err != nil {
			return fmt.Errorf("profile: %w", err)
		}
		defer pprof.StopCPUProfile()
	}
	var rep report
	switch r.What {
	case begin, durable:
		rep, err = r.feed(ctx, source, routing)
	case decodeOnly:
		rep, err = r.decode(ctx, source, routing)
	default:
		err = fmt.Errorf("nothing is called %q", r.What)
	}
	if err != nil {
		return err
	}
	return json.NewEncoder(out).Encode(rep)
}

// pool opens connections as the server does. Their name tells whose backends they are.
func pool(ctx context.Context, dsn, name string) (*pgxpool.Pool, error) {
	cfg, err := pgxpool.ParseConfig(dsn)
	if err != nil {
		return nil, fmt.Errorf("parse DSN: %w", err)
	}
	for k, v := range value.SessionSettings() {
		cfg.ConnConfig.RuntimeParams[k] = v
	}
	cfg.ConnConfig.RuntimeParams["application_name"] = name
	p, err := pgxpool.NewWithConfig(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	return p, nil
}
