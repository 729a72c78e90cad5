package value

import "bytes"

// composite serves what record_out prints: (1,"a, b",,"say ""x""") with one entry per attribute;
// nothing between two commas is NULL. As in to_jsonb it becomes an object in attribute order.
//
// Text with more or fewer entries than the type has attributes is poison: the type was altered after
// the value was printed, or after Load.
type composite struct {
	fields []compositeField
}

type compositeField struct {
	key     []byte // as it stands in the object: {"first": or ,"other":
	convert Converter
}

func (c *composite) convert(dst, text []byte) ([]byte, error) {
	if len(text) < 2 || text[0] != '(' || text[len(text)-1] != ')' {
		return dst, poison("a composite", 0)
	}
	if len(c.fields) == 0 {
		if len(text) > 2 {
			return dst, poison("a composite without attributes", 1)
		}
		return append(dst, '{', '}'), nil
	}
	out := dst
	pos := 1 // behind the opening parenthesis, later behind a comma
	for i := range c.fields {
		out = append(out, c.fields[i].key...)
		var n int
		var err error
		out, n, err = c.fields[i].append(out, text[pos:])
		if err != nil {
			return dst, err
		}
		pos += n
		end := byte(',')
		if i == len(c.fields)-1 {
			end = ')'
		}
		if pos == len(text) || text[pos] != end {
			return dst, poison("a composite with this many attributes", pos)
		}
		pos++
	}
	if pos != len(text) {
		return dst, poison("a composite", pos)
	}
	return append(out, '}'), nil
}

// append converts the entry that text starts with and gives the entry's length.
func (f *compositeField) append(dst, text []byte) ([]byte, int, error) {
	if text[0] == '"' {
		return f.appendQuoted(dst, text)
	}
	n := 0
	for text[n] != ',' && text[n] != ')' { // the composite's own ) ends every entry
		switch text[n] {
		case '(', '"', '\\':
			return dst, n, poison("a composite", n)
		}
		n++
	}
	if n == 0 {
		return append(dst, "null"...), 0, nil
	}
	dst, err := f.convert(dst, text[:n])
	return dst, n, err
}

// appendQuoted converts a quoted entry: a quote or backslash in it stands twice, and a backslash may
// escape any character.
func (f *compositeField) appendQuoted(dst, text []byte) ([]byte, int, error) {
	if n := bytes.IndexAny(text[1:], `"\`); n >= 0 {
		end := 1 + n
		if text[end] == '"' && (end+1 == len(text) || text[end+1] != '"') {
			dst, err := f.convert(dst, text[1:end])
			return dst, end + 1, err
		}
	}
	mark := len(dst)
	for i := 1; i < len(text); i++ {
		c := text[i]
		switch c {
		case '"':
			if i+1 == len(text) || text[i+1] != '"' {
				dst, err := convertTail(dst, mark, f.convert)
				return dst, i + 1, err
			}
			i++
		case '\\':
			i++
			if i == len(text) {
				return dst, i, poison("a composite", i)
			}
			c = text[i]
		}
		dst = append(dst, c)
	}
	return dst, len(text), poison("a composite", len(text))
}
