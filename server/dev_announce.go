package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"strconv"

	"github.com/nudgesync/nudge/server/dev"
)

// announce writes dev.json and tells the person what to do. It returns what it wrote.
func (d *devCommand) announce(psql, public, admin string) ([]byte, error) {
	page := "http://" + public
	addresses := d.providers.Addresses()
	state, err := json.MarshalIndent(devState{
		URL: page, Admin: "http://" + admin, DSN: d.source, SigningKeyFile: d.keyFile, Providers: addresses,
	}, "", "  ")
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(devStatePath(d.app), state, 0o600); err != nil {
		return nil, fail("dev_state", err, "write dev.json")
	}
	token, err := d.token(strconv.Itoa(dev.DemoUser), "", devTokenTTL)
	if err != nil {
		return nil, err
	}
	kept := "in " + d.clusterDir() + ", kept; --fresh throws it away"
	switch {
	case d.dsn != "":
		kept = "the one of --dsn"
	case d.ephemeral:
		kept = "in a temporary directory, gone at the end"
	}
	_, err = fmt.Fprintf(d.stdout, `
nudge is running. Ctrl-C stops it.

  Database   %s
  Admin      http://%s

  Pull as a device of user %d does (the token is good for %.0f hours):

TOKEN=%s
curl -H "Authorization: Bearer $TOKEN" -H "Nudge-Device: curl" %s/v1/changes

  Change a row behind its back, and watch all devices:

%s

  Or send a crowd:

go run ./clientsim run --users 200 --devices 3 --rate 200 --duration 30s

  The simulated push services, and phones to be had from them:

curl -d '{"platform":"ios","app":"%s"}' %s/phones

  The page   %s/
`, kept, admin, dev.DemoUser, devTokenTTL.Hours(), token, page, psql, dev.PocketApp, addresses.Control, page)
	return state, err
}

// withdraw removes dev.json, unless another nudge dev has put its own there.
func (d *devCommand) withdraw(state []byte) {
	path := devStatePath(d.app)
	if now, err := os.ReadFile(path); err == nil && bytes.Equal(now, state) {
		_ = os.Remove(path) // a stale one is noticed when nobody answers there
	}
}

// nextFree is addr, or addr with the next port that nobody listens on and that is not taken's. When
// all fail it is addr, and listening there says why.
func nextFree(ctx context.Context, addr, taken string) string {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return addr
	}
	first, err := strconv.Atoi(port)
	if err != nil {
		return addr
	}
	var lc net.ListenConfig
	for p := first; p < first+100; p++ {
		next := net.JoinHostPort(host, strconv.Itoa(p))
		if next == taken {
			continue
		}
		if l, err := lc.Listen(ctx, "tcp", next); err == nil {
			_ = l.Close()
			return next
		}
	}
	return addr
}
