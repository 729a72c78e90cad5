//go:build !linux

package main

import "syscall"

// controlListener does nothing: keepalives alone find a client that vanished.
func controlListener(_, _ string, _ syscall.RawConn) error { return nil }
