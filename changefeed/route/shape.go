package route

import (
	"encoding/json"
	"fmt"
	"slices"

	"github.com/nudgesync/nudge/changefeed/pgoutput"
	"github.com/nudgesync/nudge/changefeed/value"
)

// Shape is what a table's rows depend on beside the rows themselves, and the WAL does not tell, or not
// always. The log keeps the one in force, table by table; a Sight in the WAL replaces it. The zero Shape is
// that of a table that does not exist.
type Shape struct {
	OID     uint32 `json:"oid,omitempty"`
	Columns string `json:"columns,omitempty"` // Signature of the relation
	// Places are the columns' numbers in the catalog, in their order: a column that is dropped and made again under
	// its name has another one. The stream does not have them.
	Places []int16      `json:"places,omitempty"`
	Types  *value.Types `json:"types,omitempty"` // of the columns that are not built in; nil: there are none
	// Key are the primary key's columns, in key order, empty if it has none; nil: nobody has looked. The stream
	// does not have it.
	Key []string `json:"key,omitzero"`
	// Unsent are the columns that the table has and the stream does not: generated ones, or not in the publication's
	// list.
	Unsent []string `json:"unsent,omitempty"`
	// Member is the OID of the table's entry in the publication: what was written while it had none, or
	// before it had this one, never streams (P13, P14). 0: it has none, or the publication names no tables.
	Member uint32 `json:"member,omitempty"`
	// Parts are all partitions below the table, by OID; a table that is none of partitions is its own.
	Parts map[uint32]Part `json:"parts,omitempty"`
	// Uneven: a partition's replica identity is not the table's, which the stream hides (P12).
	Uneven bool `json:"uneven,omitempty"`
	// Truncated is the transaction that the stream last showed to truncate the table: the new files that it
	// gave its parts are no news.
	Truncated uint32 `json:"truncated,omitempty"`
}

// Part is one partition, at any level, or a whole plain table.
type Part struct {
	Attached uint32 `json:"attached"` // the transaction that did it; 0 for a plain table
	// File holds the rows. What writes them all anew makes another one, and does not stream: an ALTER TABLE that
	// computes them, or a TRUNCATE of the partition alone.
	File uint32 `json:"file,omitempty"`
}

// Encode is the shape's stored form: the same text for equal shapes.
func (s *Shape) Encode() string {
	b, err := json.Marshal(s) // sorts the keys of maps
	if err != nil {
		panic(fmt.Sprintf("route: encode shape: %v", err)) // strings and numbers only: can't happen
	}
	return string(b)
}

// DecodeShape reads Encode's result.
func DecodeShape(text string) (Shape, error) {
	var s Shape
	if err := json.Unmarshal([]byte(text), &s); err != nil {
		return s, fmt.Errorf("read a stored shape: %w", err)
	}
	return s, nil
}

// Table compiles a rule for a relation of this shape. ErrUnknownType: the relation is newer than the shape. A column
// that is denied and nowhere is ErrShape: it may be there under another name (I10). So is another primary key
// than the rule's: by the rule's, two rows may be the same.
func (s *Shape) Table(rel *pgoutput.Rel, rule Rule, opt value.Options) (*Table, error) {
	for _, name := range rule.Deny {
		sent := slices.ContainsFunc(rel.Columns, func(c pgoutput.Column) bool { return c.Name == name })
		if !sent && !slices.Contains(s.Unsent, name) {
			return nil, fmt.Errorf("%w: %s.%s has no column %q, which is denied", ErrShape, rel.Schema, rel.Name, name)
		}
	}
	if s.Key != nil && !slices.Equal(s.Key, rule.Key) {
		return nil, fmt.Errorf("%w: %s.%s has the primary key %q and was configured with %q: restart every node", ErrShape, rel.Schema, rel.Name, s.Key, rule.Key)
	}
	for _, c := range rel.Columns {
		if !s.types().Known(c.Type) {
			return nil, ErrUnknownType
		}
	}
	t, err := NewTable(rel, rule, s.types(), opt)
	if err == nil {
		t.uneven = s.Uneven
	}
	return t, err
}

// types are what the shape knows of the types of its columns.
func (s *Shape) types() *value.Types {
	if s.Types == nil {
		return value.Builtin()
	}
	return s.Types
}

