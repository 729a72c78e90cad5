package value

import (
	"strconv"
	"unicode/utf8"
)

// maxJSONDepth leaves room below the 10,000 levels at which encoding/json gives up, for the arrays
// and composites around a json value and the page around those.
const maxJSONDepth = 8000

// Bounds of numeric: 131,072 digits before the point, 16,383 behind it.
const (
	maxIntegerDigits  = 131072
	maxFractionDigits = 16383
)

// convertJSON serves json and jsonb. The text is kept as it is, once it is known to be JSON that jsonb
// can hold: json itself checks neither \u0000, nor lone surrogates, nor the size of numbers.
func convertJSON(dst, text []byte) ([]byte, error) {
	s := jsonScanner{text: text}
	s.space()
	if !s.value(1) {
		return dst, poison("JSON as jsonb has it", s.pos)
	}
	s.space()
	if s.pos != len(text) {
		return dst, poison("JSON as jsonb has it", s.pos)
	}
	return append(dst, text...), nil
}

type jsonScanner struct {
	text []byte
	pos  int
}

func (s *jsonScanner) space() {
	for s.pos < len(s.text) {
		switch s.text[s.pos] {
		case ' ', '\t', '\n', '\r':
			s.pos++
		default:
			return
		}
	}
}

func (s *jsonScanner) next(c byte) bool {
	if s.pos < len(s.text) && s.text[s.pos] == c {
		s.pos++
		return true
	}
	return false
}

func (s *jsonScanner) value(depth int) bool {
	if s.pos == len(s.text) {
		return false
	}
	switch s.text[s.pos] {
	case '{':
		return depth <= maxJSONDepth && s.members('}', depth)
	case '[':
		return depth <= maxJSONDepth && s.members(']', depth)
	case '"':
		return s.string()
	case 't':
		return s.word("true")
	case 'f':
		return s.word("false")
	case 'n':
		return s.word("null")
	}
	return s.number()
}

// members reads an object or array, whichever end closes.
func (s *jsonScanner) members(end byte, depth int) bool {
	s.pos++
	s.space()
	if s.next(end) {
		return true
	}
	for {
		if end == '}' {
			if !s.string() {
				return false
			}
			s.space()
			if !s.next(':') {
				return false
			}
			s.space()
		}
		if !s.value(depth + 1) {
			return false
		}
		s.space()
		if s.next(end) {
			return true
		}
		if !s.next(',') {
			return false
		}
		s.space()
	}
}

func (s *jsonScanner) word(w string) bool {
	if len(s.text)-s.pos < len(w) || string(s.text[s.pos:s.pos+len(w)]) != w {
		return false
	}
	s.pos += len(w)
	return true
}

func (s *jsonScanner) string() bool {
	if !s.next('"') {
		return false
	}
	for {
		s.pos += plainPrefix(s.text[s.pos:])
		if s.pos == len(s.text) {
			return false
		}
		switch c := s.text[s.pos]; {
		case c == '"':
			s.pos++
			return true
		case c == '\\':
			if !s.escape() {
				return false
			}
		case c >= utf8.RuneSelf:
			r, size := utf8.DecodeRune(s.text[s.pos:])
			if r == utf8.RuneError && size == 1 {
				return false
			}
			s.pos += size
		default: // a control character
			return false
		}
	}
}

func (s *jsonScanner) escape() bool {
	if s.pos+1 == len(s.text) {
		return false
	}
	switch s.text[s.pos+1] {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		s.pos += 2
		return true
	case 'u':
		u, ok := s.unit()
		switch {
		case !ok || u == 0 || u >= 0xDC00 && u < 0xE000:
			return false
		case u >= 0xD800 && u < 0xDC00:
			low, ok := s.unit()
			return ok && low >= 0xDC00 && low < 0xE000
		}
		return true
	}
	return false
}

// unit reads one UTF-16 code unit, \uXXXX.
func (s *jsonScanner) unit() (uint64, bool) {
	if len(s.text)-s.pos < 6 || s.text[s.pos] != '\\' || s.text[s.pos+1] != 'u' {
		return 0, false
	}
	var u uint64
	for _, c := range s.text[s.pos+2 : s.pos+6] {
		switch {
		case isDigit(c):
			u = u<<4 | uint64(c-'0')
		case isHex(c):
			u = u<<4 | uint64(c|0x20-'a'+10)
		default:
			return 0, false
		}
	}
	s.pos += 6
	return u, true
}

func (s *jsonScanner) number() bool {
	n := numberLen(s.text[s.pos:])
	if n == 0 || !fitsNumeric(s.text[s.pos:s.pos+n]) {
		return false
	}
	s.pos += n
	return true
}

// fitsNumeric reports whether numeric can hold a JSON number.
func fitsNumeric(number []byte) bool {
	if number[0] == '-' {
		number = number[1:]
	}
	whole := digitsLen(number)
	rest := number[whole:]
	fraction := 0
	if len(rest) > 0 && rest[0] == '.' {
		fraction = digitsLen(rest[1:])
		rest = rest[1+fraction:]
	}
	if len(rest) == 0 && len(number) <= maxFractionDigits {
		return true
	}
	exponent := 0
	if len(rest) > 0 {
		var err error
		// Postgres's own bound, INT_MAX/2, comes before any other, also for zero.
		if exponent, err = strconv.Atoi(string(rest[1:])); err != nil || exponent >= 1<<30-1 || exponent <= -(1<<30-1) {
			return false
		}
	}
	if fraction-exponent > maxFractionDigits {
		return false
	}
	// Digits before the point once the exponent is applied, from the first one that is not 0.
	digits := whole + exponent
	for _, c := range number[:len(number)-len(rest)] {
		switch c {
		case '.':
		case '0':
			digits--
		default:
			return digits <= maxIntegerDigits
		}
	}
	return true // zero
}
