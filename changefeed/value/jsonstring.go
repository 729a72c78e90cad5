package value

import (
	"encoding/binary"
	"math/bits"
	"unicode/utf8"
)

// AppendString appends s as a JSON string. Bytes that are no valid UTF-8 become U+FFFD.
func AppendString(dst, s []byte) []byte {
	dst, _ = appendString(dst, s)
	return dst
}

// convertText is the converter of everything whose JSON is its text as a string.
func convertText(dst, text []byte) ([]byte, error) {
	out, valid := appendString(dst, text)
	if !valid {
		return dst, poison("UTF-8", invalidAt(text))
	}
	return out, nil
}

// appendString also reports whether s was valid UTF-8.
func appendString(dst, s []byte) ([]byte, bool) {
	const hex = "0123456789abcdef"
	valid := true
	dst = append(dst, '"')
	for {
		n := plainPrefix(s)
		for n < len(s) && s[n] >= utf8.RuneSelf {
			r, size := utf8.DecodeRune(s[n:])
			if r == utf8.RuneError && size == 1 {
				break
			}
			n += size
		}
		dst = append(dst, s[:n]...)
		s = s[n:]
		if len(s) == 0 {
			return append(dst, '"'), valid
		}
		switch c := s[0]; {
		case c == '"' || c == '\\':
			dst = append(dst, '\\', c)
		case c == '\n':
			dst = append(dst, '\\', 'n')
		case c == '\r':
			dst = append(dst, '\\', 'r')
		case c == '\t':
			dst = append(dst, '\\', 't')
		case c < 0x20:
			dst = append(dst, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		case c < utf8.RuneSelf:
			// Plain again, after characters beyond ASCII.
			continue
		default:
			valid = false
			dst = append(dst, "\uFFFD"...)
		}
		s = s[1:]
	}
}

// plainPrefix is the number of leading bytes that stand for themselves in a JSON string: ASCII, no
// control character, quote or backslash. It looks at eight bytes at a time.
func plainPrefix(s []byte) int {
	const ones, tops = 0x0101010101010101, 0x8080808080808080
	n := 0
	for ; len(s)-n >= 8; n += 8 {
		w := binary.LittleEndian.Uint64(s[n:])
		// A subtraction sets a byte's top bit if it borrows; a byte with its own top bit set is a hit
		// anyway. A borrow can reach into higher bytes only from a hit, and the lowest hit counts.
		hit := (w | (w - ones*0x20) | ((w ^ ones*'"') - ones) | ((w ^ ones*'\\') - ones)) & tops
		if hit != 0 {
			return n + bits.TrailingZeros64(hit)/8
		}
	}
	for ; n < len(s); n++ {
		if c := s[n]; c < 0x20 || c >= utf8.RuneSelf || c == '"' || c == '\\' {
			break
		}
	}
	return n
}

// invalidAt is the offset of the first byte of s that is no valid UTF-8, or len(s).
func invalidAt(s []byte) int {
	for i := 0; i < len(s); {
		r, size := utf8.DecodeRune(s[i:])
		if r == utf8.RuneError && size == 1 {
			return i
		}
		i += size
	}
	return len(s)
}
