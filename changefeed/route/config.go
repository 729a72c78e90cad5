package route

import (
	"encoding/json"
	"fmt"
	"hash/fnv"
	"slices"
)

// Config is the routing configuration: what the operator said, completed from the catalog. It is
// stored beside the log, so that a log and the configuration that made it are never told apart.
type Config struct {
	Tables map[string]Rule `json:"tables"` // by "schema.name"
	// WideNumbersAsStrings turns int8 and numeric into JSON strings (values.wide_numbers).
	WideNumbersAsStrings bool `json:"wide_numbers_as_strings,omitempty"`
}

// Rule is how one table is routed.
type Rule struct {
	Owner string   `json:"owner"`           // the column that names the owner
	Key   []string `json:"key"`             // the primary key's columns, in key order
	Allow []string `json:"allow,omitempty"` // only these columns leave the database; empty: all
	Deny  []string `json:"deny,omitempty"`  // these never do; a table without one of them is not served
}

// Hidden reports whether a column stays in the database. Key columns always travel.
func (r *Rule) Hidden(column string) bool {
	if slices.Contains(r.Key, column) {
		return false
	}
	return slices.Contains(r.Deny, column) || len(r.Allow) > 0 && !slices.Contains(r.Allow, column)
}

// Encode is the configuration's stored form: the same bytes for equal configurations.
func (c *Config) Encode() []byte {
	b, err := json.Marshal(c) // sorts the map's keys
	if err != nil {
		panic(fmt.Sprintf("route: encode configuration: %v", err)) // strings only: can't happen
	}
	return b
}

// Decode reads Encode's result.
func Decode(b []byte) (*Config, error) {
	var c Config
	if err := json.Unmarshal(b, &c); err != nil {
		return nil, fmt.Errorf("read stored routing configuration: %w", err)
	}
	return &c, nil
}

// Hash identifies the configuration in cursors and frames.
func (c *Config) Hash() uint64 {
	h := fnv.New64a()
	_, _ = h.Write(c.Encode()) // never fails
	return h.Sum64()
}

// Names are the tables' names, sorted.
func (c *Config) Names() []string {
	names := make([]string, 0, len(c.Tables))
	for n := range c.Tables {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}

// Changed names, in order, the tables that are not routed, rendered and shown to devices under next as they
// are under c: those that are in one of the two alone, and those whose rule differs. all: every table is,
// by a rendering of values that they share.
func (c *Config) Changed(next *Config) (tables []string, all bool) {
	for name, rule := range c.Tables {
		if other, ok := next.Tables[name]; !ok || !rule.equal(&other) {
			tables = append(tables, name)
		}
	}
	for name := range next.Tables {
		if _, ok := c.Tables[name]; !ok {
			tables = append(tables, name)
		}
	}
	slices.Sort(tables)
	return tables, c.WideNumbersAsStrings != next.WideNumbersAsStrings
}

func (r *Rule) equal(o *Rule) bool {
	return r.Owner == o.Owner && slices.Equal(r.Key, o.Key) && slices.Equal(r.Allow, o.Allow) && slices.Equal(r.Deny, o.Deny)
}
