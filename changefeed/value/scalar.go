package value

func convertBool(dst, text []byte) ([]byte, error) {
	if len(text) == 1 {
		switch text[0] {
		case 't':
			return append(dst, "true"...), nil
		case 'f':
			return append(dst, "false"...), nil
		}
	}
	return dst, poison("a boolean", 0)
}

func convertInt(dst, text []byte) ([]byte, error) {
	if n := integerLen(text); n == 0 || n != len(text) {
		return dst, poison("an integer", n)
	}
	return append(dst, text...), nil
}

func convertIntQuoted(dst, text []byte) ([]byte, error) {
	if n := integerLen(text); n == 0 || n != len(text) {
		return dst, poison("an integer", n)
	}
	return appendQuoted(dst, text), nil
}

// convertNumber serves numeric and floats: what they print is a JSON number, or one of three words.
func convertNumber(dst, text []byte) ([]byte, error) {
	if n := numberLen(text); n > 0 && n == len(text) {
		return append(dst, text...), nil
	}
	return convertNotFinite(dst, text)
}

func convertNumberQuoted(dst, text []byte) ([]byte, error) {
	if n := numberLen(text); n > 0 && n == len(text) {
		return appendQuoted(dst, text), nil
	}
	return convertNotFinite(dst, text)
}

func convertNotFinite(dst, text []byte) ([]byte, error) {
	switch string(text) {
	case "NaN", "Infinity", "-Infinity":
		return appendQuoted(dst, text), nil
	}
	return dst, poison("a number", numberLen(text))
}

func convertBytea(dst, text []byte) ([]byte, error) {
	if len(text) < 2 || len(text)%2 != 0 || text[0] != '\\' || text[1] != 'x' {
		return dst, poison("hexadecimal bytes", 0)
	}
	for i, c := range text[2:] {
		if !isHex(c) {
			return dst, poison("hexadecimal bytes", i+2)
		}
	}
	dst = append(dst, '"', '\\')
	dst = append(dst, text...)
	return append(dst, '"'), nil
}

// appendQuoted is for text that is known to need no escape.
func appendQuoted(dst, text []byte) []byte {
	dst = append(dst, '"')
	dst = append(dst, text...)
	return append(dst, '"')
}

// integerLen is the length of the JSON integer that s starts with, 0 if there is none.
func integerLen(s []byte) int {
	i := 0
	if i < len(s) && s[i] == '-' {
		i++
	}
	if i < len(s) && s[i] == '0' {
		return i + 1
	}
	n := digitsLen(s[i:])
	if n == 0 {
		return 0
	}
	return i + n
}

// numberLen is the length of the JSON number (RFC 8259 section 6) that s starts with, 0 if there is
// none.
func numberLen(s []byte) int {
	i := integerLen(s)
	if i == 0 {
		return 0
	}
	if i < len(s) && s[i] == '.' {
		n := digitsLen(s[i+1:])
		if n == 0 {
			return 0
		}
		i += 1 + n
	}
	if i < len(s) && (s[i] == 'e' || s[i] == 'E') {
		i++
		if i < len(s) && (s[i] == '+' || s[i] == '-') {
			i++
		}
		n := digitsLen(s[i:])
		if n == 0 {
			return 0
		}
		i += n
	}
	return i
}

func digitsLen(s []byte) int {
	for i, c := range s {
		if !isDigit(c) {
			return i
		}
	}
	return len(s)
}

func isDigit(c byte) bool { return c-'0' < 10 }

func isHex(c byte) bool { return isDigit(c) || (c|0x20)-'a' < 6 }
