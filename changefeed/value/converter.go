// Package value turns values as Postgres prints them into JSON. It is the one converter of the
// system: the change feed uses it on pgoutput's text, snapshots use it on query results in text
// format, so both say the same of the same value. What it says is what to_jsonb says, on a
// connection opened with [SessionSettings] (P18, P19); numbers are compared by value, so 1.50 stays
// 1.50 and 1e+300 keeps its exponent.
//
// A value that to_jsonb refuses, or whose text is not what its type prints, is an error that wraps
// [ErrPoison]: the caller puts [AppendPoison] in its place and goes on. Refused are, inside json
// values, \u0000, a lone surrogate and a number beyond numeric's range.
//
// Known exceptions, where this package and to_jsonb differ:
//
//   - json keeps its text: white space, line breaks, repeated keys (to_jsonb keeps the last) and
//     number notation. A negative zero of a float is -0, to_jsonb has 0.
//   - Text that is no valid UTF-8, as databases in SQL_ASCII can hold, is poison: JSON cannot carry it,
//     and a replacement character would come back as the user's data.
//   - json and jsonb nested deeper than 8,000 levels are poison, so that every JSON reader along the
//     way, encoding/json among them, can read the page.
//   - Strings and documents over 256 MiB, which jsonb refuses, are converted; limits are the caller's.
//   - \u escapes in json for characters that the database's encoding lacks are kept; to_jsonb fails.
//   - Types with a cast to json, which to_jsonb would call, print as text (PostGIS: hexadecimal EWKB).
//     hstore is the one whose cast is known here.
//   - reg… types (regclass and others) print names relative to the connection's search_path.
//   - An anonymous record prints as text; no table column can be one.
package value

import (
	"errors"
	"fmt"
)

// ErrPoison says that a value cannot be given as JSON of its type: see the package comment. Errors
// name type and byte offset, never the value, which is somebody's data.
var ErrPoison = errors.New("unrepresentable value")

// Converter appends the JSON of one value to dst. text is the value as Postgres prints it; NULL has
// no text and is the caller's. The only errors wrap ErrPoison, and then dst comes back with its old
// length. A Converter keeps no state and may be used by several goroutines. It does not keep text,
// which may alias dst's own bytes, but not the space behind them.
type Converter func(dst, text []byte) ([]byte, error)

// Options are the choices of PROTOCOL.md, "values".
type Options struct {
	// WideNumbersAsStrings turns int8 and numeric into JSON strings, also inside arrays and
	// composites, for clients whose JSON numbers are doubles. json and jsonb stay as they are.
	WideNumbersAsStrings bool
}

// AppendPoison appends what stands for a value that cannot be represented:
//
//	{"$nudge":"unrepresentable","text":"…"}
//
// text is the value as Postgres printed it; bytes that are no valid UTF-8 become U+FFFD.
func AppendPoison(dst, text []byte) []byte {
	dst = append(dst, `{"$nudge":"unrepresentable","text":`...)
	dst = AppendString(dst, text)
	return append(dst, '}')
}

// SessionSettings are the startup parameters that Postgres's text output depends on. Settings of a
// database or role would otherwise leak into the stream (P18). They must be set on every connection
// whose text reaches a Converter, the replication connection included.
func SessionSettings() map[string]string {
	return map[string]string{
		"DateStyle":          "ISO, YMD",
		"IntervalStyle":      "postgres",
		"extra_float_digits": "3",
		"bytea_output":       "hex",
		"TimeZone":           "UTC",
		"lc_monetary":        "C",
		"client_encoding":    "UTF8",
	}
}

// Converter resolves the converter of a type, to be called once per column. A type that t does not
// know is converted as text; see [Types.Known].
func (t *Types) Converter(oid uint32, opt Options) Converter {
	r := resolver{types: t, opt: opt, composites: map[uint32]*composite{}}
	return r.resolve(oid)
}

type resolver struct {
	types *Types
	opt   Options
	// composites are those met so far: a type used in many fields is built once.
	composites map[uint32]*composite
}

func (r *resolver) resolve(oid uint32) Converter {
	if c := r.scalar(oid); c != nil {
		return c
	}
	if elem, delim := builtinArray(oid); elem != 0 {
		return arrayConverter(r.resolve(elem), delim)
	}
	d, ok := r.types.loaded[oid]
	switch {
	case !ok:
		return convertText
	case d.base != 0:
		return r.resolve(d.base)
	case d.elem != 0:
		return arrayConverter(r.resolve(d.elem), d.delim)
	case d.isComposite:
		return r.composite(oid, d)
	case d.isHstore:
		return convertHstore
	}
	return convertText
}

func (r *resolver) composite(oid uint32, d typeDef) Converter {
	c, ok := r.composites[oid]
	if !ok {
		c = &composite{}
		r.composites[oid] = c
		for i, f := range d.fields {
			sep := byte(',')
			if i == 0 {
				sep = '{'
			}
			key := append(AppendString([]byte{sep}, []byte(f.name)), ':')
			c.fields = append(c.fields, compositeField{key: key, convert: r.resolve(f.oid)})
		}
	}
	return c.convert
}

// scalar is the converter of a built-in type that is neither a plain string nor an array, or nil.
func (r *resolver) scalar(oid uint32) Converter {
	switch oid {
	case boolOID:
		return convertBool
	case byteaOID:
		return convertBytea
	case int2OID, int4OID:
		return convertInt
	case int8OID:
		if r.opt.WideNumbersAsStrings {
			return convertIntQuoted
		}
		return convertInt
	case numericOID:
		if r.opt.WideNumbersAsStrings {
			return convertNumberQuoted
		}
		return convertNumber
	case float4OID, float8OID:
		return convertNumber
	case jsonOID, jsonbOID:
		return convertJSON
	case dateOID:
		return convertDate
	case timestampOID:
		return convertTimestamp
	case timestamptzOID:
		return convertTimestamptz
	case int2vectorOID:
		return vectorConverter(convertInt)
	case oidvectorOID:
		return vectorConverter(convertText)
	}
	return nil
}

// poison is the error for text that is not what its type prints.
func poison(kind string, offset int) error {
	return fmt.Errorf("%w: not %s at byte %d", ErrPoison, kind, offset)
}
