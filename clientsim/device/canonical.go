package device

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// maxPlainZeros bounds how long a number is written out before it gets an exponent.
const maxPlainZeros = 30

// Canonical writes a JSON document in its one form: members sorted, no white space, numbers as exact
// decimals. Two documents mean the same exactly if their canonical forms are equal; no number passes
// through a float, so 9007199254740993 and 1.10 keep their value. It fails on anything but one document.
func Canonical(doc []byte) (string, error) {
	dec := json.NewDecoder(bytes.NewReader(doc))
	dec.UseNumber()
	var v any
	if err := dec.Decode(&v); err != nil {
		return "", fmt.Errorf("canonical JSON: %w", err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return "", errors.New("canonical JSON: more than one document")
	}
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(exact(v)); err != nil {
		return "", fmt.Errorf("canonical JSON: %w", err)
	}
	return strings.TrimSuffix(out.String(), "\n"), nil
}

// exact brings every number in v to its one decimal form. Maps need nothing: encoding sorts them.
func exact(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for k, e := range v {
			v[k] = exact(e)
		}
	case []any:
		for i, e := range v {
			v[i] = exact(e)
		}
	case json.Number:
		return json.Number(decimal(string(v)))
	}
	return v
}

// decimal brings a JSON number to the form [-]digits[e±n], digits without zeros at either end; whole
// numbers get their zeros back, so that ids look like ids. An exponent beyond 31 bits stays as it is.
func decimal(s string) string {
	digits, negative := strings.CutPrefix(s, "-")
	exp := 0
	if i := strings.IndexAny(digits, "eE"); i >= 0 {
		n, err := strconv.ParseInt(digits[i+1:], 10, 32)
		if err != nil {
			return s
		}
		exp, digits = int(n), digits[:i]
	}
	whole, fraction, _ := strings.Cut(digits, ".")
	exp -= len(fraction)
	digits = strings.TrimLeft(whole+fraction, "0")
	trimmed := strings.TrimRight(digits, "0")
	if trimmed == "" {
		return "0"
	}
	exp += len(digits) - len(trimmed)
	out := trimmed
	switch {
	case exp > 0 && exp <= maxPlainZeros:
		out += strings.Repeat("0", exp)
	case exp != 0:
		out += "e" + strconv.Itoa(exp)
	}
	if negative {
		out = "-" + out
	}
	return out
}
