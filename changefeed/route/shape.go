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
	OID     uint32       `json:"oid,omitempty"`
	Columns string       `json:"columns,omitempty"` // Signature of the relation
	Types   *value.Types `json:"types,omitempty"`   // of the columns that are not built in; nil: there are none
	// Member is the OID of the table's entry in the publication: what was written while it had none, or
	// before it had this one, never streams (P13, P14). 0: it has none, or the publication names no tables.
	Member uint32 `json:"member,omitempty"`
	// Parts are all partitions below the table, by OID.
	Parts map[uint32]Part `json:"parts,omitempty"`
	// Uneven: a partition's replica identity is not the table's, which the stream hides (P12).
	Uneven bool `json:"uneven,omitempty"`
	// Truncated is the transaction that the stream last showed to truncate the table: the new files that it
	// gave the partitions are no news.
	Truncated uint32 `json:"truncated,omitempty"`
}

// Part is one partition, at any level.
type Part struct {
	Attached uint32 `json:"attached"`       // the transaction that did it
	File     uint32 `json:"file,omitempty"` // a TRUNCATE of the partition alone, which does not stream, makes a new one
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

// Table compiles a rule for a relation of this shape. ErrUnknownType: the relation is newer than the shape.
func (s *Shape) Table(rel *pgoutput.Rel, rule Rule, opt value.Options) (*Table, error) {
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

// Sight is a table's shape as somebody saw it in the catalog, told to the feed at a place in the WAL.
type Sight struct {
	Table string `json:"table"`
	Shape Shape  `json:"shape"`
	// Empty are the partitions that were seen to hold nothing.
	Empty []uint32 `json:"empty,omitempty"`
	// Writers are the transactions that last changed the definition of each partition: that which truncated
	// it, if it was truncated.
	Writers map[uint32]uint32 `json:"writers,omitempty"`
}

// News says, for people, why what devices hold of the table is not what it has any more; "" if it is. It
// is a function of the old shape and the sight alone (I3).
func (s *Sight) News(old *Shape) string {
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
		// What is new and empty is in no old shape.
		if was, known := old.Parts[id]; known && was.Attached == part.Attached && was.File != part.File &&
			(old.Truncated == 0 || s.Writers[id] != old.Truncated) {
			return "a partition was truncated or rewritten"
		}
	}
	return ""
}

// Moved reports whether rows came to the table or left it with a partition.
func (s *Sight) Moved(old *Shape) bool {
	for id, part := range s.Shape.Parts {
		if was, known := old.Parts[id]; (!known || was.Attached != part.Attached) && !slices.Contains(s.Empty, id) {
			return true
		}
	}
	for id := range old.Parts {
		if _, still := s.Shape.Parts[id]; !still {
			return true
		}
	}
	return false
}

// Joined reports whether the table is newly in the publication: what older transactions write to it,
// which are still open, never streams (P13).
func (s *Sight) Joined(old *Shape) bool { return s.Shape.Member != 0 && s.Shape.Member != old.Member }
