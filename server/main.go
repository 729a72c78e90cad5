// Command nudge sits beside an app's Postgres, reads its write-ahead log and nudges the devices of
// whoever's data changed.
package main

import (
	"context"
	"os"
)

func main() {
	os.Exit(run(context.Background(), os.Args[1:], os.Stdin, os.Stdout, os.Stderr, os.Environ()))
}
