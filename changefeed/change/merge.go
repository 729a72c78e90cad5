package change

import "bytes"

// MergeRow returns the JSON object base with the members of patch put over it, members in base's order
// and new ones after them. Both must be objects as the feed writes them; anything else yields patch.
func MergeRow(base, patch []byte) []byte {
	over := make(map[string][]byte)
	var order []string
	ok := members(patch, func(name, value []byte) {
		if _, twice := over[string(name)]; !twice {
			order = append(order, string(name))
		}
		over[string(name)] = value
	})
	if !ok {
		return patch
	}
	out := append(make([]byte, 0, len(base)+len(patch)), '{')
	put := func(name string, value []byte) {
		if len(out) > 1 {
			out = append(out, ',')
		}
		out = append(append(append(out, name...), ':'), value...)
	}
	ok = members(base, func(name, value []byte) {
		if v, found := over[string(name)]; found {
			value = v
			delete(over, string(name))
		}
		put(string(name), value)
	})
	if !ok {
		return patch
	}
	for _, name := range order {
		if v, left := over[name]; left {
			put(name, v)
		}
	}
	return append(out, '}')
}

// members calls fn for each member of a JSON object, names with their quotes. It reports whether obj was
// an object as far as it looked: values are skipped over, not validated.
func members(obj []byte, fn func(name, value []byte)) bool {
	rest := bytes.TrimSpace(obj)
	if len(rest) < 2 || rest[0] != '{' || rest[len(rest)-1] != '}' {
		return false
	}
	rest = bytes.TrimSpace(rest[1 : len(rest)-1])
	for len(rest) > 0 {
		n := skipString(rest)
		if n == 0 {
			return false
		}
		name := rest[:n]
		rest = bytes.TrimSpace(rest[n:])
		if len(rest) == 0 || rest[0] != ':' {
			return false
		}
		rest = bytes.TrimSpace(rest[1:])
		n = skipValue(rest)
		if n == 0 {
			return false
		}
		fn(name, bytes.TrimSpace(rest[:n]))
		rest = rest[n:]
		if len(rest) > 0 {
			rest = bytes.TrimSpace(rest[1:]) // the comma that skipValue stopped at
			if len(rest) == 0 {
				return false
			}
		}
	}
	return true
}

// skipString returns the length of the JSON string that b begins with, 0 if there is none.
func skipString(b []byte) int {
	if len(b) == 0 || b[0] != '"' {
		return 0
	}
	for i := 1; i < len(b); i++ {
		switch b[i] {
		case '\\':
			i++
		case '"':
			return i + 1
		}
	}
	return 0
}

// skipValue returns the length up to the comma that ends the value b begins with, or all of b; 0 if
// brackets do not close.
func skipValue(b []byte) int {
	depth := 0
	for i := 0; i < len(b); i++ {
		switch b[i] {
		case '"':
			n := skipString(b[i:])
			if n == 0 {
				return 0
			}
			i += n - 1
		case '{', '[':
			depth++
		case '}', ']':
			depth--
			if depth < 0 {
				return 0
			}
		case ',':
			if depth == 0 {
				return i
			}
		}
	}
	if depth != 0 {
		return 0
	}
	return len(b)
}
