package dev

import (
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// EnsureKey makes an HS256 key at path, readable by its owner alone, unless a file is there. It is
// text, so that nobody who reads the file has to ask about encodings.
func EnsureKey(path string) error {
	return ensure(path, rand.Text()+rand.Text()) // 260 bits
}

// EnsureDeviceKey makes a key that seals the push targets of devices, likewise.
func EnsureDeviceKey(path string) error {
	var key [32]byte
	_, _ = rand.Read(key[:]) // it never fails
	return ensure(path, base64.StdEncoding.EncodeToString(key[:]))
}

func ensure(path, key string) error {
	// Others may pass: Postgres, run by another user, keeps its files below.
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("make a key: %w", err)
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("make a key: %w", err)
	}
	_, err = f.WriteString(key + "\n")
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("make a key: %w", errors.Join(err, os.Remove(path)))
	}
	return nil
}
