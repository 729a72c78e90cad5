package config

import (
	"fmt"
	"strings"
)

// Code is the stable name of what is wrong with a configuration.
type Code string

// Every code of an Error.
const (
	Unreadable  Code = "config_unreadable"   // a file can't be read
	Syntax      Code = "config_syntax"       // the file is not YAML
	UnknownKey  Code = "config_unknown_key"  // there is no such key
	Invalid     Code = "config_invalid"      // the value can't be
	Missing     Code = "config_missing"      // a value is needed
	Unsupported Code = "config_unsupported"  // this version can't do that
	SecretTwice Code = "config_secret_twice" // a secret and its file, both set
)

// Codes lists every code, for documentation and its test.
func Codes() []Code {
	return []Code{Unreadable, Syntax, UnknownKey, Invalid, Missing, Unsupported, SecretTwice}
}

// Error is one defect of a configuration. It never holds a secret.
type Error struct {
	Code    Code
	File    string // "" if the value is not from a file
	Line    int    // from 1; 0 without a place
	Column  int    // from 1, in characters
	Key     string // path of the key: source.dsn
	Message string
	Hint    string // what to do, "" if the message says it
	Excerpt string // the offending line and a mark below it, "" without a place
}

// Error is "code: file:line:column: message".
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(string(e.Code))
	b.WriteString(": ")
	if e.File != "" {
		b.WriteString(e.File)
		if e.Line > 0 {
			fmt.Fprintf(&b, ":%d:%d", e.Line, e.Column)
		}
		b.WriteString(": ")
	}
	b.WriteString(e.Message)
	return b.String()
}

// Warning is something that is allowed and probably not meant.
type Warning struct {
	Code    string // config_unknown_variable, config_admin_exposed or config_token_of_others
	Key     string
	Message string
	Hint    string
}
