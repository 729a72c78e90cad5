package value

import "bytes"

// convertHstore serves what hstore_out prints: "a"=>"1", "b"=>NULL. As hstore's cast to json, which
// to_jsonb calls, it becomes an object of strings and nulls.
func convertHstore(dst, text []byte) ([]byte, error) {
	out := append(dst, '{')
	rest := text
	var ok bool
	bad := func() ([]byte, error) { return dst, poison("an hstore", len(text)-len(rest)) }
	for len(rest) > 0 {
		if len(rest) < len(text) {
			if rest, ok = bytes.CutPrefix(rest, []byte(", ")); !ok {
				return bad()
			}
			out = append(out, ',')
		}
		if out, rest, ok = appendHstoreString(out, rest); !ok {
			return bad()
		}
		if rest, ok = bytes.CutPrefix(rest, []byte("=>")); !ok {
			return bad()
		}
		out = append(out, ':')
		if after, null := bytes.CutPrefix(rest, []byte("NULL")); null {
			out, rest = append(out, "null"...), after
			continue
		}
		if out, rest, ok = appendHstoreString(out, rest); !ok {
			return bad()
		}
	}
	return append(out, '}'), nil
}

// appendHstoreString converts the quoted string that text starts with and gives what follows it.
func appendHstoreString(dst, text []byte) (out, rest []byte, ok bool) {
	if len(text) == 0 || text[0] != '"' {
		return dst, text, false
	}
	mark := len(dst)
	for i := 1; i < len(text); i++ {
		c := text[i]
		switch c {
		case '"':
			out, err := convertTail(dst, mark, convertText)
			return out, text[i+1:], err == nil
		case '\\':
			i++
			if i == len(text) {
				return dst, text, false
			}
			c = text[i]
		}
		dst = append(dst, c)
	}
	return dst, text, false
}
