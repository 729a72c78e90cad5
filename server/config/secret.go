package config

import (
	"log/slog"
	"regexp"
	"strings"

	"github.com/goccy/go-yaml"
)

// Secret is a value that no log, error or dump may show. Code that needs it converts it to a string.
type Secret string

const redacted = "***"

// String is "***", or "" if there is none.
func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return redacted
}

// GoString is String: %#v shows no more than %v.
func (s Secret) GoString() string { return `"` + s.String() + `"` }

// LogValue is String.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// MarshalText is String, for any encoding.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// String is the configuration in force as YAML, secrets redacted.
func (c *Config) String() string {
	out, err := yaml.Marshal(c)
	if err != nil {
		return "config: " + err.Error()
	}
	return string(out)
}

// LogValue is String.
func (c *Config) LogValue() slog.Value { return slog.StringValue(c.String()) }

// earlierValue is the value of an entry that ends before the offending one begins, on one line.
var earlierValue = regexp.MustCompile(`(:\s+)("[^"]*"|'[^']*'|[^\s,{\[][^,}\]]*)([,}\]])`)

// excerpt shows a line up to the end of what is wrong, length characters from column (from 1), with
// a mark below. Values before it and everything after are left out: a typing error may keep us from
// knowing that they are secrets.
func excerpt(line string, column, length int) string {
	runes := []rune(strings.TrimRight(line, "\r\n"))
	start := min(max(column-1, 0), len(runes))
	end := min(start+length, len(runes))
	before := earlierValue.ReplaceAllString(string(runes[:start]), "${1}…${3}")
	after := ""
	if strings.TrimSpace(string(runes[end:])) != "" {
		after = "…"
	}
	indent := strings.Map(func(r rune) rune {
		if r == '\t' {
			return r
		}
		return ' '
	}, before)
	return before + string(runes[start:end]) + after + "\n" + indent + strings.Repeat("^", max(end-start, 1))
}
