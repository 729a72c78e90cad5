package value

import (
	"encoding/json"
	"reflect"
	"slices"
)

// storedType is a typeDef as it is kept with the log.
type storedType struct {
	Base      uint32        `json:"base,omitempty"`
	Elem      uint32        `json:"elem,omitempty"`
	Delim     byte          `json:"delim,omitempty"`
	Composite bool          `json:"composite,omitempty"`
	Hstore    bool          `json:"hstore,omitempty"`
	Fields    []storedField `json:"fields,omitempty"`
	Labels    []storedField `json:"labels,omitempty"`
}

type storedField struct {
	OID  uint32 `json:"oid"`
	Name string `json:"name"`
}

// MarshalJSON gives equal types equal bytes.
func (t *Types) MarshalJSON() ([]byte, error) {
	out := make(map[uint32]storedType, len(t.loaded))
	for oid, d := range t.loaded {
		s := storedType{Base: d.base, Elem: d.elem, Delim: d.delim, Composite: d.isComposite, Hstore: d.isHstore}
		for _, f := range d.fields {
			s.Fields = append(s.Fields, storedField{f.oid, f.name})
		}
		for _, l := range d.labels {
			s.Labels = append(s.Labels, storedField{l.oid, l.name})
		}
		out[oid] = s
	}
	return json.Marshal(out) // sorts the map's keys
}

// UnmarshalJSON reads MarshalJSON's result.
func (t *Types) UnmarshalJSON(b []byte) error {
	var in map[uint32]storedType
	if err := json.Unmarshal(b, &in); err != nil {
		return err
	}
	t.loaded = make(map[uint32]typeDef, len(in))
	for oid, s := range in {
		d := typeDef{base: s.Base, elem: s.Elem, delim: s.Delim, isComposite: s.Composite, isHstore: s.Hstore}
		for _, f := range s.Fields {
			d.fields = append(d.fields, attribute{name: f.Name, oid: f.OID})
		}
		for _, l := range s.Labels {
			d.labels = append(d.labels, label{oid: l.OID, name: l.Name})
		}
		t.loaded[oid] = d
	}
	return nil
}

// Extends reports whether a value of a type of old's is the same JSON under t: its types are what they
// were, though an enum may have gained labels.
func (t *Types) Extends(old *Types) bool {
	for oid, was := range old.loaded {
		is, ok := t.loaded[oid]
		if !ok {
			return false
		}
		for _, l := range was.labels {
			if !slices.Contains(is.labels, l) {
				return false
			}
		}
		was.labels, is.labels = nil, nil
		if !reflect.DeepEqual(was, is) {
			return false
		}
	}
	return true
}

// UserDefined reports whether a type is none that every Postgres has under the same OID.
func UserDefined(oid uint32) bool { return oid >= firstUnpinnedOID }
