package config

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Bytes is a size. In nudge.yaml it is a number of bytes, or one with a unit: KiB, MiB or GiB.
type Bytes int64

// String is the shortest exact form.
func (b Bytes) String() string {
	for _, u := range byteUnits() {
		if b != 0 && b%u.size == 0 {
			return strconv.FormatInt(int64(b/u.size), 10) + u.name
		}
	}
	return strconv.FormatInt(int64(b), 10)
}

// MarshalText is String.
func (b Bytes) MarshalText() ([]byte, error) { return []byte(b.String()), nil }

func parseBytes(s string) (Bytes, error) {
	digits, size := s, Bytes(1)
	for _, u := range byteUnits() {
		if d, ok := strings.CutSuffix(s, u.name); ok {
			digits, size = strings.TrimSpace(d), u.size
			break
		}
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || n < 0 || n > math.MaxInt64/int64(size) {
		return 0, fmt.Errorf("want a size such as 1048576, 512KiB or 128MiB, not %q", s)
	}
	return Bytes(n) * size, nil
}

type byteUnit struct {
	name string
	size Bytes
}

func byteUnits() []byteUnit {
	return []byteUnit{{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}}
}