// ReadsAs reports whether rows of a table of this shape are the same JSON as under other, from the same columns of
// the same table, and told apart by the same key.
func (s *Shape) ReadsAs(other *Shape) bool {
	return s.OID == other.OID && s.Columns == other.Columns && slices.Equal(s.Unsent, other.Unsent) && slices.Equal(s.Key, other.Key) &&
		s.types().Extends(other.types()) && other.types().Extends(s.types())
}

// Sight is a table's shape as somebody saw it in the catalog, told to the feed at a place in the WAL.
type Sight struct {
	Table string `json:"table"`
	Shape Shape  `json:"shape"`
	// Empty are the partitions that were seen to hold nothing.
	Empty []uint32 `json:"empty,omitempty"`
	// Writers are the transactions that last changed the definition of each part, and nothing of its columns:
	// that which truncated it, if it was truncated.
	Writers map[uint32]uint32 `json:"writers,omitempty"`
}

// News says, for people, why what devices hold of the table under a rule is not what it has any more; "" if it is.
// It is a function of the old shape, the sight and the rule alone (I3).
func (s *Sight) News(old *Shape, rule Rule) string {
	is := &s.Shape
	switch {
	case is.OID == 0 && old.OID == 0:
		return ""
	case is.OID == 0:
		return "the table is gone"
	case is.OID != old.OID:
		return "the table is another one"
	case is.Columns != old.Columns:
		return "its columns changed"
	case slices.ContainsFunc(rule.Deny, func(c string) bool { return slices.Contains(is.Unsent, c) != slices.Contains(old.Unsent, c) }):
		return "a denied column came or went"
	case is.Key != nil && !slices.Equal(is.Key, old.keyOr(rule.Key)):
		return "its primary key is another one"
	case replaced(old.Places, is.Places):
		return "one of its columns was replaced"
	case !is.types().Extends(old.types()):
		return "a type of its columns changed"
	case is.Member != old.Member:
		return "it left or joined the publication"
	case is.Uneven != old.Uneven:
		return "a partition has another replica identity"
	}
	if s.Moved(old) {
		return "a partition was attached with rows, or detached"
	}
	for id, part := range is.Parts {
		// A partition that is new and empty is in no old shape.
		if was, known := old.Parts[id]; (known || id == is.OID) && was.Attached == part.Attached && was.File != part.File &&
			(old.Truncated == 0 || s.Writers[id] != old.Truncated) {
			return "it, or a partition of it, was truncated or rewritten"
		}
	}
	return ""
}

// keyOr is the primary key, or what it is taken for if nobody has looked.
func (s *Shape) keyOr(taken []string) []string {
	if s.Key == nil {
		return taken
	}
	return s.Key
}

// replaced reports whether a column may be another one than it was, where all have the names and types that are
// known. Those may be known from the stream, and newer than the places: that some columns went, or some came
// and none of them was replaced since, is no news then.
func replaced(old, is []int16) bool {
	if len(is) == 0 || slices.Equal(old, is) {
		return false
	}
	went := slices.ContainsFunc(old, func(n int16) bool { return !slices.Contains(is, n) })
	came := slices.DeleteFunc(slices.Clone(is), func(n int16) bool { return slices.Contains(old, n) })
	if len(came) == 0 {
		return false
	}
	// Numbers are never used again.
	last := int16(0)
	if len(old) > 0 {
		last = slices.Max(old)
	}
	return went || slices.Max(came) != last+int16(len(came))
}

// Moved reports whether rows came to the table or left it with a partition.
func (s *Sight) Moved(old *Shape) bool {
	for id, part := range s.Shape.Parts {
		if id == s.Shape.OID {
			continue
		}
		if was, known := old.Parts[id]; (!known || was.Attached != part.Attached) && !slices.Contains(s.Empty, id) {
			return true
		}
	}
	for id := range old.Parts {
		if _, still := s.Shape.Parts[id]; !still && id != old.OID {
			return true
		}
	}
	return false
}

// Joined reports whether the table is newly in the publication: what older transactions write to it,
// which are still open, never streams (P13).
func (s *Sight) Joined(old *Shape) bool { return s.Shape.Member != 0 && s.Shape.Member != old.Member }
